"""Rows of tasks from a hub: the files that are named, at their revision, or one sentence."""

import pytest
from moult.base.errors import UserError
from moult.evaluation.lm_eval_fetch import fetch_task_data
from sources import REVISION, serving_hub

SOURCE = {"hub": "org/rows", "revision": REVISION, "files": ["data"], "token": None}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("README.md", "data/test.jsonl", "other/test.jsonl"):
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).write_text(f"{name}\n")
    with serving_hub(tmp_path / "hub", tmp_path / "cache", monkeypatch):
        yield tmp_path


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_named_comes_whole_and_nothing_else(hub):
    assert fetch_task_data([SOURCE], hub / "made") == 2
    assert files_in(hub / "made") == {"org/rows/README.md", "org/rows/data/test.jsonl"}
    fetch_task_data([SOURCE | {"files": []}], hub / "whole")
    assert files_in(hub / "whole") == {
        f"org/rows/{name}" for name in ("README.md", "data/test.jsonl", "other/test.jsonl")
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"revision": None}, "`revision` is null; run `make pin`"),
        ({"files": ["dota"]}, "has none of dota; correct `files`"),
        ({"hub": "org/none"}, "hub dataset org/none: cannot be fetched ("),
        ({"hub": "org/gated"}, "accept its terms on the hub and name `token`"),
        ({"hub": "org/gated", "token": "MY_TOKEN"}, "MY_TOKEN"),
        ({"revision": "f" * 40}, "cannot be fetched ("),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_and_leaves_nothing(hub, monkeypatch, changed, said):
    monkeypatch.delenv("MY_TOKEN", raising=False)
    with pytest.raises(UserError) as told:
        fetch_task_data([SOURCE | changed], hub / "made")
    assert said in str(told.value) and "\n" not in str(told.value)
    assert not (hub / "made").exists()


def test_a_gated_one_comes_with_its_token(hub, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hf_secret")
    assert fetch_task_data([SOURCE | {"hub": "org/gated", "token": "MY_TOKEN"}], hub / "made") == 2
