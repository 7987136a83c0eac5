"""docs/hostile-data.md as test cases: what a row or file holds, and what becomes of it."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "hostile-data.md").read_text(encoding="utf-8")


def table_of(heading):
    """Return the rows of the table under a heading of the page, cells as they are written."""
    lines = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


def spelt(code):
    """Return the texts of all code spans of a cell."""
    return [one or other for one, other in re.findall(r"``(.+?) ``|`(.*?)`", code)]


def as_bytes(code):
    return spelt(code)[0].encode().decode("unicode_escape").encode("latin-1")


def outcome_of(cell):
    """Return (texts kept, reasons of rejects) of an outcome."""
    what, _, told = cell.partition(": ")
    kept = [code.encode().decode("unicode_escape") for code in spelt(told)] if what == "kept" else []
    return kept, spelt(told) if what == "rejected" else []
