"""Models set head to head through the real Snakefile: by a served judge, an endpoint, and published judgements."""

import csv
import json
import math
import re
import shutil

import pytest
from contests import judged, write_contest
from moult.base.files import read_jsonl
from moult.config.load import load
from moult.planning.estimate import Estimator
from openai_server import OpenAIServer
from pico_build import Folder
from processes import kill_group, wait_for


@pytest.fixture(scope="module")
def teacher():
    with OpenAIServer(judged) as running:
        yield running


@pytest.fixture(scope="module")
def built(build_once, teacher):
    return build_once("heads", write_contest, teacher)


def scores(built):
    with open(built.path / "results/heads/scores/summary.csv") as handle:
        return {
            (row["suite"], row["model"], row["method"], row["task"], row["metric"]): row
            for row in csv.DictReader(handle)
            if row["dataset"] not in ("mean", "weighted_mean")
        }


def test_each_kind_scores_what_its_judge_said(built):
    found = scores(built)
    value = lambda *key: float(found[key]["value"])  # noqa: E731
    good = 1 / (1 + math.exp(-1))
    assert value("letters", "good", "alpaca_asked", "", "win_rate") == pytest.approx(good, abs=1e-6)
    assert value("letters", "weak", "alpaca_asked", "", "win_rate") == 0.5
    assert value("letters", "good", "alpaca_published", "", "win_rate") == pytest.approx(0.5 + 5.5 / 30, abs=1e-5)
    assert value("letters", "good", "alpaca_asked", "category: part 1", "win_rate") == pytest.approx(good, abs=1e-6)
    assert value("letters", "good", "alpaca_asked", "", "difficulties_known") == 0
    assert value("verdicts", "good", "arena_asked", "", "win_rate") == 1
    assert value("verdicts", "good", "arena_asked", "", "unknown_rate") == 0
    assert 3 <= value("grades", "base", "mt_asked", "", "score") <= 4
    assert found["grades", "base", "mt_asked", "", "turn_2"]["n"] == "4"
    assert value("told", "somebody", "arena_published", "", "win_rate") == pytest.approx(2.5 / 4)
    assert 0 < value("served", "other", "alpaca_asked", "", "win_rate") < 1


def test_what_was_judged_both_ways_moves_the_others_to_the_published_scale(built):
    found = scores(built)
    moved = found["letters", "weak", "alpaca_bridged", "", "win_rate"]
    home, published = 1 / (1 + math.exp(-1)), 0.5 + 5.5 / 30
    assert float(moved["value"]) == pytest.approx(0.5 + published - home, abs=1e-5)
    assert float(moved["ci_low"]) < float(moved["value"]) < float(moved["ci_high"])
    assert ("letters", "good", "alpaca_bridged", "", "win_rate") not in found


def test_a_pair_is_shown_in_both_orders_and_turned_back_once(built):
    rows = read_jsonl(built.path / "results/heads/battles/letters/good.jsonl")
    asked = [row for row in rows if row["source"] == "asked"]
    assert {row["game"] for row in asked} == {"original", "swapped"} and len(asked) == 24
    assert {round(row["value"], 6) for row in asked} == {round(1 + 1 / (1 + math.exp(-1)), 6)}
    assert {tuple(row["lengths"]) for row in asked} == {(4, 36)}
    verdicts = read_jsonl(built.path / "results/heads/battles/verdicts/good.jsonl")
    assert {(row["game"], row["value"], row["weight"]) for row in verdicts} == {("original", 1, 1), ("swapped", 1, 3)}
    served = read_jsonl(built.path / "results/heads/battles/served/other.jsonl")
    assert len(served) == 3 and all(1 < row["value"] < 2 for row in served)


def test_equal_answers_and_published_ones_ask_nobody_and_a_silent_judge_is_asked_once_more(built, teacher):
    bodies = [body for body in teacher.asked if body.get("top_logprobs")]
    assert all(body["logprobs"] is True and body["max_tokens"] == 1 for body in bodies)
    assert len({json.dumps(body["messages"]) for body in bodies}) == 24
    further = [body for body in teacher.asked if len(body["messages"]) == 4]
    assert {body["messages"][2]["content"] for body in further} == {"I am of two minds."}
    assert len({json.dumps(body["messages"]) for body in further}) == 4


