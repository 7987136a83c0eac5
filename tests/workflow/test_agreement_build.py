"""Judges measured through the real Snakefile: a model, an endpoint, somebody's file, and those that read nothing."""

import csv
import json
import re
import shutil

import pytest
from judges import grades, honest, judged_config, pairs, write_judged
from moult.base.files import read_jsonl
from moult.config.load import load
from moult.planning.estimate import Estimator
from openai_server import OpenAIServer
from pico import build_pico_model
from pico_build import Folder
from processes import kill_group, wait_for

# Pairs in two orders and answer by answer, and grades; four pairs with seven attacks and without, and three grades.
ASKED, HIDDEN = 12 * 4 + 8, 4 * (7 + 1) * 2 + 3


@pytest.fixture(scope="module")
def judge():
    with OpenAIServer(honest) as running:
        yield running


def write(folder):
    (folder / "models").mkdir()
    build_pico_model(folder / "models" / "base", max_position_embeddings=8192)
    write_judged(folder, judged_config())


@pytest.fixture(scope="module")
def measured(build_once, judge):
    return build_once("judged", write, judge)


def scores(measured, suite="people"):
    found = {}
    with open(measured.path / "results/judged/scores/summary.csv") as handle:
        for row in csv.DictReader(handle):
            if row["suite"] == suite:
                found[row["model"], row["dataset"], row["method"], row["task"], row["metric"]] = row
    return found


def test_every_judge_has_its_scores(measured):
    found = scores(measured)
    assert {key[0] for key in found} == {"teacher", "base", "somebody", "random", "first"}
    for name in ("teacher", "somebody"):
        row = found[name, "pairs", "compare", "", "agreement"]
        assert (float(row["value"]), row["n"]) == (1, "12")
    assert float(found["teacher", "pairs", "by_grades", "", "agreement"]["value"]) == 1
    assert float(found["teacher", "grades", "grade", "", "pearson"]["value"]) == pytest.approx(1)
    assert float(found["teacher", "grades", "grade", "", "mean_absolute_error"]["value"]) == 0.5
    assert float(found["first", "pairs", "compare", "", "first_wins"]["value"]) == 1
    assert found["teacher", "pairs", "compare", "category: math", "agreement"]["n"] == "4"
    assert float(found["base", "pairs", "compare", "", "unread_rate"]["value"]) == 1
    assert 0 < float(found["teacher", "pairs", "compare", "", "people_kappa"]["value"]) < 1
    enforced = scores(measured, "enforced")
    assert enforced["served", "pairs", "compare", "", "agreement"]["n"] == "1"
    assert float(enforced["served", "pairs", "compare", "", "unread_rate"]["value"]) == 0


def test_an_item_without_a_rubric_is_judged_by_the_declared_one_and_counted(measured):
    manifest = json.loads((measured.path / "results/judged/verdicts/people/teacher.manifest.json").read_text())
    assert manifest["facts"]["rubrics"] == {"default": 4 * 3 + 8, "math": 12, "writing": 12}
    wanted = {f"results/judged/datasets/{name}" for name in ("pairs", "grades")}
    assert set(manifest["parents"]) == wanted


def test_differences_are_to_the_judge_that_the_evaluation_names(measured):
    with open(measured.path / "results/judged/scores/differences.csv") as handle:
        rows = {(row["model"], row["dataset"], row["method"]): row for row in csv.DictReader(handle)}
    assert {row["against"] for row in rows.values()} == {"random"}
    assert (
        rows["teacher", "pairs", "compare"]["n"] == "12"
        and float(rows["teacher", "pairs", "compare"]["p_mcnemar"]) < 0.05
    )


def test_the_report_shows_judges_their_bias_and_people(measured):
    page = " ".join((measured.path / "results/judged/report/index.html").read_text().split())
    for words in (
        "Judges against people",
        "people, pairs compared",
        "How far a judge agrees with itself".lower(),
        "does length move the verdict",
        "People among themselves",
        "agreement with people by category".replace("agreement", "Agreement"),
        "verdicts were by the rubric default",
        "How far hidden instructions pull the judge",
        "so it is",
    ):
        assert words.lower() in page.lower(), words
    assert "<b>judging items</b>" in page or "judging items" in page
    assert "unexplained" not in page


def test_nothing_of_an_item_reached_a_judge_outside_a_fence(measured, judge):
    asked = [body["messages"] for body in judge.asked]
    assert len({json.dumps(one) for one in asked}) == ASKED + HIDDEN - 3
    for system, user in asked:
        (fence,) = set(re.findall(r"mark ([0-9a-f]{12})", system["content"]))
        outside = re.sub(rf"\[{fence} (\w+)\]\n.*?\n\[{fence} end of \1\]", "", user["content"], flags=re.DOTALL)
        for text in ("PRIVATE", "wrong", "worth", "of no rubric", *(f"right {number}" for number in range(12))):
            assert text not in outside + system["content"]


def test_another_test_set_asks_for_its_own_items_only(measured, tmp_path, judge):
    copy = Folder(shutil.copytree(measured.path, tmp_path / "copy", symlinks=True), judge)
    config = copy.config
    (copy.path / "more.json").write_text(json.dumps(grades(3)))
    config["datasets"].append({"name": "more", "format": "judge", "files": {"test": "more.json"}})
    config["suites"][0]["agreement"]["datasets"].append("more")
    copy.config = config
    before = len(judge.asked)
    run = copy.snakemake("results/judged/verdicts/people/teacher.jsonl")
    assert run.returncode == 0, run.stdout + run.stderr
    # Its grades ask what others asked before: of the three, none is new.
    assert len(judge.asked) == before
    assert len(read_jsonl(copy.path / "results/judged/verdicts/people/teacher.jsonl")) == 12 * 3 + 8 + 3


def test_a_killed_judge_goes_on_and_asks_nothing_twice(tmp_path):
    with OpenAIServer(honest, delay=0.1) as server:
        folder = Folder(tmp_path, server)
        config = judged_config()
        config["models"], config["endpoints"] = [], config["endpoints"][:1]
        config["suites"], config["evaluations"] = config["suites"][:1], [{"suite": "people", "judges": ["teacher"]}]
        write_judged(tmp_path, config)
        target = "results/judged/verdicts/people/teacher.jsonl"
        process = folder.start(target)
        wait_for(lambda: len(server.asked) >= 20)
        kill_group(process)
        assert not (tmp_path / target).exists()
        run = folder.snakemake(target)
        assert run.returncode == 0, run.stdout + run.stderr
        asked = [str(body) for body in server.asked]
        assert len(set(asked)) == ASKED
        # Of those in flight when it was killed, at most `concurrency` are asked again.
        assert len(asked) - len(set(asked)) <= 2
    assert {row["status"] for row in read_jsonl(tmp_path / target)} == {"ok"} and len(pairs()) == 12


def test_the_estimate_knows_every_request(measured, monkeypatch):
    monkeypatch.chdir(measured.path)
    found = {job["corpus"]: job for job in Estimator(load(measured.config)).jobs()}
    assert set(found) == {"people/teacher", "enforced/served", "hidden/teacher"}
    assert (found["people/teacher"]["rows"], found["people/teacher"]["ask"]) == (ASKED, 0)
    assert found["enforced/served"]["rows"] == 2 and found["enforced/served"]["dollars_high"] == 0
    assert (found["hidden/teacher"]["rows"], found["hidden/teacher"]["ask"]) == (HIDDEN, 0)
