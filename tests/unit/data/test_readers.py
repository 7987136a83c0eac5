"""Every row of a raw file has its place, whatever the file holds; docs/hostile-data.md is what is compared with."""

import csv
import io
import itertools
import json
import re
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_page import as_bytes, outcome_of, spelt, table_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.data.parquet import read_rows
from moult.data.prepare import prepare_dataset
from moult.data.readers import LINE_END, Number, read_raw

LABELS = {"dataset": "d", "task": "mood", "task_words": "mood", "language": "en", "labels": ["joy", "anger"]}
RECIPE = {"name": "d", "format": "mmla", "columns": {}, "files": {"train": ["train"]}, "label_set": LABELS}
RECIPE |= {"task": "mood", "language": "en", "dev_fraction": 0.0, "limit": None, "seed": 1, "version": 1}
AROUND = {
    ".tsv": (b"id\ttext\tlabel\n1\tbefore\tjoy\n", b"\n9\tafter\tanger\n"),
    ".csv": (b"id,text,label\n1,before,joy\n", b"\n9,after,anger\n"),
    ".json": (b'[{"text": "before", "label": "joy"},', b', {"text": "after", "label": "anger"}]'),
    ".jsonl": (b'{"text": "before", "label": "joy"}\n', b'\n{"text": "after", "label": "anger"}\n'),
}


def prepare(folder, raw, ending=".tsv", **more):
    path = folder / "raw" / "train" / f"00-train{ending}"
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    profile = prepare_dataset(RECIPE | more, folder / "raw", folder / "out")
    return read_rows(folder / "out", "train"), read_jsonl(folder / "out" / "rejects.jsonl"), profile


def read(folder, raw, ending=".tsv"):
    path = folder / f"t{ending}"
    path.write_bytes(raw)
    return list(read_raw(path))


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("ending, example, outcome", table_of("Rows"))
def test_a_row_becomes_what_the_page_says(tmp_path, ending, example, outcome):
    before, after = AROUND[ending]
    rows, rejects, profile = prepare(tmp_path, before + as_bytes(example) + after, ending)
    kept, rejected = outcome_of(outcome)
    assert [row["text"] for row in rows] == ["before", *kept, "after"]
    assert [reject["reason"] for reject in rejects] == rejected
    assert profile["rows_in"] == {"train": len(rows) + len(rejects)}


@pytest.mark.parametrize("ending, example, sentence", table_of("Files"))
def test_a_file_is_refused_with_the_sentence_of_the_page(tmp_path, ending, example, sentence):
    raw = as_bytes(example) if spelt(example) != [""] else b""
    with pytest.raises(UserError, match=re.escape(spelt(sentence)[0])):
        prepare(tmp_path, raw, ending)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- any table

NASTY = st.text(st.sampled_from(list("\"'\t\n\r ,ab1\x00\ufeff\x85\u2028é😀\x1b<|{}%$`\\")), max_size=8)
BYTES = st.lists(st.sampled_from([b'"', b'""', b"\t", b"\n", b"\r\n", b"\r", b"a", b"\xe9", b"\x00", b"joy", b" "]))
QUICK = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WHOLE = settings(QUICK, max_examples=120)


@st.composite
def tables(draw):
    width = draw(st.integers(1, 4))
    return draw(st.lists(st.lists(NASTY, min_size=width, max_size=width), min_size=1, max_size=6))