def test_the_second_turn_holds_the_first_answer_and_the_reference(built, teacher):
    turns = {row["uid"]: row["turns"] for row in read_jsonl(built.path / "results/heads/turns/grades/base.jsonl")}
    assert all(len(one) == 2 for one in turns.values())
    shown = [body["messages"][1]["content"] for body in teacher.asked if "first question" in str(body["messages"])]
    second = [text for text in shown if "second question" in text]
    # Where both models said the same first, the judge was asked about it once.
    assert len(second) == 2 * 4 and 4 <= len(shown) - len(second) <= 2 * 4
    assert sum("right" in text for text in second) == 2 * 2
    assert any(turns["1"][0].strip() in text for text in second)


def test_nothing_reaches_a_judge_outside_a_fence(built, teacher):
    for body in teacher.asked:
        system, user = (message["content"] for message in body["messages"][:2])
        (fence,) = set(re.findall(r"mark\s+([0-9a-f]{12})", system))
        outside = re.sub(rf"\[{fence} ([^\]]+)\]\n.*?\n\[{fence} end of \1\]", "", user, flags=re.DOTALL)
        for text in ("PRIVATE", "dull", "silence", "right 0"):
            assert text not in outside + system


def test_the_report_says_who_judged_and_what_the_figures_are(built):
    page = " ".join((built.path / "results/heads/report/index.html").read_text().split())
    for words in (
        "Head to head: alpaca",
        "Head to head: arena",
        "Head to head: mt",
        ", retired: nobody can ask it again",
        "prediction-powered inference",
        "are not known; the length-controlled win rate is of a fit without them",
        "published by others, nobody was asked",
        "What others published on this benchmark",
    ):
        assert words in page, words


def test_differences_are_those_asked_for_and_of_the_two_best(built):
    with open(built.path / "results/heads/scores/differences.csv") as handle:
        rows = {(row["suite"], row["model"], row["against"]): row for row in csv.DictReader(handle)}
    # Of four questions that all say the same nothing is clear.
    assert float(rows["verdicts", "good", "base"]["difference"]) == 0.5
    assert float(rows["verdicts", "good", "base"]["p_mcnemar"]) > 0.05
    assert ("grades", "base", "other") in rows or ("grades", "other", "base") in rows


def test_the_estimate_knows_every_request(built, monkeypatch):
    monkeypatch.chdir(built.path)
    found = {job["corpus"]: job for job in Estimator(load(built.config)).jobs()}
    assert {"letters/good", "verdicts/base", "grades/other", "served/base"} <= set(found)
    assert found["letters/good"]["ask"] == 0


def test_a_killed_judge_goes_on_and_asks_nothing_twice(built, tmp_path):
    with OpenAIServer(judged, delay=0.1) as server:
        folder = Folder(shutil.copytree(built.path, tmp_path / "copy", symlinks=True), server)
        shutil.rmtree(folder.path / "journal")
        target = "results/heads/battles/letters/good.jsonl"
        (folder.path / target).unlink()
        process = folder.start(target)
        wait_for(lambda: len(server.asked) >= 8)
        kill_group(process)
        assert not (folder.path / target).exists()
        run = folder.snakemake(target)
        assert run.returncode == 0, run.stdout + run.stderr
        asked = [json.dumps(body["messages"]) for body in server.asked]
        # Of those in flight when it was killed, at most `concurrency` are asked again.
        assert len(set(asked)) == 24 and len(asked) - 24 <= 2


WRONG = {
    "a question without turns": (
        "mt.jsonl",
        {"question_id": 9, "category": "math", "turns": []},
        "suites 'grades': mt.jsonl, row 5: question 9 has no turns",
    ),
    "a reference for a question that is not there": (
        "references.jsonl",
        {"question_id": 77, "choices": [{"turns": ["x"]}]},
        "suites 'grades': references.jsonl, row 3: is a reference for question 77, which is not among the questions",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_row_that_is_wrong_is_a_sentence_before_anything_runs(built, tmp_path, case):
    name, row, told = WRONG[case]
    folder = Folder(shutil.copytree(built.path, tmp_path / "copy", symlinks=True), None)
    with open(folder.path / name, "a") as handle:
        handle.write(json.dumps(row) + "\n")
    run = folder.snakemake("-n")
    assert run.returncode == 1 and told in run.stdout + run.stderr


def test_an_answer_file_of_other_questions_is_a_sentence(built, tmp_path):
    folder = Folder(shutil.copytree(built.path, tmp_path / "copy", symlinks=True), None)
    (folder.path / "weak.json").write_text(json.dumps([{"instruction": "another", "output": "x"}]))
    run = folder.snakemake("-n")
    told = run.stdout + run.stderr
    assert run.returncode == 1 and "weak.json: has no answer to any of these questions" in told
