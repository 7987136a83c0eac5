"""Rows in = rows out + rejects; splits, limits and leakage are what the recipe says."""

import csv
import json

import pytest
from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.data import prepare as preparing
from moult.data.fetch import fetch_dataset
from moult.data.leakage import check_leakage, find_leakage
from moult.data.parquet import read_rows
from moult.data.prepare import prepare_dataset

LABELS = {"dataset": "d", "task": "emotion", "task_words": "emotion", "language": "en", "labels": ["joy", "anger"]}


def recipe(**more):
    plain = {"name": "d", "format": "mmla", "columns": {}, "files": {"train": ["train"]}, "label_set": LABELS}
    plain |= {"task": "emotion", "language": "en", "dev_fraction": 0.0, "limit": None, "seed": 1, "version": 1}
    return plain | more


def raw_file(tmp_path, text, split="train", name="train.tsv", index=0):
    path = tmp_path / "raw" / split / f"{index:02d}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / "raw"


def prepare(tmp_path, text, **more):
    raw = raw_file(tmp_path, text)
    profile = prepare_dataset(recipe(**more), raw, tmp_path / "out")
    return read_rows(tmp_path / "out", "train"), read_jsonl(tmp_path / "out" / "rejects.jsonl"), profile


def test_labels_match_whatever_their_case(tmp_path):
    rows, rejects, profile = prepare(tmp_path, "id\ttext\tlabel\n1\thi\tJOY\n2\tgrr\t Anger \n")
    assert [(row["uid"], row["label"], row["label_id"]) for row in rows] == [
        ("d:train:1", "joy", 0),
        ("d:train:2", "anger", 1),
    ]
    assert rejects == [] and profile["splits"]["train"]["labels"] == {"anger": 1, "joy": 1}


def test_every_bad_row_has_its_reason(tmp_path):
    text = "id\ttext\tlabel\n1\thi\tjoy\n1\tagain\tjoy\n2\t\tjoy\n3\thi\tboredom\n4\tcut\n5\ta\tb\tc\n"
    rows, rejects, profile = prepare(tmp_path, text)
    assert len(rows) == 1
    assert [reject["reason"] for reject in rejects] == [
        "duplicate id",
        "empty text",
        "label 'boredom' is not in the label set",
        "has 2 fields, the header has 3",
        "has 4 fields, the header has 3",
    ]
    assert [reject["source"] for reject in rejects] == [f"train.tsv:{line}" for line in range(3, 8)]
    assert sum(profile["rejects"].values()) == 5 and profile["rows_in"] == {"train": 6}


def test_a_missing_column_is_told_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"no column 'text' \(there is id, utterance, label\); map it"):
        prepare(tmp_path, "id\tutterance\tlabel\n1\thi\tjoy\n")
    rows, _, _ = prepare(tmp_path, "id\tutterance\tlabel\n1\thi\tjoy\n", columns={"text": "utterance"})
    assert rows[0]["text"] == "hi"


def test_nothing_usable_stops_with_the_most_frequent_reason(tmp_path):
    with pytest.raises(UserError, match="train: no usable row, all 3 were rejected, 2 of them for: empty text"):
        prepare(tmp_path, "id\ttext\tlabel\n1\thi\tboredom\n2\t\tjoy\n3\t\tjoy\n")


def test_a_json_row_without_a_column_leaves_the_others_alone(tmp_path):
    raw = raw_file(tmp_path, '[{"text": "hi", "label": "joy"}, {"label": "joy"}]', name="train.json")
    prepare_dataset(recipe(), raw, tmp_path / "out")
    assert len(read_rows(tmp_path / "out", "train")) == 1
    rejects = read_jsonl(tmp_path / "out" / "rejects.jsonl")
    assert rejects[0]["reason"] == "no column 'text'; map it with `columns: {text: <your column>}`"


