"""The best of several models, by tables of scores."""

import json

import pytest
from moult.base.errors import UserError
from moult.base.files import write_csv
from moult.evaluation.scores import COLUMNS
from moult.evaluation.selection import by_scores
from moult.weights.headers import link_files

RECIPE = {
    "suite": "dev",
    "metric": "accuracy",
    "method": None,
    "dataset": "mean",
    "higher": True,
    "among": ["a", "b", "c"],
}


def tables(folder, values, **changes):
    """Write a table of scores per model; by likelihood, which is measured second, all are equal."""
    for name, value in values.items():
        row = dict.fromkeys(COLUMNS) | {"model": name, "dataset": "mean", "metric": "accuracy", "value": value}
        rows = [row | {"method": "generate"}, row | {"method": "likelihood", "value": 0.5}]
        write_csv(folder / f"{name}.csv", [one | changes for one in rows], COLUMNS)
    return {name: folder / f"{name}.csv" for name in values}


def test_the_best_is_chosen_and_by_how_much(tmp_path):
    found = by_scores(RECIPE, tables(tmp_path, {"a": 0.5, "b": 0.75, "c": 0.7}))
    assert found == {"chosen": "b", "among": {"a": 0.5, "b": 0.75, "c": 0.7}, "by": 0.05, "runner_up": "c"}


def test_of_equals_the_first_is_taken(tmp_path):
    values = tables(tmp_path, {"c": 0.7, "b": 0.7, "a": 0.7})
    assert by_scores(RECIPE, values)["chosen"] == "a"
    assert by_scores(RECIPE | {"among": ["c", "b", "a"]}, values)["chosen"] == "c"
    assert by_scores(RECIPE | {"method": "likelihood"}, tables(tmp_path, {"a": 0, "b": 1, "c": 0}))["chosen"] == "a"


def test_where_less_is_better_the_least_is_chosen(tmp_path):
    found = by_scores(RECIPE | {"higher": False}, tables(tmp_path, {"a": 0.5, "b": 0.75, "c": 0.7}))
    assert (found["chosen"], found["runner_up"], found["by"]) == ("a", "c", 0.2)


def test_a_score_that_is_not_there_is_one_sentence(tmp_path):
    values = tables(tmp_path, {"a": 0.5, "b": 0.75, "c": 0.7}, dataset="moods")
    with pytest.raises(UserError, match="a has no accuracy on mean under dev; there is moods, accuracy, generate"):
        by_scores(RECIPE, values)


def test_a_model_is_taken_without_its_card(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "README.md", ".snakemake_timestamp"):
        (tmp_path / "model" / name).write_text(json.dumps({}))
    link_files(tmp_path / "model", tmp_path / "target", but="README.md")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["config.json"]
    assert (tmp_path / "target/config.json").samefile(tmp_path / "model/config.json")
