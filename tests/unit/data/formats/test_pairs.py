"""Preference data of LLaMA-Factory is prepared, exported as it was, and read as pairs."""

import json

import pytest
from moult.base.errors import UserError
from moult.base.files import read_json, read_jsonl
from moult.config.load import load
from moult.data.exports import export_dataset
from moult.training.pairs import read_pairs
from prepared import prepare_with_manifest

TURN = {"from": "gpt", "value": "good"}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}], "chosen": TURN, "rejected": TURN | {"value": "bad"}}
ALPACA = {"instruction": "i", "input": "q", "chosen": "good", "rejected": "bad"}


def prepare(folder, rows, formatting, **more):
    place = folder / "raw" / "train" / "00-train.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(rows))
    recipe = {"name": "d", "format": formatting, "columns": {}, "tags": {}, "files": {"train": ["train"]}}
    recipe |= {"label_set": None, "task": "conversation", "language": "und", "dev_fraction": 0.0, "limit": None}
    prepare_with_manifest(recipe | {"seed": 1, "version": 1} | more, folder / "raw", folder / "data")
    return [reject["reason"] for reject in read_jsonl(folder / "data" / "rejects.jsonl")]


@pytest.mark.parametrize(
    ("formatting", "row", "asked"), [("alpaca_pairs", ALPACA, "i\nq"), ("sharegpt_pairs", SHAREGPT, "q")]
)
def test_pairs_feed_optimise_and_come_out_as_they_went_in(tmp_path, formatting, row, asked):
    rows = [row, row | {"id": "x"}, row | {"rejected": row["chosen"], "chosen": row["rejected"]}]
    assert prepare(tmp_path, rows, formatting) == []
    train, dev, dropped = read_pairs([tmp_path / "data"], ["d"], 1)
    assert len(train) == 2 and len(dev) == 1 and dropped == []
    found = {one.uid: one for one in [*train, *dev]}["d/d:train:x"]
    assert (found.chosen, found.rejected) == (["good"], ["bad"])
    assert found.messages == [{"role": "user", "content": asked}]
    export_dataset({"name": "d", "template": None}, tmp_path / "data", tmp_path / "export")
    entry = read_json(tmp_path / "export" / "dataset_info.json")["d_train"]
    assert (entry["formatting"], entry["ranking"]) == (formatting.removesuffix("_pairs"), True)
    assert (tmp_path / "export" / entry["file_name"]).read_text() == json.dumps(rows)


def test_what_is_no_pair_is_rejected_with_its_reason(tmp_path):
    rows = [ALPACA, ALPACA | {"chosen": ["good"]}, ALPACA | {"rejected": " "}, {"instruction": "i", "chosen": "g"}]
    assert prepare(tmp_path / "a", rows, "alpaca_pairs") == [
        "chosen is a list, not text",
        "rejected: empty answer",
        "no column 'rejected'; map it with `columns: {rejected: <your column>}`",
    ]
    answered = SHAREGPT | {"conversations": [*SHAREGPT["conversations"], TURN]}
    rows = [SHAREGPT, answered, SHAREGPT | {"chosen": "good"}, SHAREGPT | {"chosen": {"from": "human", "value": "x"}}]
    assert prepare(tmp_path / "s", rows, "sharegpt_pairs") == [
        "the prompt does not end with a question",
        "chosen is no object with 'from' and 'value'",
        "chosen is no answer of 'gpt'",
    ]


def test_pairs_that_cannot_be_trained_on_are_kept_and_said(tmp_path):
    called = [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}]
    rows = [
        SHAREGPT,
        SHAREGPT | {"id": "2"},
        SHAREGPT | {"conversations": [*called, {"from": "observation", "value": "o"}]},
    ]
    seen = SHAREGPT | {"conversations": [{"from": "human", "value": "<image>q"}], "images": ["i.png"]}
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    prepare(tmp_path, [*rows, seen], "sharegpt_pairs", columns=columns)
    train, dev, dropped = read_pairs([tmp_path / "data"], ["d"], 1)
    assert len(train) + len(dev) == 2
    assert [one["reason"] for one in dropped] == [
        "calls tools, which is not trained on",
        "has images, which are not trained on",
    ]


def study(tmp_path, way, **data):
    (tmp_path / "p.json").write_text("[]")
    model = {"name": "tuned", way: {"base": "base", "data": ["d"]}}
    base = {"name": "base", "fetch": {"path": str(tmp_path)}, "parameters": 0.1}
    return load({"name": "x", "datasets": [{"name": "d"} | data], "models": [base, model]})


def test_an_entry_with_ranking_is_trained_on_by_optimise_alone(tmp_path):
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"p": {"file_name": "p.json", "ranking": True, "columns": columns}}))
    entry = {"dataset_info": str(info), "entries": {"train": "p"}}
    assert study(tmp_path, "optimise", **entry).find("datasets", "d").format == "alpaca_pairs"
    with pytest.raises(UserError, match="'d' are preference pairs; write `optimise`"):
        study(tmp_path, "finetune", **entry)


def test_preference_columns_name_the_format(tmp_path):
    columns = {"prompt": "instruction", "response": "output", "chosen": "chosen"}
    with pytest.raises(UserError, match="'chosen' is of preference data; write `format: alpaca_pairs`"):
        study(tmp_path, "finetune", format="alpaca", files={"train": "p.json"}, columns=columns)
