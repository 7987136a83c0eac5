"""Rounds: a pico model answers, a judge on loopback accepts or not, each round trains on from the one before."""

import json
import re
import shutil

import pytest
import yaml
from openai_server import OpenAIServer
from pico import build_pico_model
from pico_build import Folder, write_config
from pico_variants import rounds_config
from processes import kill_group, wait_for

ROWS, INTERVAL = 7, 3
ROUNDS = ["rounds-r1", "rounds-r2", "rounds-r3"]
# What the judge says of the answers to a question, by its number: the first, the second, and so on.
VERDICTS = {1: "incorrect correct", 2: "incorrect incorrect incorrect", 4: "incorrect incorrect correct"}


class Judge:
    """Judges by the number in a question's title and by how often it was asked."""

    def __init__(self):
        self.times = {}

    def __call__(self, body):
        number = int(re.search(r"How to do (\d+)", body["messages"][-1]["content"])[1])
        said = VERDICTS.get(number, "correct").split()
        self.times[number] = self.times.get(number, 0) + 1
        verdict = said[min(self.times[number], len(said)) - 1]
        feedback = "" if verdict == "correct" else f"number {number} is wrong"
        return json.dumps({"feedback": feedback, "hints": "", "verdict": verdict})


def write_questions(folder, changed=None):
    """Write the questions, in an order and with ids that stay when one of them is `changed`."""
    lines = [f"q{i}\tHow to do {i}?\tI try {i}{' again' * (i == changed)}." for i in range(ROWS)]
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "ml.tsv").write_text("\n".join(["id\ttitle\tquestion_content", *lines]) + "\n")


@pytest.fixture(scope="module")
def judge():
    with OpenAIServer(Judge()) as server:
        yield server


def write_rounds(folder):
    """Write config, data and model of three rounds: two full slices, and the remainder of one row."""
    build_pico_model(folder / "models" / "base", max_position_embeddings=2048)
    write_questions(folder)
    write_config(folder / "pico.yaml", rounds_config(ROWS, INTERVAL))


@pytest.fixture(scope="module")
def built(build_once, judge):
    return build_once("rounds", write_rounds, judge)


@pytest.fixture
def prepared(tmp_path, judge):
    """What the rounds begin with, nothing made of it."""
    (tmp_path / "work").mkdir()
    write_rounds(tmp_path / "work")
    return Folder(tmp_path / "work", judge)


@pytest.fixture
def copied(built, tmp_path, judge):
    return Folder(shutil.copytree(built.path, tmp_path / "copy", symlinks=True), judge)


def lines(folder, name):
    path = folder.path / "results/pico/corpora" / name
    return [json.loads(line) for line in path.read_text().splitlines()]


def refine_log(folder, name):
    return (folder.path / f"logs/pico/refine_answers/{name}.log").read_text()


def adapters(folder):
    return {name: (folder.path / f"results/pico/adapters/{name}.manifest.json").read_bytes() for name in ROUNDS}


def test_only_accepted_answers_are_kept_with_their_history(built):
    first, second, third = (lines(built, f"{name}.jsonl") for name in ROUNDS)
    told = [(row["title"][10], row["status"], row["iterations"]) for row in first + second + third]
    assert told == [
        ("0", "ok", 1),
        ("1", "revised", 2),
        ("3", "ok", 1),
        ("4", "revised", 3),
        ("5", "ok", 1),
        ("6", "ok", 1),
    ]
    (reject,) = lines(built, "rounds-r1.rejects.jsonl")
    assert reject["reason"] == "not accepted after 3 answers" and len(reject["history"]) == 3
    assert [entry["verdict"] for entry in first[1]["history"]] == ["incorrect", "correct"]
    assert first[1]["answer"] == first[1]["history"][-1]["answer"] and first[1]["answer_by"] == "base"
    assert second[0]["answer_by"] == "rounds-r1"


def test_disk_stays_bounded(built):
    """An adapter for each round, no full weights but the last round's."""
    results = built.path / "results/pico"
    assert sorted(path.name for path in (results / "adapters").iterdir() if path.is_dir()) == ROUNDS
    assert sorted(path.name for path in (results / "models").iterdir() if path.is_dir()) == ["base", "rounds-r3"]
    assert not list(results.glob("students/*"))


def test_nothing_is_left_to_do(built):
    assert "Nothing to be done" in built.snakemake("--dry-run").stdout


