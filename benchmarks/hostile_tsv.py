"""Read and prepare N seeded hostile TSV files; print what became of their rows; exit 1 at the first violation.

    python benchmarks/hostile_tsv.py [N, default 10,000] [first seed, default 0]

A violation: another exception than UserError, a row without a place, a row number that is no line of the file, or a
table of Python's csv module that does not come back cell for cell.
"""

import csv
import io
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from moult.base.errors import UserError  # noqa: E402
from moult.base.files import read_json, read_jsonl  # noqa: E402
from moult.data.fields import SPLITS
from moult.data.parquet import read_rows
from moult.data.prepare import prepare_dataset  # noqa: E402
from moult.data.readers import LINE_END, read_raw  # noqa: E402

HEADER = ["id", "text", "label"]
PIECES = [
    *'"""\t\n\r,\' aé😀\x00\x1b\x85\ufeff\u2028{}%$`',
    '""',
    '"\t',
    '\t"',
    '"\n',
    "\r\n",
    "joy",
    "said",
    "<|im_start|>",
]
LABELS = {"dataset": "d", "task": "mood", "task_words": "mood", "language": "en", "labels": ["joy", "anger"]}


def nasty(luck):
    return "".join(luck.choices(PIECES, k=luck.choice([0, 1, 2, 4, 8])))


def written(luck):
    """Return (bytes, cells): a table as Python's csv module writes it."""
    quoting, line_end = luck.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), luck.choice(["\n", "\r\n"])
    cells = [
        [str(index), nasty(luck), luck.choice(["joy", "anger", nasty(luck)])] for index in range(luck.randint(1, 20))
    ]
    cells.append(["sure", "fine", "joy"])
    if quoting == csv.QUOTE_MINIMAL and line_end == "\n":
        # csv before Python 3.11.9 leaves a lone CR unquoted there.
        cells = [[cell.replace("\r", "") for cell in row] for row in cells]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter="\t", lineterminator=line_end, quoting=quoting).writerows([HEADER, *cells])
    return luck.choice([b"", b"\xef\xbb\xbf"]) + buffer.getvalue().encode(), cells


def joined(luck):
    """Return the bytes of ragged rows put together without any quoting, some damaged."""
    header = (
        HEADER if luck.random() < 0.9 else [luck.choice([*HEADER, "", nasty(luck)]) for _ in range(luck.randint(0, 5))]
    )
    rows = ["\t".join(header), *["sure\tfine\tjoy"] * luck.choice([0, 1, 1, 1])]
    for index in range(luck.randint(0, 20)):
        row = [str(index), nasty(luck), luck.choice(["joy", "JOY ", "anger", "boredom"])]
        if luck.random() < 0.3:
            row = [nasty(luck) for _ in range(luck.randint(0, 5))]
        rows.append("\t".join(row))
    raw = bytearray("".join(row + luck.choice(["\n", "\n", "\r\n", "\r", ""]) for row in rows).encode())
    for _ in range(luck.choice([0, 0, 0, 1, 3])):
        place = luck.randrange(len(raw) + 1)
        raw[place : place + luck.choice([0, 1, 5])] = luck.choice([b"\xe9", b"\xff\xfe", b'"', b"\x00", b"\t", b""])
    return bytes(raw[: luck.randrange(len(raw) + 1)] if luck.random() < 0.1 else raw)


def check(seed, folder, counts):
    """Read and prepare the file of one seed and count its rows; AssertionError at a violation."""
    luck = random.Random(seed)
    raw, cells = written(luck) if luck.random() < 0.4 else (joined(luck), None)
    path = folder / "raw" / "train" / "00-train.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    counts["files"] += 1
    recipe = {"name": "d", "format": "mmla", "columns": {}, "files": {"train": ["train"]}, "label_set": LABELS}
    recipe |= {"task": "mood", "language": "en", "seed": seed, "limit": luck.choice([None, 1, 5])}
    recipe["dev_fraction"] = luck.choice([0.0, 0.1, 0.9])
    try:
        found = list(read_raw(path))
        lines = LINE_END.split(raw.decode("utf-8-sig", "surrogateescape"))
        numbers = [number for number, _, _ in found]
        assert numbers == sorted(set(numbers)), "row numbers repeat"
        assert all(lines[number - 1].strip() or "\t" in lines[number - 1] for number in numbers), (
            "a row on a blank line"
        )
        assert cells is None or [list(row.values()) for _, row, _ in found] == cells, (
            "a written table came back changed"
        )
        prepare_dataset(recipe, folder / "raw", folder / "out")
    except UserError as error:
        assert cells is None, f"a written table was refused: {error}"
        counts["refused"] += 1
        return
    profile = read_json(folder / "out" / "profile.json")
    rows = [row for split in SPLITS if split in profile["splits"] for row in read_rows(folder / "out", split)]
    rejects = read_jsonl(folder / "out" / "rejects.jsonl")
    left_out = sum(told["left_out_by_limit"] for told in profile["splits"].values())
    assert len(found) == profile["rows_in"]["train"] == len(rows) + len(rejects) + left_out, "a row has no place"
    assert len({row["uid"] for row in rows}) == len(rows), "a uid stands twice"
    counts.update(
        {"rows in": len(found), "rows out": len(rows), "rejects": len(rejects), "left out by limit": left_out}
    )


def main(count=10_000, first=0):
    logging.disable(logging.WARNING)
    counts, begun = Counter(), time.monotonic()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(seed, Path(folder), counts)
            except Exception as error:
                print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
                raise SystemExit(1) from error
    told = ", ".join(
        f"{name} {counts[name]:,}" for name in ["files", "rows in", "rows out", "rejects", "left out by limit"]
    )
    print(f"{told}, refused files {counts['refused']:,}, violations 0, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