@QUICK
@given(tables(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@pytest.mark.parametrize("ending", [".tsv", ".csv"])
def test_what_the_csv_module_writes_comes_back_cell_for_cell(tmp_path, ending, cells, line_end, quoting):
    if line_end == "\n" and quoting == csv.QUOTE_MINIMAL:
        # This Python's csv leaves a lone CR unquoted there.
        cells = [[cell.replace("\r", "") for cell in row] for row in cells]
    # A blank line is no row; only a table of one column can write one.
    assume(all(len(row) > 1 or row[0].strip() for row in cells))
    buffer = io.StringIO(newline="")
    header = [f"c{index}" for index in range(len(cells[0]))]
    delimiter = "\t" if ending == ".tsv" else ","
    csv.writer(buffer, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows([header, *cells])
    found = read(tmp_path, buffer.getvalue().encode(), ending)
    assert [list(row.values()) for _, row, reason in found if reason is None] == cells


@WHOLE
@given(BYTES, st.sampled_from([None, 1, 2]))
def test_rows_in_are_rows_out_rejects_and_rows_left_out(tmp_path_factory, parts, limit):
    folder = tmp_path_factory.mktemp("t")
    raw = b"id\ttext\tlabel\n0\tsure\tjoy\n" + b"".join(parts)
    rows, rejects, profile = prepare(folder, raw, limit=limit)
    left_out = profile["splits"]["train"]["left_out_by_limit"]
    assert profile["rows_in"]["train"] == len(rows) + len(rejects) + left_out
    lines = LINE_END.split(raw.decode("utf-8", "surrogateescape"))
    numbers = [number for number, _, _ in read(folder, raw)]
    # Each number is a line of the file that holds something; without quotes each such line is a row.
    solid = [number for number, line in enumerate(lines[1:], start=2) if line.strip() or "\t" in line]
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(solid)
    if b'"' not in raw:
        assert numbers == solid


@WHOLE
@given(st.binary(max_size=80), st.sampled_from([".tsv", ".csv", ".json", ".jsonl"]), st.booleans())
def test_nothing_but_a_user_error_is_raised(tmp_path_factory, raw, ending, among_rows):
    before, after = AROUND[ending] if among_rows else (b"", b"")
    try:
        rows, rejects, profile = prepare(tmp_path_factory.mktemp("t"), before + raw + after, ending)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert profile["rows_in"]["train"] == len(rows) + len(rejects)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), inner, max_size=2),
    max_leaves=6,
)


@WHOLE
@given(st.lists(JSON_VALUES | st.fixed_dictionaries({"text": JSON_VALUES, "label": JSON_VALUES}), max_size=4))
def test_any_json_is_a_row_or_a_reject(tmp_path_factory, values):
    sure = {"text": "sure", "label": "joy"}
    for ending, raw in (
        (".json", json.dumps([sure, *values])),
        (".jsonl", "\n".join(map(json.dumps, [sure, *values]))),
    ):
        rows, rejects, _ = prepare(tmp_path_factory.mktemp("t"), raw.encode(), ending)
        assert len(rows) + len(rejects) == 1 + len(values)


# ---------------------------------------------------------------- single cases


def test_rows_are_named_by_the_line_on_which_they_begin(tmp_path):
    raw = b'\n\xef\xbb\xbfid\ttext\r\n\r\n1\t"a\nb\r\nc"\n2\tx\r\r3\ty\tz\n"4\ty'
    assert [number for number, _, _ in read(tmp_path, raw)] == [4, 7, 9, 10]


