"""Kinds of suites: a third one, declared here, is checked, tabulated, drawn and reported by code that knows none."""

import contextlib
import json
import os
import subprocess
import sys
from itertools import chain, combinations
from pathlib import Path

import pytest
from length_suite import LENGTHS
from moult.base.files import write_csv, write_json, write_jsonl, write_text_atomic
from moult.config.entries.evaluations import MEASURED, Evaluation, Suite
from moult.evaluation.kinds import NUMBER, PERCENT
from moult.evaluation.leaderboard import suite_tables
from moult.evaluation.published import REFERENCE
from moult.evaluation.scores import COLUMNS, DIFFERENCES
from moult.evaluation.suites import KINDS
from moult.jobs.manifest import write_manifest
from moult.report.page import TEMPLATES, write_report
from moult.report.plots import draw_scores
from moult.stages import STAGES

TESTS = Path(__file__).parents[2]


def score(model, dataset, metric, value, around=0.5):
    row = {"suite": "brevity", "model": model, "dataset": dataset, "method": "measured", "metric": metric, "n": "10"}
    row |= {"value": str(value), "ci_low": str(value - around), "ci_high": str(value + around)}
    return dict.fromkeys(COLUMNS, "") | row


def scores(values):
    rows = []
    for model, value in values.items():
        for dataset in ("acts", "moods", "mean", "weighted_mean"):
            rows += [score(model, dataset, "mean_length", value), score(model, dataset, "longest", value + 100)]
            if dataset in ("acts", "moods"):
                rows += [score(model, dataset, "row_length", 11), score(model, dataset, "empty_rate", 0.2, 0.1)]
    return rows


LINE = {"suite": "brevity", "model": "brief", "against": "wordy", "dataset": "acts", "method": "measured", "n": "10"}
LINE |= {"difference": "-27.5", "ci_low": "-30", "ci_high": "-25", "p_mcnemar": "0.001"}


def test_the_best_is_the_lowest_and_less_is_progress():
    lines = [LINE | {"dataset": dataset} for dataset in ("acts", "moods", "weighted_mean")]
    (suite,) = suite_tables(LENGTHS, scores({"wordy": 40.0, "brief": 12.5}), lines)
    (table,), (leader,), (line, *_) = suite["tables"], suite["leaders"], suite["differences"]
    assert [row["model"] for row in table["rows"] if all(cell["best"] for cell in row["cells"])] == ["brief"]
    assert (leader["best"], leader["ahead"], leader["beyond"]) == ("brief", True, "below")
    assert line["trend"] == "up"
    # Of a number nobody knows the largest: a table's scale ends at its own.
    assert table["rows"][0]["cells"][0]["mean_length"]["places"][2] == 100
    assert table["columns"][0]["baseline"] == 11 and table["columns"][0]["place"] == pytest.approx(100 * 11 / 40.5)
    assert [(one["model"], one["counts"], one["n"]) for one in suite["unread"]] == [
        ("wordy", {"empty_rate": 4}, 20),
        ("brief", {"empty_rate": 4}, 20),
    ]
    (suite,) = suite_tables(LENGTHS, scores({"wordy": 40.0, "brief": 39.8}), [])
    assert not suite["leaders"][0]["ahead"] and not any(row["cells"][0]["best"] for row in suite["tables"][0]["rows"])


def test_the_plot_has_its_unit_its_name_and_its_baseline():
    svg = draw_scores(scores({"wordy": 140.0, "brief": 12.5}), (*KINDS, LENGTHS))
    assert svg.count("answer length (lower is better)") == 3 and "shortest known" in svg
    assert "%</text>" not in svg
    # What is above 100 is drawn where it belongs.
    assert ">140</text>" in svg or ">150</text>" in svg


def build(root):
    """Write the files of an experiment of two models that are measured by length; return write_report's arguments."""
    manifests = []
    for model, value in (("wordy", 40.0), ("brief", 12.5)):
        weights, lengths = root / "models" / model, root / "lengths" / "brevity" / f"{model}.jsonl"
        table, usage = root / "scores" / "brevity" / f"{model}.csv", lengths.with_suffix(".usage.json")
        write_text_atomic(weights / "model.safetensors", model)
        rows = [{"status": "ok"}] * 8 + [{"status": "error", "reason": "no word"}] * 2
        lengths.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(lengths, rows)
        asked = {"endpoint": "counter", "model": "abacus", "calls": 10, "failed": 0, "cost_usd": 0.5}
        write_json(usage, asked | {"prompt_tokens": 5, "completion_tokens": 5})
        table.parent.mkdir(parents=True, exist_ok=True)
        write_csv(table, scores({model: value}), COLUMNS)
        recipe = {"model": model, "endpoint": {"name": "counter", "model": "abacus", "url": "https://a.example"}}
        made = [("fetch_model", weights, [], {"source": {}}, {"parameters": 1e6})]
        made += [("measure_lengths", lengths, [weights], recipe, {"rows": 10})]
        made += [("score_lengths", table, [lengths], {}, {})]
        for rule, path, parents, recipe, facts in made:
            manifest, *above = (Path(f"{one.with_suffix('')}.manifest.json") for one in (path, *parents))
            write_manifest(manifest, rule=rule, outputs=[path], parents=above, recipe=recipe, facts=facts)
            manifests.append(manifest)
    rows = scores({"wordy": 40.0, "brief": 12.5})
    write_csv(root / "scores/summary.csv", rows, COLUMNS)
    write_csv(root / "scores/differences.csv", [LINE, LINE | {"dataset": "weighted_mean"}], DIFFERENCES)
    write_text_atomic(root / "plots/brevity.svg", draw_scores(rows, (*KINDS, LENGTHS)))
    named = {"summary": root / "scores/summary.csv", "differences": root / "scores/differences.csv"}
    named |= {"plots": [root / "plots/brevity.svg"], "confusion": [], "leakage": [], "manifests": manifests}
    words = {stage.rule: stage.words for stage in (*STAGES, *LENGTHS.stages)}
    return named | {"title": "Lengths", "limit": None, "seed": 1, "words": words}


