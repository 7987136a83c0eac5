"""What Moult adds to Snakemake's planning: `python benchmarks/planning.py [--jobs 1000 10000] [--repeats 3]`.

Plans (`snakemake -n`) an experiment of so many jobs with the real Snakefile, and the same jobs with planning.smk, which
says them in plain strings; same profiles, same job table, alternating. Then, of the smaller size, with every file made
and recorded by `--touch`, asks what is left to do, beside a workflow with no jobs, and with `--before FOLDER` beside
another checkout of Moult in a copy of the same folder. Writes benchmarks/planning.csv.

Seconds are of CPU (user and system), which neighbours on a machine disturb less than the clock; the clock stands
beside them. Bytecode is cached, as it is where pip installed the packages. About ten minutes on one core.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
COLUMNS = "task jobs side cpu_s wall_s".split()
JOBS_PER_UNIT = 31
PROFILES = (("--workflow-profile", "default"), ("--profile", "local"))
SIZES = {".jsonl": 1_000_000, ".csv": 4_000, ".json": 4_000, ".svg": 20_000, ".html": 200_000}


def experiment(units):
    """Return a config of so many units: two datasets, two corpora, three adapters, a merge, five evaluations each."""
    each = list(range(units))
    files = {split: f"data/{{kind}}-{{n}}/{split}.tsv" for split in ("train", "dev", "test")}

    def dataset(kind, **settings):
        path = {split: name.replace("{kind}", kind) for split, name in files.items()}
        return {"for": {"n": each}, "name": f"{kind}-{{n}}", "files": path, **settings}

    tuned = [f"tuned-{variant}-{{n}}" for variant in "abc"]
    return {
        "name": "planning",
        "datasets": [
            dataset("questions", format="stackoverflow"),
            dataset("labels", format="mmla", labels="MELD"),
        ],
        "endpoints": [{"name": "student", "serve": "base"}],
        "corpora": [
            {
                "for": {"n": each},
                "name": "guidelines-{n}",
                "kind": "guidelines",
                "dataset": "questions-{n}",
                "endpoint": "student",
            },
            {
                "for": {"n": each},
                "name": "distilled-{n}",
                "kind": "distilled",
                "guidelines": "guidelines-{n}",
                "endpoint": "student",
            },
        ],
        "models": [
            {"name": "base", "fetch": {"path": "data/base"}, "parameters": 0.1},
            {
                "for": {"variant": ["a", "b", "c"], "n": each},
                "name": "tuned-{variant}-{n}",
                "finetune": {"base": "base", "data": ["distilled-{n}", "labels-{n}"]},
            },
            {
                "for": {"n": each},
                "name": "merged-{n}",
                "merge": {
                    "method": "ties",
                    "base": "base",
                    "parents": [{"model": one, "weight": 0.5, "density": 0.5} for one in tuned[:2]],
                },
            },
        ],
        "suites": [{"for": {"n": each}, "name": "suite-{n}", "labels": {"datasets": ["labels-{n}"]}}],
        "evaluations": [
            {"for": {"n": each}, "suite": "suite-{n}", "models": ["base", *tuned, "merged-{n}"], "against": "base"}
        ],
    }


class Side:
    """A folder with raw data, and Snakemake run in it."""

    def __init__(self, folder, snakefile, config, caches, profiles=ROOT / "profiles"):
        self.folder, self.snakefile, self.config = folder, snakefile, folder / "config.yaml"
        self.profiles = [word for option, name in PROFILES for word in (option, profiles / name)]
        folder.mkdir(exist_ok=True)
        self.config.write_text(json.dumps(config))
        # Python keeps bytecode, and Snakemake its sources, where nothing else of this machine is read or changed.
        self.environment = os.environ | {
            "PYTHONPYCACHEPREFIX": str(caches / "bytecode"),
            "XDG_CACHE_HOME": str(caches),
            "PYTHONHASHSEED": "0",
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def raw_data(self, units):
        """Write the raw files of so many units; nothing here reads them, but they must be there."""
        sys.path.insert(0, str(ROOT / "tests"))
        from pico import build_pico_model

        build_pico_model(self.folder / "data" / "base")
        for n in range(units):
            for kind in ("questions", "labels"):
                for split in ("train", "dev", "test"):
                    path = self.folder / "data" / f"{kind}-{n}" / f"{split}.tsv"
                    path.parent.mkdir(exist_ok=True)
                    path.write_text("title\tquestion_content\tid\ttext\tlabel\nwhy\thow\t1\thow\tneutral\n")

    def snakemake(self, *arguments):
        """Run Snakemake; return CPU seconds, wall seconds and what it printed."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", self.snakefile, "--configfile", self.config]
        command += self.profiles
        with open(self.folder / "printed", "w+") as printed:
            begun = time.monotonic()
            child = subprocess.Popen(
                [*map(str, command), *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            _, status, used = os.wait4(child.pid, 0)
            wall = time.monotonic() - begun
            text = (self.folder / "printed").read_text()
        if status:
            raise SystemExit(text[-4000:])
        return used.ru_utime + used.ru_stime, wall, text

    def make_everything(self):
        """Write every output as a folder or a file of a usual size."""
        _, _, text = self.snakemake("--summary")
        rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
        column = rows[0].index("output_file")
        for row in rows[1:]:
            path = self.folder / row[column]
            if path.suffix in SIZES:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(SIZES[path.suffix]))
            else:
                path.mkdir(parents=True, exist_ok=True)
                (path / "made").write_bytes(bytes(4_000))

    def write_manifests(self):
        """Write the manifest of every artefact that is there, those of its parents first."""
        os.chdir(self.folder)
        sys.path.insert(0, str(ROOT / "scripts"))
        from moult.base.stage import Local
        from moult.jobs.manifest import write_manifest
        from moult.planning.start import checked_config
        from moult.stages import STAGES

        cfg = checked_config(json.loads(self.config.read_text()), "config", print, speaks=False)
        results = Path("results", cfg.name)
        jobs = {stage.manifest(*names): (stage, names) for stage in STAGES for names in stage.names(cfg)}

        def write(path):
            stage, names = jobs.pop(path)
            inputs = [value if isinstance(value, list) else [value] for value in stage.inputs(cfg, *names).values()]
            flat = [one for value in inputs for one in value]
            local = {one.path: one.used(one.path) if one.used else ["."] for one in flat if isinstance(one, Local)}
            parents = [one for one in flat if not isinstance(one, Local)]
            for parent in [one.manifest for one in parents if one.manifest in jobs]:
                if parent in jobs:
                    write(parent)
            artefact, beside = results / stage.path(*names), results / path
            if artefact.exists():
                more = [file for file in artefact.parent.glob(f"{artefact.stem}.*") if file not in (artefact, beside)]
                write_manifest(
                    beside,
                    rule=stage.rule,
                    outputs=[artefact, *(more if artefact.suffix == ".jsonl" else [])],
                    parents=[results / one.manifest for one in parents if one.form not in ("file", "unwatched")],
                    recipe=stage.recipe(cfg, *names) if stage.recipe else {},
                    facts={},
                    used=local,
                )

        while jobs:
            write(next(iter(jobs)))


def table_of(text):
    """Return the table of jobs that a dry run prints, as {rule: count}."""
    lines = text.split("Job stats:")[1].split("\n\n")[0].splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines[3:])}


