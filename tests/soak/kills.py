"""Kill a pico build at seeded moments, again and again, and see that the next run makes the same files.

    PYTHONPATH=scripts python tests/soak/kills.py [--builds 50] [--seed 0] [--csv tests/soak/kills.csv] [--power]

Each build starts from nothing, from the answers that the one before it was given, or from a whole build of which one
artefact and all that follows from it is gone; it is killed once with SIGKILL, and is then run again, by the same
command. What is gone, what is killed (the scheduler and all its jobs, the scheduler alone, or one job) and when is
drawn with the seed. Afterwards every manifest must be byte-equal to that of an undisturbed build, no process may be
left at work, nothing half-made may lie about, and of the questions asked at most `concurrency` may have been paid
twice. Exit status 1 and the seed if not. Takes about a minute per build.

`--power`: each kill is a power failure. Everything is killed, and what was written in the last second and is not
known to be on disk (logs, Snakemake's notes, checkpoints, locks, amounts spent, the journal's log) is gone, empty or
cut in half, as the seed draws. Answers that the journal lost with its log are paid again; beyond them `concurrency`.
"""

import argparse
import csv
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import warm  # noqa: E402
from moult.inference.journal import copy_of  # noqa: E402
from openai_server import OpenAIServer  # noqa: E402
from pico_build import Folder, write_inputs  # noqa: E402

CONCURRENCY = 2
COLUMNS = "seed begun_from killed jobs_done running lost repeats remade_s equal".split()
# Of these folders of a build, what is written last is not known to be on disk; artefacts are, before they have a name.
UNSYNCED = (".snakemake", "logs", "scratch", "journal")
# What may be gone: an artefact, and what follows from it.
FOLLOWING = {
    "datasets": ["datasets", "leakage", "corpora", "adapters", "models/advisor", "predictions", "scores", "report"],
    "corpora": ["corpora", "adapters", "models/advisor", "predictions/labels/advisor", "scores", "report"],
    "adapters": ["adapters", "models/advisor", "predictions/labels/advisor", "scores", "report"],
}


