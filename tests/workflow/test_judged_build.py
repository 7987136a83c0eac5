"""Answers of models and of corpora, compared by a served and by a remote judge, through the real Snakefile."""

import csv
import json

import pytest
from moult.base.files import read_jsonl


def scores(built, suite):
    found = {}
    for path in sorted((built.path / "results" / "pico" / "scores" / suite).glob("*.csv")):
        with open(path) as handle:
            found[path.stem] = {(row["task"], row["metric"]): row for row in csv.DictReader(handle)}
    return found


@pytest.mark.parametrize(("suite", "one", "other"), [("quality", "advisor", "base"), ("data", "distilled", "plain")])
def test_both_sides_have_scores_that_mirror_each_other(built, suite, one, other):
    found = scores(built, suite)
    assert set(found) == {one, other}
    for criterion in ("accuracy", "overall"):
        shares = [float(found[name][criterion, "win_share"]["value"]) for name in (one, other)]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert 1 <= float(found[one][criterion, "score"]["value"]) <= 10
    # Three of four questions are train, one is dev.
    assert found[one]["overall", "win_share"]["n"] == "3"
    assert float(found[one]["overall", "parse_failure_rate"]["value"]) == 0
    assert found[one]["overall", "repeat_stability"]["n"] == "1"
    rows = read_jsonl(built.path / "results" / "pico" / "judgements" / suite / f"{one}.jsonl")
    assert len(rows) == 7 and {row["status"] for row in rows} == {"ok"}
    assert {(row["model"], row["against"]) for row in rows} == {(one, other)}


def test_summary_and_differences_hold_them_too(built):
    tables = built.path / "results" / "pico" / "scores"
    with open(tables / "summary.csv") as handle:
        methods = {(row["suite"], row["method"]) for row in csv.DictReader(handle)}
    assert {("quality", "judged"), ("data", "judged"), ("labels", "generate")} <= methods
    with open(tables / "differences.csv") as handle:
        found = {(row["suite"], row["model"], row["against"]): row for row in csv.DictReader(handle)}
    assert found["quality", "advisor", "base"]["n"] == found["data", "distilled", "plain"]["n"] == "3"


def test_a_remote_judge_is_paid_like_a_teacher_and_the_report_says_so(built):
    results = built.path / "results" / "pico"
    usage = json.loads((results / "judgements" / "data" / "distilled.usage.json").read_text())
    assert usage["calls"] == 7 and usage["cost_usd"] > 0
    spent = (built.path / "journal" / "spending" / "pico" / "judge_answers.data.distilled").read_text()
    assert float(spent.split()[0]) == pytest.approx(usage["cost_usd"], abs=1e-6)
    served = json.loads((results / "judgements" / "quality" / "advisor.usage.json").read_text())
    assert (
        served["cost_usd"] == 0
        and not (built.path / "journal" / "spending" / "pico" / "judge_answers.quality.advisor").exists()
    )
    page = (results / "report" / "index.html").read_text()
    for words in ("Judged answers", "How far the judge can be trusted", "data/distilled", "same winner in both orders"):
        assert words in page
    assert "no: " not in page


def test_a_judgement_can_be_traced_to_answers_and_judge(built):
    results = built.path / "results" / "pico"
    parents = json.loads((results / "judgements" / "quality" / "advisor.manifest.json").read_text())["parents"]
    wanted = ["answers/quality/advisor", "answers/quality/base", "datasets/questions", "models/base"]
    assert set(parents) == {f"results/pico/{name}" for name in wanted}
    for name in wanted:
        content = json.loads((results / f"{name}.manifest.json").read_text())["content"]
        assert parents[f"results/pico/{name}"] == content


def test_another_criterion_asks_the_judge_and_not_the_models(copied):
    config = copied.config
    config["suites"][1]["judge"]["criteria"] = ["accuracy", "coherence"]
    copied.config = config
    planned = copied.planned()
    assert {"judgements/quality/advisor.jsonl", "scores/quality/advisor.csv", "scores/quality/base.csv"} <= planned
    assert not [path for path in planned if path.startswith(("answers/", "models/", "corpora/", "judgements/data"))]