def test_rows_that_vanish_are_our_error_not_the_users(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_limited", lambda rows, recipe: [])
    monkeypatch.setattr(preparing, "_profile", lambda *parts: {"dataset": "d", "rows_in": parts[2], "splits": {}})
    with pytest.raises(AssertionError, match="rows in {'train': 1}, accounted for {}"):
        prepare(tmp_path, "id\ttext\tlabel\n1\thi\tjoy\n")


def test_a_single_row_stays_in_train(tmp_path):
    rows, _, profile = prepare(tmp_path, "id\ttext\tlabel\n1\thi\tjoy\n", dev_fraction=0.5)
    assert len(rows) == 1 and list(profile["splits"]) == ["train"]
    rows, _, profile = prepare(tmp_path, table(2), dev_fraction=0.9)
    assert {split: told["rows"] for split, told in profile["splits"].items()} == {"train": 1, "dev": 1}
    assert profile["rows_in"] == {"train": 2}


def test_a_hundred_files_keep_their_categories(tmp_path):
    names = [f"f{index}" for index in range(102)]
    for index, name in enumerate(names):
        raw = raw_file(tmp_path, f"title\tquestion_content\n{name}\tq\n", name=f"{name}.tsv", index=index)
    prepare_dataset(recipe(**QUESTIONS | {"files": {"train": names}}), raw, tmp_path / "out")
    assert all(row["title"] == row["meta"]["category"] for row in read_rows(tmp_path / "out", "train"))


def table(n):
    return "id\ttext\tlabel\n" + "".join(f"{i}\ttext number {i}\tjoy\n" for i in range(n))


def test_a_test_split_is_held_out_where_there_is_none(tmp_path):
    text = "id\ttext\tlabel\n" + "".join(f"{number}\ttext {number}\tjoy\n" for number in range(40))
    train, _, profile = prepare(tmp_path, text, test_fraction=0.25, dev_fraction=0.1)
    dev, test = (read_rows(tmp_path / "out", split) for split in ("dev", "test"))
    assert (len(train), len(dev), len(test)) == (27, 3, 10) and profile["test"] == "carved out of train"
    assert {row["split"] for row in test} == {"test"}
    # Another share for selection leaves the test rows as they are.
    prepare(tmp_path, text, test_fraction=0.25, dev_fraction=0.5)
    assert [row["uid"] for row in read_rows(tmp_path / "out", "test")] == [row["uid"] for row in test]


def test_dev_is_carved_with_the_seed_whatever_the_order(tmp_path):
    lines = table(50).splitlines()
    chosen = []
    for order, seed in ((lines[1:], 1), (lines[:0:-1], 1), (lines[1:], 2)):
        folder = tmp_path / str(len(chosen))
        raw = raw_file(folder, "\n".join([lines[0], *order]))
        prepare_dataset(recipe(dev_fraction=0.2, seed=seed), raw, folder / "out")
        train, dev = (read_rows(folder / "out", split) for split in ("train", "dev"))
        assert len(dev) == 10 and len(train) == 40
        assert not {row["uid"] for row in train} & {row["uid"] for row in dev}
        assert {row["split"] for row in dev} == {"dev"}
        chosen.append({row["uid"] for row in dev})
    assert chosen[0] == chosen[1] != chosen[2]


def test_limit_is_a_sample_that_later_limits_contain(tmp_path):
    kept = {}
    for limit in (5, 10):
        rows, rejects, profile = prepare(tmp_path, table(50), limit=limit)
        kept[limit] = {row["uid"] for row in rows}
        assert len(rows) == limit and not rejects and profile["splits"]["train"]["left_out_by_limit"] == 50 - limit
    assert kept[5] < kept[10]


QUESTIONS = {"format": "stackoverflow", "label_set": None, "task": "question_answering", "files": {"train": ["ml"]}}


def test_stackoverflow_tsv_and_json_give_the_same_rows(tmp_path):
    fields = [("t1", "q1", "a;b"), ("t2", "q2", "")]
    tsv = "title\tquestion_content\ttags\n" + "".join("\t".join(row) + "\n" for row in fields)
    as_json = json.dumps([{"title": t, "question_content": q, "tags": g} for t, q, g in fields])
    found = []
    for name, text in (("ml.tsv", tsv), ("ml_data.json", as_json)):
        folder = tmp_path / name
        prepare_dataset(recipe(**QUESTIONS), raw_file(folder, text, name=name), folder / "out")
        found.append([{**row, "source": ""} for row in read_rows(folder / "out", "train")])
    assert found[0] == found[1]
    assert found[0][0]["meta"] == {"category": "ml", "field": "machine learning", "tags": "a;b"}


def test_rows_without_an_id_are_named_by_their_content(tmp_path):
    header, *lines = ["title\tquestion_content", "t1\tq1", "t2\tq2"]
    uids = []
    for order in (lines, lines[::-1]):
        folder = tmp_path / str(len(uids))
        text = "\n".join([header, *order])
        prepare_dataset(recipe(**QUESTIONS), raw_file(folder, text, name="ml.tsv"), folder / "out")
        uids.append([row["uid"] for row in read_rows(folder / "out", "train")])
    assert uids[0] == uids[1][::-1]


def leaking(tmp_path):
    raw = raw_file(tmp_path, "id\ttext\tlabel\n1\tI never said that to anyone\tjoy\n2\tcompletely different\tjoy\n")
    test = "id\ttext\tlabel\n1\ti never said that, to anyone!\tjoy\n2\tI never said that to anyone ever\tjoy\n"
    raw_file(tmp_path, test, split="test", name="test.tsv")
    prepare_dataset(recipe(files={"train": ["train"], "test": ["test"]}), raw, tmp_path / "out")
    return tmp_path / "out"


def test_leakage_exact_and_near(tmp_path):
    pairs = find_leakage(leaking(tmp_path), near=0.8)
    assert [(pair[3], pair[4]) for pair in pairs] == [("d:test:1", "exact"), ("d:test:2", "near")]
    assert [pair[3] for pair in find_leakage(tmp_path / "out", near=1.0)] == ["d:test:1"]


def test_leakage_fails_only_when_asked_to(tmp_path):
    told = {"name": "d", "near": 0.8, "found": "report"}
    assert check_leakage(told, leaking(tmp_path), tmp_path / "table.csv") == {"pairs": 2}
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
    with pytest.raises(UserError, match="2 rows leak between splits, first d:test:1"):
        check_leakage(told | {"found": "fail"}, tmp_path / "out", tmp_path / "table.csv")


def test_leaking_ids_of_any_kind_fit_a_csv(tmp_path):
    head = "id\ttext\tlabel\n"
    raw = raw_file(tmp_path, f"{head}{'x' * 200_000}\tI never said that\tjoy\n")
    raw_file(tmp_path, f'{head}"a\r\nb\0"\tI never said that\tjoy\n', split="test", name="test.tsv")
    prepare_dataset(recipe(files={"train": ["train"], "test": ["test"]}), raw, tmp_path / "out")
    check_leakage({"name": "d", "near": 0.8, "found": "report"}, tmp_path / "out", tmp_path / "table.csv")
    rows = list(csv.DictReader((tmp_path / "table.csv").open(newline="")))
    assert [(len(row["uid_a"]), row["uid_b"]) for row in rows] == [(1000, "d:test:a\\r\\nb\\x00")]


def test_a_wrong_checksum_names_the_file_and_both_sums(tmp_path):
    (tmp_path / "a.tsv").write_text("x")
    source = {"kind": "path", "split": "train", "index": 0, "basename": "a.tsv", "sha256": "0" * 64}
    with pytest.raises(UserError, match="a.tsv: SHA-256 is 2d71.*the config says 0000"):
        fetch_dataset([source], [tmp_path / "a.tsv"], tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_file_of_another_size_or_one_that_is_not_there_is_told(tmp_path):
    (tmp_path / "a.tsv").write_text("x")
    source = {"kind": "path", "split": "train", "index": 0, "basename": "a.tsv", "sha256": None, "size": 1}
    with pytest.raises(UserError, match=r"a.tsv: has 1 bytes, the config says 1,234; put the whole file there"):
        fetch_dataset([source | {"size": 1234}], [tmp_path / "a.tsv"], tmp_path / "raw")
    with pytest.raises(UserError, match=r"a.tsv, a.tsv: 1 of these files are not there; `snakemake -n` says what"):
        fetch_dataset([source, source], [tmp_path / "a.tsv"], tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    fetch_dataset([source], [tmp_path / "a.tsv"], tmp_path / "raw")
