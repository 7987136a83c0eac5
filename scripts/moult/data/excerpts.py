"""Excerpts of raw rows, for rejects and messages."""

import json
from collections.abc import Mapping
from typing import Any

# What a reject shows of a row at most: characters of a cell, and cells.
MOST_CHARACTERS, MOST_CELLS = 2000, 100


def excerpt(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reject shows of a row: {row, and where something was left out, cut: name → its whole length}.

    Cells are text, what is nested as JSON, bytes that were not UTF-8 escaped as `\\udce9`: it can always be read.
    """
    shown, cut = {}, {}
    for name, value in list(row.items())[:MOST_CELLS]:
        name, text = _readable(name[:MOST_CHARACTERS]), value if isinstance(value, str) else as_json(value)
        shown[name] = _readable(text[:MOST_CHARACTERS])
        if len(text) > MOST_CHARACTERS:
            cut[name] = len(text)
    if len(row) > MOST_CELLS:
        cut["fields"] = len(row)
    return {"row": shown} | ({"cut": cut} if cut else {})


def _readable(text):
    return text.encode("utf-8", "backslashreplace").decode()


def as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply to be shown"


def printable(text: str, most: int = 40) -> str:
    """Return the first `most` characters of a text for a message or a table, control characters escaped."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[:most])
