"""The pico build: its config, its inputs, and Snakemake run on them in a folder of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import warm
import yaml
from pico import build_pico_model

ROOT = Path(__file__).parents[1]
QUESTIONS = [
    ("ml", "scaling features"),
    ("ml", "choosing a metric"),
    ("cv", "cropping images"),
    ("nlp", "counting tokens"),
]
MOODS = {"train": 16, "dev": 4, "test": 8}
# There is no such host: the server of the tests answers in its place, as a proxy. Builds that several processes copy,
# each with a server of its own, have one address of their teacher, so that recipes and keys are the same for all.
TEACHER = "http://teacher.invalid/v1"


def pico_config():
    """Every list and every rule, at the smallest scale there is."""
    small = {"max_steps": 4, "batch_size": 2, "evaluate_every": 2, "max_length": 256}
    lora = small | {"lora": {"rank": 2, "alpha": 4}}
    judged = {"datasets": ["questions"], "split": "train", "criteria": ["accuracy"], "repeats": {"questions": 1}}
    judged |= {"answers": {"decoding": {"temperature": 1.0, "max_tokens": 8}}}
    return {
        "name": "pico",
        "seed": 7,
        "compute": {"dtype": "float32", "batch_size": 4},
        "datasets": [
            {
                "name": "questions",
                "format": "stackoverflow",
                "files": {"train": ["data/ml.tsv", "data/cv.tsv", "data/nlp.tsv"]},
                "dev_fraction": 0.25,
            },
            {
                "name": "moods",
                "format": "mmla",
                "files": {split: f"data/moods/{split}.tsv" for split in MOODS},
                "labels": ["good", "bad"],
                "task": "mood",
            },
        ],
        "endpoints": [
            {"name": "student", "serve": "base"},
            {"name": "teacher", "url": TEACHER, "model": "big", "price": {"input": 1, "output": 2}, "concurrency": 2},
        ],
        "corpora": [
            {
                "name": "guidelines",
                "kind": "guidelines",
                "dataset": "questions",
                "endpoint": "teacher",
                "decoding": {"temperature": 1.0, "max_tokens": 12},
            },
            {"name": "distilled", "kind": "distilled", "guidelines": "guidelines", "endpoint": "teacher"},
            {"name": "plain", "kind": "distilled", "dataset": "questions", "endpoint": "teacher"},
            {
                "name": "own_words",
                "kind": "guidelines",
                "dataset": "questions",
                "endpoint": "student",
                "decoding": {"temperature": 1.0, "max_tokens": 8},
            },
        ],
        "models": [
            {"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001, "license": "CC0-1.0"},
            {"name": "advisor", "finetune": {"base": "base", "data": ["distilled"], **lora}},
            {"name": "moods_sft", "finetune": {"base": "base", "data": ["moods"], "selection": "accuracy", **lora}},
            {
                "name": "merged",
                "merge": {
                    "method": "dare_ties",
                    "base": "base",
                    "dtype": "float32",
                    "parents": [
                        {"model": "advisor", "weight": 0.5, "density": 0.5},
                        {"model": "moods_sft", "weight": 0.5, "density": 0.5},
                    ],
                },
            },
            {"name": "moods_full", "finetune": {"base": "base", "data": ["moods"], "method": "full", **small}},
        ],
        "suites": [
            {"name": "labels", "labels": {"datasets": ["moods"], "max_tokens": 4}},
            {"name": "quality", "judge": judged | {"endpoint": "student", "decoding": {"max_tokens": 1000}}},
            {"name": "data", "judge": judged | {"endpoint": "teacher"}},
        ],
        "evaluations": [
            {"suite": "labels", "models": ["base", "merged"], "against": "base"},
            {"suite": "quality", "models": ["base", "advisor"], "against": "base"},
            {"suite": "data", "corpora": ["plain", "distilled"], "against": "plain"},
        ],
    }


def write_config(path, config):
    """Write YAML without anchors, so that to edit one entry is not to edit another."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config))))


class Folder:
    """A working directory of its own, and Snakemake run in it; `server` answers for hosts that are not on loopback."""

    run = staticmethod(warm.run)

    def __init__(self, path, server):
        self.path, self.server = path, server

    @property
    def config(self):
        return yaml.safe_load((self.path / "pico.yaml").read_text())

    @config.setter
    def config(self, config):
        write_config(self.path / "pico.yaml", config)

    def command(self, *arguments):
        base = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        return [*base, "--scheduler", "greedy", "--configfile", "pico.yaml", "--rerun-incomplete", *arguments]

    def environment(self):
        proxy = {"http_proxy": self.server.url.removesuffix("/v1"), "no_proxy": "127.0.0.1"} if self.server else {}
        return os.environ | warm.LEAN | proxy

    def start(self, *arguments, log="run.log", start=subprocess.Popen):
        """Start Snakemake in a process group of its own, to be killed."""
        with open(self.path / log, "w") as output:
            return start(
                self.command(*arguments),
                cwd=self.path,
                env=self.environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def snakemake(self, *arguments):
        """Run Snakemake to its end."""
        return self.run(self.command(*arguments), cwd=self.path, env=self.environment())

    def planned(self, *arguments):
        """Return what would be made, as paths below the results: artefacts without their manifests and side files."""
        run = self.snakemake("--summary", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        rows = [line.split("\t") for line in run.stdout.splitlines() if "\t" in line]
        place = rows[0].index("plan")
        made = {
            row[0].removeprefix(f"results/{self.config['name']}/") for row in rows[1:] if row[place] == "update pending"
        }
        return {path for path in made if not path.endswith((".manifest.json", ".rejects.jsonl", ".usage.json"))}

    def planned_rules(self, *arguments):
        """Return the rules of a dry run, from its table of jobs."""
        run = self.snakemake("--dry-run", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        table = run.stdout.split("Job stats:")[1].split("\ntotal")[0]
        return {line.split()[0] for line in table.splitlines()[3:] if line.strip()}

    def manifests(self):
        """Return every manifest of the results as {path: bytes}."""
        results = self.path / "results"
        return {path.relative_to(results).as_posix(): path.read_bytes() for path in results.rglob("*.manifest.json")}


def write_inputs(folder):
    """Write config, data and model of the pico build into an empty folder."""
    (folder / "data" / "moods").mkdir(parents=True)
    for category in ("ml", "cv", "nlp"):
        lines = [f"How to go about {topic}?\tI am {topic} and stuck." for name, topic in QUESTIONS if name == category]
        (folder / "data" / f"{category}.tsv").write_text("\n".join(["title\tquestion_content", *lines]) + "\n")
    for split, n in MOODS.items():
        lines = [
            f"{split}{i}\t{split} {'sun' if i % 2 else 'rain'} number {i}\t{'good' if i % 2 else 'bad'}"
            for i in range(n)
        ]
        (folder / "data" / "moods" / f"{split}.tsv").write_text("\n".join(["id\ttext\tlabel", *lines]) + "\n")
    build_pico_model(folder / "models" / "base", max_position_embeddings=8192)
    write_config(folder / "pico.yaml", pico_config())
