"""lm-eval's tasks through the real Snakefile: rows fetched from a hub, two models, scores, differences, report."""

import csv
import json
import re

import pytest
from benchmark_runs import Benchmarks, write_benchmarks

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def measured(build_once):
    return build_once("academic", write_benchmarks, None, Benchmarks)


def log(folder, model):
    return (folder.path / "logs/academic/run_lm_eval/hard" / f"{model}.log").read_text()


def table(folder, name):
    with open(folder.path / "results/academic/scores" / f"{name}.csv") as handle:
        return list(csv.DictReader(handle))


def test_every_task_has_its_rows_errors_marks_and_differences(measured):
    rows = {(row["model"], row["dataset"], row["metric"]): row for row in table(measured, "summary")}
    assert {key[1] for key in rows} == {"kinds", "kinds_choice", "kinds_cloze", "pico_sums", "far"}
    far = rows["taught", "far", "acc"]
    assert (far["value"], far["n"], far["limit"], far["marks"]) == ("1.0", "6", "6", "6 of 24 rows")
    assert rows["taught", "pico_sums", "exact_match,strict-match"]["marks"] == "6 of 24 rows; 1 shot instead of 2"
    assert rows["random", "kinds", "acc"]["task"] == "group" and rows["random", "kinds", "acc"]["n"] == "12"
    told = {(row["dataset"], row["metric"]): row for row in table(measured, "differences")}
    assert float(told["far", "acc"]["difference"]) == 1 and told["far", "acc"]["n"] == "6"
    page = (measured.path / "results/academic/report/index.html").read_text()
    assert "6 of 24 rows" in page and "1 shot instead of 2" in page and "lm-eval 0.4.13" in page
    assert not re.search(r'<b class="value">', page)


def test_only_the_files_that_are_named_are_fetched_and_runs_ask_no_hub(measured):
    folder = measured.path / "results/academic/taskdata/hard/org/rows"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"README.md", "data/test.jsonl"}
    results = json.loads((measured.path / "results/academic/lm_eval/hard/taught.results.json").read_text())
    assert str(measured.path) not in json.dumps(results) and results["n-shot"]["far"] == 1


def test_nothing_is_left_to_do_and_a_model_is_loaded_once(measured):
    assert measured.planned() == set()
    for model in ("taught", "random"):
        assert log(measured, model).count("is loaded") == 1


def test_a_changed_row_and_a_new_task_ask_for_what_is_new(measured):
    rows = measured.path / "data" / "sums_test.jsonl"
    rows.write_text(rows.read_text().replace("What is 5 plus 8?", "What is 8 plus 5?", 1))
    config = measured.config
    config["suites"][0]["lm_eval"]["tasks"].append("kinds_prose")
    measured.config = config
    assert {path.split("/")[0] for path in measured.planned()} == {"lm_eval", "scores", "plots", "report"}
    run = measured.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    asked = re.findall(r"(\d+) requests, (\d+) of them answered before, (\d+) to ask", log(measured, "taught"))
    # Choices and clozes, sums, pages.
    assert [to_ask for _, _, to_ask in asked] == ["0", "1", "6"]


def test_samples_without_their_results_are_made_again(measured):
    (measured.path / "results/academic/lm_eval/hard/taught.results.json").unlink()
    assert "lm_eval/hard/taught.jsonl" in measured.planned()
