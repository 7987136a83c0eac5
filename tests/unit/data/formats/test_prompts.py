"""Rows of format prompts: one for each prompt, whatever the file spells it as; the rest are rejects with a reason."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_page import as_bytes, outcome_of, table_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.config.load import load
from moult.data.examples import training_examples
from moult.data.exports import export_dataset
from moult.data.parquet import read_rows
from moult.stages.datasets import prepare_dataset as recipe_of
from prepared import prepare_with_manifest

ENTRY = {"name": "d", "format": "prompts", "files": {"train": "train.jsonl"}, "dev_fraction": 0}


def prepare(folder, raw, ending=".jsonl", **more):
    """Prepare one file; return (rows, rejects)."""
    place = folder / "raw" / "train" / f"00-train{ending}"
    place.parent.mkdir(parents=True)
    if isinstance(raw, bytes):
        place.write_bytes(raw)
    else:
        pq.write_table(pa.Table.from_pylist(raw), place)
    recipe = recipe_of(load({"name": "x", "datasets": [ENTRY | more]}), "d")
    profile = prepare_with_manifest(recipe, folder / "raw", folder / "d")
    rows, rejects = read_rows(folder / "d", "train"), read_jsonl(folder / "d" / "rejects.jsonl")
    assert profile["rows_in"]["train"] == len(rows) + len(rejects)
    return rows, rejects


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def chat(*texts, **more):
    """Return a row in which user and assistant take turns."""
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"messages": turns} | more


@pytest.mark.parametrize("example, outcome", table_of("Prompts"))
def test_a_row_becomes_what_the_page_says(tmp_path, example, outcome):
    raw = b'{"prompt": "before"}\n' + as_bytes(example) + b'\n{"prompt": "after"}\n'
    rows, rejects = prepare(tmp_path, raw)
    kept, rejected = outcome_of(outcome)
    assert [row["text"] for row in rows] == ["before", *kept, "after"]
    assert [reject["reason"] for reject in rejects] == rejected


def test_the_whole_prompt_is_kept_and_the_answer_is_not(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    row = chat("a", "b", "c", "d", prompt_id="p7")
    row["messages"].insert(0, system)
    (found,), _ = prepare(tmp_path, lines(row))
    assert found["meta"] == {"messages": row["messages"][:-1]} and found["text"] == "c"
    assert (found["uid"], found["source"]) == ("d:train:p7", "train.jsonl:1")
    assert (found["task"], found["lang"], found["label"], found["title"]) == ("conversation", "und", None, None)


def test_prompt_wins_over_messages_and_columns_say_otherwise(tmp_path):
    row = chat("long", "b", "longer", prompt="short", n="5")
    assert [one["text"] for one in prepare(tmp_path / "a", lines(row))[0]] == ["short"]
    (found,), _ = prepare(tmp_path / "b", lines(row), columns={"prompt": "messages", "id": "n"})
    assert (found["text"], found["uid"]) == ("longer", "d:train:5")


def test_exact_duplicates_are_one_row_and_an_id_names_one_prompt(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "a", "id": "1"}, chat("a", "answer"), {"prompt": "A"}, {"prompt": "a "}]
    kept, rejects = prepare(tmp_path, lines(*rows, {"prompt": "b", "id": "2"}, {"prompt": "c", "id": "2"}))
    assert [row["text"] for row in kept] == ["a", "A", "a ", "b"]
    assert [(one["source"].split(":")[1], one["reason"]) for one in rejects] == [
        ("2", "duplicate prompt"),
        ("3", "duplicate prompt"),
        ("7", "duplicate id"),
    ]


def test_reordering_a_file_renames_no_row(tmp_path):
    rows = [{"prompt": "a"}, chat("b", "x", "c"), {"prompt": "d"}]
    before, _ = prepare(tmp_path / "a", lines(*rows))
    after, _ = prepare(tmp_path / "b", lines(*reversed(rows)))
    assert {row["uid"]: row["text"] for row in before} == {row["uid"]: row["text"] for row in after}
    assert len({row["uid"] for row in before}) == 3


def test_parquet_gives_the_rows_that_json_lines_give(tmp_path):
    rows = [chat("a", "b", "c"), chat("a", "b", "c"), chat("d"), chat(""), {"messages": None}, {"messages": []}]
    rows = [row | {"prompt_id": f"p{index}", "score": 0.5} for index, row in enumerate(rows)]
    kept, rejects = prepare(tmp_path / "a", lines(*rows))
    again, others = prepare(tmp_path / "b", rows, ".parquet")
    assert [one["reason"] for one in rejects] == ["duplicate prompt", "message 1: empty prompt", *["empty prompt"] * 2]
    assert [one["reason"] for one in others] == [one["reason"] for one in rejects]
    assert [row | {"source": None} for row in again] == [row | {"source": None} for row in kept]
    assert [row["source"] for row in again] == ["train.parquet:1", "train.parquet:3"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "system", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries({"role": inner, "content": inner})
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(("prompt", "messages", "id"), VALUES)) | VALUES))
def test_any_json_is_a_row_or_a_reject(tmp_path_factory, values):
    rows, rejects = prepare(tmp_path_factory.mktemp("t"), lines({"prompt": "sure"}, *values))
    assert len(rows) + len(rejects) == len(values) + 1
    for row in rows:
        assert row["meta"]["messages"][-1] == {"role": "user", "content": row["text"]} and row["text"].strip()


def test_prompts_teach_nothing(tmp_path):
    prepare(tmp_path, lines({"prompt": "a"}))
    told = "d: rows of format prompts have no answer to train on"
    with pytest.raises(UserError, match=told):
        training_examples([tmp_path / "d"], {"d": None}, "train")
    with pytest.raises(UserError, match=told):
        export_dataset({"name": "d", "template": None}, tmp_path / "d", tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"columns": {"promt": "x"}}, "columns: 'promt' is not a field of prompts; did you mean 'prompt'?"),
        ({"prompt": "meteor/answer"}, "prompt: a row of prompts has its own prompt; leave it out"),
        ({"labels": ["a"], "task": "t"}, "labels: rows of format prompts have none; leave them out"),
        ({"videos": {"path": "v"}}, "videos: rows of format prompts have none"),
    ],
)
def test_a_wrong_entry_is_told(more, sentence):
    with pytest.raises(UserError) as told:
        load({"name": "x", "datasets": [ENTRY | more]})
    assert sentence in str(told.value)


def test_prompts_are_refused_where_questions_or_answers_are_needed():
    raw = {"name": "x", "datasets": [ENTRY], "endpoints": [{"name": "e", "serve": "base"}]}
    raw["corpora"] = [{"name": "c", "kind": "distilled", "dataset": "d", "endpoint": "e"}]
    raw["models"] = [{"name": "base", "fetch": {"path": "b"}, "parameters": 0.1}]
    raw["models"] += [{"name": "tuned", "finetune": {"base": "base", "data": ["d"]}}]
    raw["suites"] = [{"name": "s", "judge": {"datasets": ["d"], "endpoint": "e"}}]
    with pytest.raises(UserError) as told:
        load(raw)
    assert "corpora 'c', dataset: the rows of 'd' are prompts, not questions; there is no dataset" in str(told.value)
    assert "suites 's', datasets: the rows of 'd' are prompts, not questions" in str(told.value)
    assert "models 'tuned', data: the rows of 'd' have no answer to train on" in str(told.value)