@pytest.mark.soak
def test_a_changed_row_leaves_the_rounds_before_untouched_and_remakes_what_follows(copied):
    before, asked = adapters(copied), len(copied.server.asked)
    stamps = {path: path.stat().st_mtime_ns for path in (copied.path / "results/pico/adapters/rounds-r1").iterdir()}
    write_questions(copied.path, changed=4)
    planned = {path for path in copied.planned() if path.startswith(("corpora", "adapters", "models"))}
    remade = {f"{kind}/{name}" for name in ROUNDS[1:] for kind in ("corpora", "adapters")}
    assert {path.removesuffix(".jsonl") for path in planned} == remade | {"models/rounds-r3"}
    run = copied.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    after = adapters(copied)
    assert after["rounds-r1"] == before["rounds-r1"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert after["rounds-r2"] != before["rounds-r2"] and after["rounds-r3"] != before["rounds-r3"]
    # Of the slice one row was asked anew, of the last all, of another model; the judge about answers new to it.
    assert "3 requests, 2 of them answered before, 1 to ask" in refine_log(copied, "rounds-r2")
    assert "1 requests, 0 of them answered before, 1 to ask" in refine_log(copied, "rounds-r3")
    titles = {re.search(r"do (\d)", body["messages"][-1]["content"])[1] for body in copied.server.asked[asked:]}
    assert "4" in titles and titles <= {"4", "6"}
    assert "Nothing to be done" in copied.snakemake("--dry-run").stdout


def test_one_round_is_rebuilt_alone(copied):
    """Without its neighbours' full weights, which are gone: they are folded from the adapters, to the same bytes."""
    before, asked = adapters(copied), len(copied.server.asked)
    shutil.rmtree(copied.path / "results/pico/adapters/rounds-r3")
    target = "results/pico/adapters/rounds-r3"
    assert copied.planned_rules(target) == {"fold_round", "refine_answers", "finetune_lora"}
    run = copied.snakemake(target)
    assert run.returncode == 0, run.stdout + run.stderr
    assert adapters(copied) == before and len(copied.server.asked) == asked


def test_the_model_of_any_round_is_a_target(copied):
    """To ask for one remakes nothing that was made with it."""
    run = copied.snakemake("results/pico/models/rounds-r1")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (copied.path / "results/pico/models/rounds-r1/model.safetensors").is_file()
    assert "Nothing to be done" in copied.snakemake("--dry-run").stdout


def test_another_number_of_rows_is_told_with_what_to_write(copied):
    config = copied.config
    config["rounds"][0]["rows"] = 12
    copied.config = config
    run = copied.snakemake("--dry-run")
    assert run.returncode != 0
    assert "q has 7 train rows, which make 3 rounds of 3, not 4; write `rows: 7`" in run.stdout + run.stderr


@pytest.mark.soak
def test_a_kill_inside_a_round_pays_for_no_answer_twice(prepared, judge):
    config = prepared.config
    config["rounds"][0] |= {"interval": 40, "rows": 40}
    prepared.config = config
    rows = [f"k{i}\tHow to do {100 + i}?\tI try {i}." for i in range(40)]
    (prepared.path / "data" / "ml.tsv").write_text("\n".join(["id\ttitle\tquestion_content", *rows]) + "\n")
    judge.delay, before = 0.1, len(judge.asked)
    target = "results/pico/corpora/rounds-r1.jsonl"
    try:
        process = prepared.start(target)
        wait_for(lambda: len(judge.asked) - before >= 15)
        kill_group(process)
        run = prepared.snakemake(target)
    finally:
        judge.delay = 0.0
    assert run.returncode == 0, run.stdout + run.stderr
    asked = [str(body["messages"]) for body in judge.asked[before:]]
    assert len(set(asked)) == 40
    # What was in flight when it was killed may be asked again: at most `concurrency`.
    assert len(asked) - 40 <= 2
    assert "40 requests, 40 of them answered before, 0 to ask" in refine_log(prepared, "rounds-r1")


@pytest.mark.soak
def test_a_round_without_an_accepted_answer_changes_nothing(prepared, judge):
    """Its model is the one before, and the next round goes on from there."""
    rows = [f"q{i}\tHow to do {2 if i < 3 else i}?\tI try {i}." for i in range(4)]
    (prepared.path / "data" / "ml.tsv").write_text("\n".join(["id\ttitle\tquestion_content", *rows]) + "\n")
    config = yaml.safe_load((prepared.path / "pico.yaml").read_text())
    config["rounds"][0] |= {"rows": 4, "max_iterations": 1}
    prepared.config = config
    run = prepared.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    assert lines(prepared, "rounds-r1.jsonl") == [] and len(lines(prepared, "rounds-r1.rejects.jsonl")) == 3
    facts = json.loads((prepared.path / "results/pico/adapters/rounds-r1.manifest.json").read_text())["facts"]
    assert facts["steps"] == 0 and facts["n_train"] == 0
    assert lines(prepared, "rounds-r2.jsonl")