def test_the_report_tells_of_it(tmp_path):
    with contextlib.chdir(tmp_path):
        write_report("index.html", **build(Path("results/demo")), kinds=(*KINDS, LENGTHS))
        page = Path("index.html").read_text(encoding="utf-8")
    text = " ".join(page.split())
    assert (
        '<a href="#lengths">Lengths of answers</a>' in text and '<h2 id="lengths-title">Lengths of answers</h2>' in text
    )
    assert '<code class="name">brief</code></strong> has the lowest mean answer length over 2 datasets:' in text
    assert "<strong>12.50</strong> [12.00, 13.00]; clearly ahead of" in text
    assert "(40.00; paired test over all rows, p = 0.001)." in text
    assert "Quoting the row would score 11.00, below that interval." in text
    assert "measured in words" in text and "longest answer 112.50" in text and "20.0% unread" in text
    assert "−27.50" in text and 'class="number up"' in text and "; lower is better" in text
    # In its picture, its rejects, and what it cost.
    assert "brevity: 2 models by words" in text and "lengths/brevity/brief" in text
    assert "Answers without words" in text and "2 × no word" in text
    assert "What generating and measuring answers took." in text and "corpus or lengths" in text and "1.00" in text
    assert "ccuracy" not in text.split("</style>", 1)[1]


CONFIG = {
    "name": "c",
    "datasets": [
        {"name": "moods", "format": "mmla", "task": "mood", "labels": ["good", "bad"], "files": {"test": "t"}}
    ],
    "models": [{"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001}],
    "suites": [{"name": "brevity", "lengths": {"datasets": ["moods"]}}],
    "evaluations": [{"suite": "brevity", "models": ["base"]}],
}
# Before anything of the config is imported.
PROGRAM = """
import json, sys
from length_suite import LENGTHS
from moult.evaluation import suites
suites.KINDS += (LENGTHS,)
from moult.base.errors import UserError
from moult.config.load import load
try:
    print(load(json.load(sys.stdin)).suites[0].kind.key)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "lengths"),
        ({"suites": [{"name": "brevity", "lengths": {"datasets": ["mood"]}}]}, "'mood' is not there; did you mean"),
        ({"suites": [{"name": "brevity", "lengths": {"datasets": ["moods"], "split": "dev"}}]}, "no file for 'dev'"),
        (
            {"suites": [{"name": "brevity", "lengths": {"datasets": ["moods"], "endpoint": "x"}}]},
            "endpoint: 'x' is not",
        ),
        (
            {"suites": [{"name": "brevity"}]},
            "write exactly one of labels, judge, agreement, head_to_head, lm_eval, probing, lengths",
        ),
        (
            {"evaluations": [{"suite": "brevity", "settings": [{"name": "s", "models": "base"}]}]},
            "evaluations 'brevity', settings: only models have a length",
        ),
        (
            {
                "evaluations": [
                    {"suite": "brevity", "models": ["base"], "reference": {"model": "LLaMA-3-8B", "setting": "sft"}}
                ]
            },
            "reference: no table has values of a length suite",
        ),
    ],
)
def test_the_config_has_its_field_and_its_checks(changed, said):
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent / 'scripts'}"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(CONFIG | changed),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert said in run.stdout, run.stdout + run.stderr


def test_units_round_and_sign():
    assert (PERCENT.text(0.1234), PERCENT.text(None), NUMBER.text(3)) == ("12.3%", "–", "3.00")
    assert [PERCENT.signed(value) for value in (0.0004, -0.0004, 0.0005, -0.25)] == ["0.0", "0.0", "+0.1", "−25.0"]
    assert NUMBER.signed(0.001) == "0.00" and NUMBER.signed_interval({"low": -1, "high": 2}) == "[−1.0, +2.0]"
    # A digit less where an interval is wide.
    told = [PERCENT.interval({"low": 0.152, "high": high}) for high in (0.777, 0.352, 0.351)]
    assert told == ["[15, 78]", "[15, 35]", "[15.2, 35.1]"]


def test_no_two_kinds_share_what_they_are_told_apart_by():
    for one, other in combinations(KINDS, 2):
        for shared in ("methods", "section"):
            assert not set(getattr(one, shared)) & set(getattr(other, shared))
        # Kinds under one key are told apart by the `kind` of their sections, and share their stages.
        assert one.key == other.key or not {stage.rule for stage in one.stages} & {stage.rule for stage in other.stages}
        assert (one.key == other.key) == (one.measurement == other.measurement)
    assert set(Suite.model_fields) == {"name", *(kind.key for kind in KINDS)}


def test_what_kinds_name_is_there():
    assert set(MEASURED) <= set(Evaluation.model_fields)
    for kind in KINDS:
        assert set(kind.measures) < set(MEASURED)
        assert (TEMPLATES / kind.template).exists()
    for table in chain.from_iterable(kind.published for kind in KINDS):
        assert (REFERENCE / f"{table}.csv").exists()
