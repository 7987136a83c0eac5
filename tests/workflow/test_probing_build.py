"""Probes through the real Snakefile: encoded once, probed, scored, set beside each other; killed, and gone on."""

import csv
import json
import re
import shutil

import pytest
from pico_build import write_config
from probes import probing_config, write_probed
from processes import kill_group, wait_for

# Each job of it starts Python: some twenty of them.
pytestmark = pytest.mark.soak
CONFIG = probing_config()


@pytest.fixture(scope="module")
def probed(build_once):
    return build_once("probed", lambda folder: write_probed(folder, CONFIG), None)


def rows(probed, path):
    with open(probed.path / "results" / "probed" / path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_model_has_scores_controls_and_a_place_in_the_tables(probed):
    summary = [row for row in rows(probed, "scores/summary.csv") if row["suite"] == "holmes"]
    assert {row["model"] for row in summary} == {"base", "other", "linear_0", "linear_1"}
    assert {row["method"] for row in summary} == {"linear", "mlp"}
    metrics = {row["metric"] for row in summary if row["dataset"] == "rule-tense" and not row["task"]}
    assert {"score", "selectivity_random_labels", "control_random_weights", "compression"} <= metrics
    assert {"layer 0", "portion 0.5"} <= {row["task"] for row in summary}
    assert {"subfield: syntax", "subfield: semantics"} <= {row["dataset"] for row in summary}
    pairs = {(row["model"], row["against"]) for row in rows(probed, "scores/differences.csv")}
    # Those that are asked for, and the best with the runner-up.
    assert {("other", "base"), ("linear_0", "base"), ("linear_1", "base")} < pairs
    board = rows(probed, "probe_tables/holmes.leaderboard.csv")
    assert list(board[0])[:6] == [
        "probing dataset",
        "linguistic subfield",
        "linguistic phenomena",
        "probe type",
        "train portion",
        "probe",
    ]
    assert {row["probe type"] for row in board} == {"sentence classification", "token(s) classification"}
    assert {row["over"] for row in rows(probed, "probe_tables/holmes.means.csv")} == {"subfield", "phenomenon"}


def test_random_weights_are_another_model_and_five_seeds_differ(probed):
    with open(probed.path / "results/probed/probes/holmes/base.jsonl") as handle:
        lines = [row for row in map(json.loads, handle) if (row["dataset"], row["probe"]) == ("rule-length", "linear")]
    (line,) = (row for row in lines if row["portion"] == 1)
    runs = {(one["control"], one["layer"], one["seed"]): one["pred"] for one in line["runs"]}
    assert len({tuple(runs["none", 2, seed]) for seed in range(3)}) == 3
    assert runs["none", 2, 0] != runs["random_weights", 2, 0]


def test_all_suites_stand_together_in_the_report(probed):
    folder = probed.path / "results/probed/relations/all"
    names = {path.name for path in folder.iterdir()}
    assert {"scores.csv", "groups.csv", "taus.csv", "parameters.csv", "changes.csv", "heat.svg", "taus.svg"} <= names
    assert "parameters.svg" in names
    with open(folder / "taus.csv", newline="") as handle:
        assert {row["models"] for row in csv.DictReader(handle)} == {"4"}
    page = (probed.path / "results/probed/report/index.html").read_text()
    for words in ("All suites together", "Kendall", "What merges gained and lost", "Probes", "Description lengths"):
        assert words in page
    assert re.search(r'href="[^"]*relations/all/taus\.csv"', page)


def test_more_seeds_encode_nothing_and_another_layer_does(probed, tmp_path):
    copy = type(probed)(shutil.copytree(probed.path, tmp_path / "copy", symlinks=True), None)
    config = copy.config
    config["suites"][0]["probing"]["seeds"] = [0, 1, 2, 3]
    write_config(copy.path / "pico.yaml", config)
    assert not {path for path in copy.planned() if path.startswith("encodings/")}
    config["suites"][0]["probing"]["layers"] = [1]
    write_config(copy.path / "pico.yaml", config)
    assert {path for path in copy.planned() if path.startswith("encodings/")}


def test_a_flaw_of_a_set_is_told_before_anything_is_built(tmp_path, probed):
    folder = type(probed)(tmp_path / "flaw", None)
    folder.path.mkdir()
    write_probed(folder.path, CONFIG)
    samples = folder.path / "probes" / "rule-tense" / "samples.csv"
    samples.write_text(samples.read_text().replace("('The", "(open('The", 1))
    run = folder.snakemake("-n")
    assert run.returncode != 0
    assert "samples.csv, line 2: inputs holds no literal of Python" in run.stdout + run.stderr


@pytest.mark.soak
def test_a_killed_encoding_and_a_killed_probe_go_on(tmp_path, probed):
    folder = type(probed)(tmp_path / "killed", None)
    folder.path.mkdir()
    write_probed(folder.path, CONFIG)
    for target, scratch, file in (
        ("encodings/holmes/base", "encode_probes/holmes/base", "*.safetensors"),
        ("probes/holmes/base.jsonl", "run_probes/holmes/base", "*.json"),
    ):
        started = folder.start(f"results/probed/{target}")
        place = folder.path / "scratch" / scratch
        wait_for(lambda place=place, file=file: any(place.rglob(file)))
        kill_group(started)
        there = {path: path.stat().st_mtime_ns for path in place.rglob(file)}
        run = folder.snakemake(f"results/probed/{target}")
        assert run.returncode == 0 and there, run.stdout + run.stderr
    ours, theirs = ((one.path / "results/probed/probes/holmes/base.jsonl").read_bytes() for one in (folder, probed))
    assert ours == theirs