def test_a_mark_of_byte_order_is_no_part_of_the_first_name(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbfid\ttext\n1\ta\n") == [(2, {"id": "1", "text": "a"}, None)]
    assert read(tmp_path, b'\xef\xbb\xbf[{"id": "1"}]', ".json") == [(1, {"id": "1"}, None)]


def test_columns_without_a_name_are_ignored(tmp_path):
    assert read(tmp_path, b"\ttext\t \n0\ta\tb\n") == [(2, {"text": "a"}, None)]


def test_a_stray_pair_of_quotes_swallows_no_good_row(tmp_path):
    good = "".join(f"{index}\tword {index}\tjoy\n" for index in range(20))
    raw = f'id\ttext\tlabel\na\t"I never\n{good}b\twould"\tjoy\nc\t"lone\tjoy\n'
    found = read(tmp_path, raw.encode())
    assert [reason for _, _, reason in found if reason] == ["has 2 fields, the header has 3"]
    assert [number for number, _, _ in found] == list(range(2, 25))


def test_a_quoted_reading_that_could_be_wrong_is_warned_of(tmp_path, caplog):
    assert len(read(tmp_path, b'id\ttext\n1\t"a\n2\tb"\n')) == 1
    assert "t.tsv, line 2: read as one row for its quotes, its lines look like rows" in caplog.text


@pytest.mark.parametrize(
    "cell",
    ["x" * 10_000_000, '"' + '""' * 5_000_000 + '"', '"a\t' * 1000, '"' + "a\n" * 100_000 + '"', '"b""' * 1_000_000],
    ids=["long", "doubled quotes", "opening quotes", "lines", "stray quotes"],
)
def test_a_field_of_any_length_is_kept_in_linear_time(tmp_path, cell):
    found = read(tmp_path, f"text\tid\n{cell}\t1\n".encode())
    assert len(found) == 1
    assert found[0][2] is None or cell.count("\t") > 1


def test_opening_quotes_on_every_line_take_linear_time(tmp_path):
    found = read(tmp_path, b"id\ttext\n" + b'1\t"a\n' * 30_000 + b'"\t"x\n' * 30_000)
    assert sum(reason is None for _, _, reason in found) >= 30_000


def test_a_reject_of_a_huge_row_is_small_and_says_so(tmp_path):
    wide = "\t".join(str(index) for index in range(5000))
    raw = f"id\ttext\tlabel\n1\tfine\tjoy\n2\t{'x' * 10_000_000}\t{'y' * 3000}\n{wide}\n".encode()
    _, rejects, _ = prepare(tmp_path, raw)
    assert rejects[0]["reason"] == f"label '{'y' * 40}' is not in the label set"
    assert rejects[0]["cut"] == {"text": 10_000_000, "label": 3000}
    assert {name: len(cell) for name, cell in rejects[0]["row"].items()} == {"id": 1, "text": 2000, "label": 2000}
    assert rejects[1]["cut"] == {"fields": 5000} and len(rejects[1]["row"]) == 100
    assert rejects[1]["row"]["field 4"] == "3"


def test_rejects_of_undecodable_bytes_can_be_read(tmp_path):
    _, rejects, _ = prepare(tmp_path, b"id\ttext\tlabel\n1\tfine\tjoy\n2\tcaf\xe9\tjoy\n")
    assert rejects[0]["row"] == {"id": "2", "text": "caf\\udce9", "label": "joy"}
    assert rejects[0]["source"] == "train.tsv:3" and "cut" not in rejects[0]


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_json_as_deep_as_it_likes_is_told(tmp_path, ending):
    for depth in (100, 900, 950, 980, 100_000):
        deep = f'{{"text": {"[" * depth}{"]" * depth}, "label": "joy"}}'
        raw = (
            f'{{"text": "fine", "label": "joy"}},{deep}'
            if ending == ".json"
            else f'{{"text": "fine", "label": "joy"}}\n{deep}'
        )
        raw = f"[{raw}]" if ending == ".json" else raw
        folder = tmp_path / str(depth)
        rows, rejects, _ = prepare(folder, raw.encode(), ending)
        assert len(rows) == len(rejects) == 1
        told = ("text is nested, not text", "is not JSON (nested too deeply)", "is nested too deeply")
        assert rejects[0]["reason"] in told


def test_numbers_of_any_length_are_text(tmp_path):
    long = "1" * 10_000
    rows, _, _ = prepare(
        tmp_path, f'[{{"text": {long}, "label": "joy"}}, {{"text": 1e999, "label": "joy"}}]'.encode(), ".json"
    )
    assert [row["text"] for row in rows] == [long, "1e999"]


def test_a_list_of_tags_is_text_as_in_a_tsv(tmp_path):
    raw = b'[{"title": "t", "question_content": "q", "tags": ["a", "b"]}]'
    rows, _, _ = prepare(tmp_path, raw, ".json", format="stackoverflow", label_set=None)
    assert rows[0]["meta"]["tags"] == "a;b"


def test_endings_are_read_whatever_their_case(tmp_path):
    for ending, delimiter in itertools.product((".tsv", ".txt", ".TAB"), "\t"):
        assert read(tmp_path, f"a{delimiter}b\n1{delimiter}2\n".encode(), ending) == [(2, {"a": "1", "b": "2"}, None)]
    assert read(tmp_path, b"a,b\n1,2\n", ".CSV") == [(2, {"a": "1", "b": "2"}, None)]
    assert read(tmp_path, b'{"a": 1}\n\n{"a": 2}', ".ndjson") == [(1, {"a": "1"}, None), (3, {"a": "2"}, None)]


# ---------------------------------------------------------------- parquet


def parquet(path, columns, **options):
    """Write a parquet file of one column after the other: name → pyarrow array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_cells_of_parquet_are_those_of_json(tmp_path):
    rows = [
        {"text": "é\u2028", "n": 12, "x": 0.5, "yes": True, "list": [{"role": "user", "rank": 1}], "at": None},
        {"text": None, "n": None, "x": float("nan"), "yes": None, "list": [], "at": datetime(2024, 5, 1, 12, 30)},
    ]
    found = list(read_raw(parquet(tmp_path / "t.parquet", pa.Table.from_pylist(rows).to_pydict())))
    plain = [row | {"at": row["at"] and str(row["at"])} for row in rows]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    assert found == list(read_raw(tmp_path / "t.jsonl"))
    assert found[0][1] == {"text": "é\u2028", "n": "12", "x": "0.5", "yes": "true", "at": ""} | {
        "list": [{"role": "user", "rank": "1"}]
    }
    assert isinstance(found[0][1]["n"], Number) and isinstance(found[0][1]["list"][0]["rank"], Number)


def test_a_row_of_parquet_that_is_no_text_is_a_reject_among_many(tmp_path):
    texts = [f"text {index}".encode() for index in range(2500)]
    texts[1234] = b"caf\xe9"
    for kind in (pa.binary(), pa.string()):
        column = pa.array(texts, pa.binary()).view(kind)
        path = tmp_path / str(kind) / "raw" / "train" / "00-train.parquet"
        parquet(path, {"text": column, "label": ["joy"] * 2500})
        profile = prepare_dataset(RECIPE, path.parents[1], tmp_path / str(kind) / "out")
        (reject,) = read_jsonl(tmp_path / str(kind) / "out" / "rejects.jsonl")
        assert (reject["source"], reject["reason"]) == ("train.parquet:1235", "is not UTF-8 (byte 0xe9)")
        assert profile["splits"]["train"]["rows"] == 2499


def test_parquet_without_a_needed_column_is_told_like_a_table(tmp_path):
    path = parquet(tmp_path / "raw" / "train" / "00-train.parquet", {"utterance": ["a"], "label": ["joy"]})
    with pytest.raises(UserError, match=r"no column 'text' \(there is utterance, label\); map it with"):
        prepare_dataset(RECIPE, path.parents[1], tmp_path / "out")
    profile = prepare_dataset(RECIPE | {"columns": {"text": "utterance"}}, path.parents[1], tmp_path / "out")
    assert profile["splits"]["train"]["rows"] == 1


def test_a_damaged_parquet_is_refused_whole(tmp_path):
    path = parquet(tmp_path / "a" / "whole.parquet", {"text": [f"{index} text" for index in range(5000)]})
    raw = path.read_bytes()
    for name, damaged in (("cut", raw[: len(raw) // 2]), ("torn", raw[:200] + b"\xff" * 400 + raw[600:])):
        (tmp_path / f"{name}.parquet").write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name}.parquet: cannot be read as parquet .*; fetch or export it again"):
            list(read_raw(tmp_path / f"{name}.parquet"))
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="names 'text' twice; rename one of the columns"):
        list(read_raw(tmp_path / "twice.parquet"))