def processes_in(folder):
    """Return {process id: command line} of whatever runs with this folder as its working directory."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == folder and " Z " not in (entry / "stat").read_text():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
    return found


def jobs_in(folder):
    """Return {process id: rule} of the jobs at work: the Python processes, not the shells around them; one that has no
    lock yet is `starting`."""
    locks = folder / "scratch" / "locks"
    rules = {path.read_text().partition(" on ")[0]: path.relative_to(locks).parts[0] for path in locks.rglob("*.lock")}
    return {
        pid: rules.get(f"process {pid}", "starting")
        for pid, words in processes_in(folder).items()
        if f"process {pid}" in rules or any("/.snakemake/scripts/" in word for word in words[1:3])
    }


def share_done(log):
    """Return which part of its jobs a build has finished, by what Snakemake says of it."""
    text = log.read_text(encoding="utf-8", errors="replace")
    total = re.search(r"^total +(\d+)$", text, re.MULTILINE)
    return text.count("Finished jobid:") / int(total[1]) if total else 0.0


def kill_once(work, process, share, delay, kind, rng):
    """Kill `delay` s after a share of the jobs was finished; return what was killed and what was running."""
    while process.poll() is None and share_done(work.path / "run.log") < share:
        time.sleep(0.05)
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    running = jobs_in(work.path)
    if process.poll() is not None:
        return "nothing: it was done", {}
    if kind == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif kind == "scheduler" or not running:
        kind = "scheduler"
        process.kill()
    else:
        os.kill(rng.choice(sorted(running)), signal.SIGKILL)
    process.wait()
    return kind, running


def answers_in(work):
    """Return how many answers the journals hold."""
    count = 0
    for path in (work.path / "journal").rglob("*.sqlite"):
        with copy_of(path) as journal:
            count += journal.connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
    return count


def drop_unsynced(work, rng, since):
    """Take away what was written after `since` and is not known to be on disk; return how many answers went with it."""
    before = answers_in(work)
    for folder in UNSYNCED:
        for path in sorted((work.path / folder).rglob("*")):
            # A journal's own file is written to only when it is brought to the disk.
            if path.is_symlink() or not path.is_file() or path.suffix == ".sqlite" or path.stat().st_mtime < since:
                continue
            kept = rng.choice([None, 0, path.stat().st_size // 2])
            if kept is None:
                path.unlink()
            else:
                os.truncate(path, kept)
    return before - answers_in(work)


def smaller(config):
    """Return the config of the pico build with one chain of models: what is left out writes in no other way."""
    keep = {"corpora": {"guidelines", "distilled"}, "models": {"base", "advisor"}}
    lists = {kind: [entry for entry in config[kind] if entry["name"] in names] for kind, names in keep.items()}
    return config | lists | {"evaluations": [config["evaluations"][0] | {"models": ["base", "advisor"]}]}


def remove(work, begun_from):
    """Remove what this build does not begin with."""
    if begun_from in FOLLOWING:
        for place in FOLLOWING[begun_from]:
            for path in (work.path / "results" / work.config["name"]).glob(f"{place}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    for name in ("results", "logs", "scratch", ".snakemake", *(["journal"] if begun_from == "nothing" else [])):
        shutil.rmtree(work.path / name, ignore_errors=True)


def build_and_kill(work, server, seed, reference, power):
    """Return the CSV row of one killed build; RuntimeError if it did not end as the reference did.

    power: kill by a power failure.
    """
    rng = random.Random(seed)
    begun_from = rng.choice(["nothing", "answers", *FOLLOWING])
    remove(work, begun_from)
    asked = len(server.asked)
    # A power failure needs to know no process, so that all of them may start warm.
    process = work.start(start=warm.start) if power else work.start()
    share, delay = rng.uniform(0, 0.9), rng.uniform(0, 1 if power else 5)
    kind = "all" if power else rng.choice(["all", "scheduler", "job"])
    killed, running = kill_once(work, process, share, delay, kind, rng)
    lost = 0
    if power:
        last = time.time() - 1
        while processes_in(work.path):
            time.sleep(0.02)
        lost = drop_unsynced(work, rng, last)
    begun = time.monotonic()
    run = work.snakemake()
    row = {
        "seed": seed,
        "begun_from": begun_from,
        "killed": killed,
        "jobs_done": f"{share:.0%}",
        "running": " ".join(sorted(running.values())),
        "lost": lost,
        "repeats": sum(count - 1 for count in Counter(map(str, server.asked[asked:])).values()),
        "remade_s": round(time.monotonic() - begun, 1),
        "equal": work.manifests() == reference,
    }
    halves = [path for path in (work.path / "results").rglob("*") if "partial" in path.name]
    left = processes_in(work.path)
    if run.returncode or not row["equal"] or row["repeats"] > CONCURRENCY + lost or left or halves:
        raise RuntimeError(f"{row}\nleft at work: {left}\nhalf-made: {halves}\n{run.stdout}{run.stderr}")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--builds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first build; the others follow")
    parser.add_argument("--csv", type=Path, help="where to write a line per build")
    parser.add_argument("--power", action="store_true", help="kill by power failures")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place, OpenAIServer(delay=0.05) as server:
        home = Path(place).resolve()
        (home / "work").mkdir()
        write_inputs(home / "work")
        work = Folder(home / "work", server)
        work.config = smaller(work.config)
        run = work.snakemake()
        if run.returncode:
            sys.exit(run.stdout + run.stderr)
        reference = work.manifests()
        print(f"undisturbed: {len(reference)} manifests", flush=True)
        for seed in range(arguments.seed, arguments.seed + arguments.builds):
            try:
                rows.append(build_and_kill(work, server, seed, reference, arguments.power))
            except RuntimeError as error:
                sys.exit(f"seed {seed}: not as undisturbed: {error}")
            print(rows[-1], flush=True)
            if arguments.csv:
                with open(arguments.csv, "w", encoding="utf-8", newline="") as handle:
                    writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
    kinds = Counter(row["killed"] for row in rows)
    print(f"{len(rows)} builds killed ({dict(kinds)}): every one ended with the same {len(reference)} manifests")


if __name__ == "__main__":
    main()
