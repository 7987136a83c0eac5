"""The exception whose text is written for the user, and what its sentences are made of."""

import difflib
from collections.abc import Iterable

from moult.base.legible import legible


class UserError(Exception):
    """Something the user can put right: one sentence that names the file, the row or entry, and the remedy."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(legible(sentence))


def ended(told: str) -> str:
    """Return a sentence with its point, unless a question ends it."""
    told = told.rstrip(".")
    return told if told.endswith("?") else f"{told}."


def nearest(word: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` or the list of what there is."""
    close = difflib.get_close_matches(str(word), sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(sorted(known)) or 'none'}"
