"""Answers judged by a model of the build and by an endpoint that writes the trained judge's line: how the two agree."""

import csv
import json
import re
import shutil

import pytest
from judges import jury_config
from moult.base.files import read_jsonl
from moult.config.load import load
from moult.inference.judge_replies import pair_line
from moult.planning.estimate import Estimator
from moult.planning.needs import job_needs
from moult.stages import BY_RULE
from openai_server import OpenAIServer
from pico import build_pico_model
from pico_build import Folder
from processes import kill_group, wait_for

pytestmark = pytest.mark.soak
WORTH = {0.1: 5, 0.2: 8, 0.3: 3}
ASKED = 8


def reply(body):
    """As a teacher, answer with what the temperature says that the answer is worth; as a judge, go by that, or, as the
    judge called contrary, by the opposite."""
    text = body["messages"][-1]["content"]
    if "answer_1]" not in text:
        return f"PRIVATE answer worth {WORTH[body['temperature']]} <b>"
    first, second = (int(text.split(f" {name}]\nPRIVATE answer worth ")[1][0]) for name in ("answer_1", "answer_2"))
    first, second = (first, second) if body["model"] == "big" else (10 - first, 10 - second)
    winner = "first" if first > second else "second"
    return pair_line({"Use": first}, {"Use": second}, (first, second), winner, "it is of use")


def write(folder):
    (folder / "models").mkdir()
    build_pico_model(folder / "models" / "base", max_position_embeddings=8192)
    lines = [f"PRIVATE title {number}\tPRIVATE question {number}?" for number in range(ASKED)]
    (folder / "questions.tsv").write_text("\n".join(["title\tquestion_content", *lines]) + "\n")
    (folder / "judge" / "criteria").mkdir(parents=True)
    dimensions = [{"name": "use", "sentence": "The answer is of use."}]
    (folder / "judge" / "criteria" / "short.yaml").write_text(json.dumps({"dimensions": dimensions}))
    (folder / "pico.yaml").write_text(json.dumps(jury_config("short")))


@pytest.fixture(scope="module")
def server():
    with OpenAIServer(reply) as running:
        yield running


@pytest.fixture(scope="module")
def jury(build_once, server):
    return build_once("jury", write, server)


def scores(jury, suite):
    with open(jury.path / "results/two/scores/summary.csv") as handle:
        rows = [row for row in csv.DictReader(handle) if row["suite"] == suite and row["dataset"] == "questions"]
    return {(row["model"], row["task"], row["metric"]): row for row in rows}


def test_a_judge_of_this_build_and_an_endpoint_judge_the_same_answers_each_in_its_form(jury):
    results = jury.path / "results/two"
    ours = read_jsonl(results / "judgements/mixed/t2.jsonl")
    theirs = read_jsonl(results / "opinions/mixed/t2/teacher.jsonl")
    assert len(ours) == 4 and {row["status"] for row in ours + theirs} == {"ok"}
    assert [(row["uid"], row["order"]) for row in ours] == [(row["uid"], row["order"]) for row in theirs]
    assert {row["judge"] for row in ours} == {"base"} and {row["judge"] for row in theirs} == {"big"}
    assert all(row["winner"] == "A" and row["scores"]["A"] == {"use": 8, "overall": 8} for row in theirs)
    assert json.loads((results / "opinions/mixed/t2/teacher.usage.json").read_text())["cost_usd"] > 0
    # The scores are the first judge's.
    assert scores(jury, "mixed")["t2", "use", "score"]["n"] == "2"


def test_the_line_has_scores_by_its_winner_and_its_dimensions(jury):
    found = scores(jury, "lines")
    assert float(found["t2", "overall", "win_share"]["value"]) == 1
    assert float(found["t3", "overall", "win_share"]["value"]) == 0
    assert float(found["t2", "use", "score"]["value"]) == float(found["t2", "overall", "score"]["value"]) == 8
    assert float(found["t2", "use", "win_share"]["value"]) == 1 and found["t2", "use", "win_share"]["n"] == str(ASKED)


