"""The worked examples of docs/extending.md, written into a copy of the checkout and built there."""

import csv
import filecmp
import functools
import json
import operator
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from checkout import copy_checkout
from pico_build import ROOT, Folder, pico_config, write_config

DOC = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# As the table at the head of the page says.
MOST_FILES = {
    "A loss": 1,
    "A dataset format": 2,
    "A merge method": 1,
    "A kind of corpus": 3,
    "A kind of suite": 3,
}
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL))


def write_example(section, folder):
    """Do in a copy of the checkout what a section of the page says."""
    for path, block in re.findall(r"^`([\w./]+)`:\n\n```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        before = (folder / path).read_text() + "\n\n" if (folder / path).exists() else ""
        (folder / path).write_text(before + block)
    for path, block in re.findall(r"^```diff\n\+\+\+ ([\w./]+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        text = (folder / path).read_text()
        for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", block, re.MULTILINE):
            old, new = (re.sub(r"^.", "", lines, flags=re.MULTILINE) for lines in (old, new))
            assert text.count(old) == 1, f"{path} has not one {old!r}"
            text = text.replace(old, new)
        (folder / path).write_text(text)


def changed(folder):
    """Return the files of code of a copy of the checkout that are not as in the checkout."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    code = [path for path in files if path.suffix in (".py", ".smk") or path.name == "Snakefile"]
    return {
        path.as_posix()
        for path in code
        if "__pycache__" not in path.parts
        and not ((ROOT / path).exists() and filecmp.cmp(folder / path, ROOT / path, shallow=False))
    }


@pytest.mark.parametrize("name", MOST_FILES)
def test_an_addition_changes_few_files_of_code(name, tmp_path):
    assert SECTIONS.keys() == MOST_FILES.keys()
    copy = copy_checkout(tmp_path / "copy")
    assert changed(copy) == set()
    write_example(SECTIONS[name], copy)
    assert 1 <= len(changed(copy)) <= MOST_FILES[name]


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the checkout with all examples of the page."""
    copy = copy_checkout(tmp_path_factory.mktemp("extended") / "moult")
    for section in SECTIONS.values():
        write_example(section, copy)
    return copy


@pytest.mark.parametrize(
    "command",
    [
        # Hints that a base class has are left out of an example.
        ["ruff", "check", "--ignore", "ANN201", "scripts"],
        ["ruff", "format", "--check", "scripts"],
        ["snakefmt", "--check", "Snakefile", "rules"],
        ["lint-imports", "--no-cache"],
    ],
    ids=lambda command: command[0] + command[1],
)
def test_the_examples_keep_the_rules_of_the_house(extended, command):
    command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    environment = os.environ | {"PYTHONPATH": "scripts"}
    run = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


class Extended(Folder):
    """A working directory in which the Snakefile of a copy of the checkout builds."""

    run = partial(subprocess.run, capture_output=True, text=True, check=False)

    def __init__(self, path, server, checkout):
        super().__init__(path, server)
        self.checkout = checkout

    def command(self, *arguments):
        mine = {str(ROOT / "Snakefile"): str(self.checkout / "Snakefile")}
        return [mine.get(word, word) for word in super().command(*arguments)]


def extended_config():
    """The least that uses each example but the loss: two adapters, on the new corpus and on data of the new format."""
    pico = pico_config()
    small = {"max_steps": 3, "batch_size": 2, "evaluate_every": 3, "max_length": 256, "lora": {"rank": 2, "alpha": 4}}
    claims = {"name": "claims", "format": "nli", "files": {"train": "claims.csv"}, "labels": ["yes", "no"]}
    shortest = {"name": "brief", "kind": "shortest", "dataset": "questions", "endpoint": "teacher", "samples": 3}
    parents = [{"model": f"{data}_sft", "weight": 0.5, "density": 0.5} for data in ("brief", "claims")]
    return {
        "name": "extended",
        "compute": pico["compute"],
        "datasets": [pico["datasets"][0], claims | {"task": "entailment"}],
        "endpoints": [one for one in pico["endpoints"] if one["name"] == "teacher"],
        "corpora": [shortest],
        "models": [
            pico["models"][0],
            {
                "for": {"data": ["brief", "claims"]},
                "name": "{data}_sft",
                "finetune": {"base": "base", "data": ["{data}"], **small},
            },
            {"name": "merged", "merge": {"method": "dare_linear", "base": "base", "parents": parents}},
        ],
        "suites": [
            {"name": "brevity", "lengths": {"datasets": ["questions"], "split": "train", "decoding": {"max_tokens": 8}}}
        ],
        "evaluations": [{"suite": "brevity", "models": ["base", "merged"]}],
    }


def write_claims(folder):
    """Write the config of the build, and data of the new format."""
    write_config(folder / "pico.yaml", extended_config())
    claims = [f"The sky is {colour}.,It has a colour.,{'yes' if n % 2 else 'no'}" for n, colour in enumerate(COLOURS)]
    (folder / "claims.csv").write_text("\n".join(["premise,hypothesis,label", *claims]) + "\n")


@pytest.fixture(scope="module")
def build(build_once, extended, inputs, server):
    """A build with the additions, by real Snakemake, up to its report."""

    def write(folder):
        shutil.copytree(inputs, folder, dirs_exist_ok=True)
        write_claims(folder)

    return build_once("extended", write, server, partial(Extended, checkout=extended))


COLOURS = "red green blue grey white black pink brown".split()


@pytest.fixture
def results(build):
    return build.path / "results" / "extended"


def facts(results, name):
    return json.loads((results / f"{name}.manifest.json").read_text())["facts"]


def test_the_new_format_is_prepared(results):
    assert sum(split["rows"] for split in facts(results, "datasets/claims")["splits"].values()) == len(COLOURS)


def test_the_new_corpus_has_the_shortest_of_its_answers_and_a_model_is_trained_on_it(results):
    rows = [json.loads(line) for line in (results / "corpora/brief.jsonl").read_text().splitlines()]
    usage = json.loads((results / "corpora/brief.usage.json").read_text())
    assert all(row["answer"] and row["answer_by"] == "big" for row in rows)
    assert usage["calls"] == 3 * facts(results, "corpora/brief")["rows_in"] == 12
    assert facts(results, "adapters/brief_sft")["n_train"] == 3


def test_the_new_merge_is_made_by_mergekit(results):
    assert "merge_method: dare_linear" in (results / "models/merged/mergekit_config.yml").read_text()
    assert (results / "models/merged/model.safetensors").stat().st_size > 0


def test_the_new_suite_has_its_rows_its_plot_and_its_section(results):
    with open(results / "scores/summary.csv") as handle:
        rows = [row for row in csv.DictReader(handle) if row["suite"] == "brevity"]
    means = {row["model"]: float(row["value"]) for row in rows if row["metric"] == "mean_length"}
    assert means.keys() == {"base", "merged"} and all(value > 0 for value in means.values())
    assert "answer length (lower is better)" in (results / "plots/brevity.svg").read_text()
    page = " ".join((results / "report/index.html").read_text().split())
    assert '<h2 id="lengths-title">Lengths of answers</h2>' in page and "counted in words" in page
    assert f"{means['base']:.2f}" in page
    assert "the shortest of 3 by big" in page and "lengths of 3 answers" in page
    assert "unexplained" not in page


def test_nothing_is_left_to_do(build):
    assert build.planned() == set()


PROGRAM = """
import sys
from pathlib import Path
import preference_tuning as t
from moult.config.entries.models import Optimise
from moult.training.finetune import finetune_lora

loss = Optimise(base="base", data=["pairs"], loss={"kind": "hinge"}).loss.model_dump()
folder = Path(sys.argv[1])
recipe = t.RECIPE | {"loss": loss, "epochs": None, "max_steps": 1}
finetune_lora(recipe, folder / "base", t.TRAIN[:4], t.DEV[:2], folder / "scratch", folder / "adapter")
"""


def test_the_new_loss_trains(extended, inputs, tmp_path):
    """Where nothing is learnt yet, no answer has gained anything on the reference: each pair costs 1."""
    shutil.copytree(inputs / "models" / "base", tmp_path / "base")
    paths = [extended / "scripts", ROOT / "tests"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    with open(tmp_path / "adapter" / "loss.csv") as handle:
        losses = [row for row in csv.DictReader(handle) if row["split"] == "train"]
    assert float(losses[0]["loss"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("place", "changes", "said"),
    [
        (("models", 2, "merge", "parents", 0), {"weight": None}, "weight is missing; dare_linear needs a number"),
        (("evaluations", 0), {"against": "base"}, "against: a length suite takes no paired differences"),
        (("corpora", 0), {"samples": 1}, "samples"),
        (("datasets", 1), {"columns": {"premis": "a"}}, "'premis' is not a field of nli; did you mean 'premise'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_wrong_setting_of_an_addition_is_refused_before_anything_is_built(extended, tmp_path, place, changes, said):
    config = extended_config()
    entry = functools.reduce(operator.getitem, place, config)
    entry |= changes
    write_config(tmp_path / "wrong.yaml", config)
    program = "import sys; from moult.config.load import load_file; load_file(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": str(extended / "scripts")}
    command = [sys.executable, "-c", program, str(tmp_path / "wrong.yaml")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode != 0 and said in run.stderr
