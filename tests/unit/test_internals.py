"""docs/internals.md names functions that are there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# `file.py` and the names behind it: `one` → `two`, `three`.
NAMED = re.compile(r"`(?P<file>[\w/]+)\.py`(?P<names>(?:(?: → | |, )`[A-Za-z_.]+`)+)")
FOUND = [
    (match["file"], name)
    for match in NAMED.finditer((ROOT / "docs" / "internals.md").read_text(encoding="utf-8"))
    for name in re.findall(r"`([A-Za-z_.]+)`", match["names"])
    if not name.endswith(".py")
]


def test_the_page_names_functions():
    assert len(FOUND) > 20


@pytest.mark.parametrize(("file", "name"), FOUND)
def test_a_named_function_is_there(file, name):
    found = importlib.import_module(f"moult.{file.replace('/', '.')}")
    for part in name.split("."):
        found = getattr(found, part)