def test_the_report_says_how_judges_agree_and_where_they_differ(jury):
    said = json.loads((jury.path / "results/two/consensus/lines.json").read_text())
    (pair,) = said["pairs"]
    assert (pair["judges"], pair["n"], pair["questions"]) == (["teacher", "other"], 2 * ASKED, ASKED)
    assert pair["same_winner"]["value"] == 0 and pair["ranks"]["value"] == -1
    # Each says A as often as B, and they never agree.
    assert pair["kappa"]["value"] == -1
    assert len(pair["differing"]) == 10
    one = pair["differing"][0]
    assert one["question"].startswith("PRIVATE title") and one["answers"]["B"] == "PRIVATE answer worth 5 <b>"
    page = " ".join((jury.path / "results/two/report/index.html").read_text().split())
    assert "How the judges agree" in page and "The 10 pairs of answers on which teacher and other differ most" in page
    assert page.count("Agreement of the judges of") == 2
    assert "answer worth 5 &lt;b&gt;" in page and "it is of use" in page and "opinions/lines/t2/other" in page
    assert "unexplained" not in page


def test_no_text_of_a_question_or_an_answer_reached_a_judge_outside_a_fence(jury, server):
    asked = [body["messages"] for body in server.asked if "answer_1]" in body["messages"][-1]["content"]]
    assert len(asked) >= 2 * 2 * ASKED * 2
    for system, user in asked:
        (fence,) = set(re.findall(r"mark ([0-9a-f]{12})", system["content"]))
        outside = re.sub(rf"\[{fence} (\w+)\]\n.*?\n\[{fence} end of \1\]", "", user["content"], flags=re.DOTALL)
        assert "PRIVATE" not in outside + system["content"] and 'kind "short"' in system["content"]


def test_estimate_and_needs_know_every_judge(jury, monkeypatch):
    monkeypatch.chdir(jury.path)
    cfg = load(jury.config)
    found = {job["corpus"]: job for job in Estimator(cfg).jobs()}
    assert {name for name in found if name.startswith(("mixed", "lines"))} == {
        "mixed/t2",
        "mixed/t2/teacher",
        *("lines/t2", "lines/t3", "lines/t2/other", "lines/t3/other"),
    }
    assert (found["lines/t3/other"]["rows"], found["lines/t3/other"]["ask"]) == (2 * ASKED, 0)
    assert found["mixed/t2"]["dollars_high"] == 0 and found["mixed/t2"]["ask"] == 0
    again, first = BY_RULE["judge_again"], BY_RULE["judge_answers"]
    assert again.needed(cfg, "mixed", "t2", "teacher") == "tables" and first.needed(cfg, "mixed", "t2") == "inference"
    assert (
        job_needs(cfg, first, ("mixed", "t2"))["mem_mb"] > job_needs(cfg, again, ("mixed", "t2", "teacher"))["mem_mb"]
    )


def test_a_further_judge_asks_the_others_nothing_and_killed_goes_on(jury, tmp_path, server):
    copy = Folder(shutil.copytree(jury.path, tmp_path / "copy", symlinks=True), server)
    told = copy.config
    told["endpoints"].append(told["endpoints"][1] | {"name": "third", "model": "contrary again"})
    told["suites"][1]["judge"]["judges"].append("third")
    copy.config = told
    planned = copy.planned("results/two/consensus/lines.json")
    assert planned == {"opinions/lines/t2/third.jsonl", "opinions/lines/t3/third.jsonl", "consensus/lines.json"}
    target, before = "results/two/opinions/lines/t2/third.jsonl", len(server.asked)
    server.delay = 0.1
    try:
        process = copy.start(target)
        wait_for(lambda: len(server.asked) - before >= 9)
        kill_group(process)
        assert not (copy.path / target).exists()
    finally:
        server.delay = 0.0
    run = copy.snakemake(target)
    assert run.returncode == 0, run.stdout + run.stderr
    asked = [str(body) for body in server.asked[before:]]
    assert len(set(asked)) == 2 * ASKED and all("contrary again" in body for body in asked)
    # Of those in flight when it was killed, at most `concurrency` are asked again.
    assert len(asked) - len(set(asked)) <= 2