def measured(sides, repeats, *arguments):
    """Run the sides in turn, once to warm up and then `repeats` times; return (cpu, wall) medians and texts by side."""
    runs = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            runs[name].append(side.snakemake(*arguments))
    medians = {
        name: tuple(statistics.median(run[place] for run in kept[1:]) for place in (0, 1))
        for name, kept in runs.items()
    }
    return medians, {name: kept[-1][2] for name, kept in runs.items()}


def compare(jobs, made, repeats, work, before):
    """Yield the rows of one size of experiment; with `made` also those of finding nothing to do.

    before: another checkout, None for none.
    """
    units = round(jobs / JOBS_PER_UNIT)
    caches = work / "caches"
    sides = {
        "moult": Side(work / f"moult-{jobs}", ROOT / "Snakefile", experiment(units), caches),
        "bare": Side(work / f"bare-{jobs}", HERE / "planning.smk", {"units": units}, caches),
    }
    for side in sides.values():
        side.raw_data(units)
    medians, texts = measured(sides, repeats, "-n")
    tables = {name: table_of(text) for name, text in texts.items()}
    if tables["moult"] != tables["bare"]:
        raise SystemExit(f"not the same jobs: {tables}")
    planned = tables["moult"]["total"]
    yield from report("plan", planned, medians, "bare")
    if not made:
        return

    empty = Side(work / f"empty-{jobs}", work / "empty.smk", {}, caches)
    empty.snakefile.write_text('rule all:\n    default_target: True\n    input:\n        "config.yaml",\n')
    for side in sides.values():
        side.make_everything()
    sides["moult"].write_manifests()
    # Snakemake records all of it as made.
    for side in sides.values():
        side.snakemake("--touch")
    sides["empty"] = empty
    if before:
        copy = shutil.copytree(sides["moult"].folder, work / f"before-{jobs}", symlinks=True)
        sides["before"] = Side(copy, before / "Snakefile", experiment(units), caches, before / "profiles")
        sides["before"].snakemake("--touch")
    medians, texts = measured(sides, repeats, "-n")
    for name, text in texts.items():
        if "Nothing to be done" not in text:
            raise SystemExit(f"{name}: something is left to do\n{text[-4000:]}")
    yield from report("nothing to do", planned, medians, "bare")


def report(task, jobs, medians, reference):
    """Print one comparison and yield its rows."""
    for name, (cpu, wall) in medians.items():
        ratio = cpu / medians[reference][0]
        print(f"{task}, {jobs} jobs, {name}: {cpu:.2f} s CPU, {wall:.2f} s wall, {ratio:.2f} x {reference}", flush=True)
        yield {"task": task, "jobs": jobs, "side": name, "cpu_s": f"{cpu:.2f}", "wall_s": f"{wall:.2f}"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 10000], help="sizes of experiment")
    parser.add_argument("--made", type=int, nargs="*", default=[1000], help="sizes to make as well, 0.1 s a job")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side after the warm-up")
    parser.add_argument("--before", type=lambda path: Path(path).resolve(), help="another checkout to measure beside")
    parser.add_argument("--work", type=Path, help="keep the folders here (default: a temporary one)")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="planning-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        rows = [
            row
            for jobs in options.jobs
            for row in compare(jobs, jobs in options.made, options.repeats, work.resolve(), options.before)
        ]
    finally:
        if not options.work:
            shutil.rmtree(work)
    with open(HERE / "planning.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
