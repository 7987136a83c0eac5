"""What others wrote: JSON of a server or of an old journal, bounded and cleaned before anything else sees it."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from moult.base.errors import UserError
from moult.base.failures import is_disk_full

# No reply of a chat nests deeper, or has more objects and lists; JSON within a string counts anew.
MAX_DEPTH, MAX_PARTS = 100, 200_000
# Digits of a whole number; a longer one is read as a float, which may be infinity.
MAX_DIGITS = 18
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]++")
# Half of a surrogate pair, as JSON escapes it, behind whatever is to be left as it is.
_ESCAPED_HALF = re.compile(
    r"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_HALF = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


class Unreadable(ValueError):
    """Bytes or text that are no JSON."""


class TooMuch(Unreadable):
    """JSON of more depth or more parts, or bytes of a greater number, than anybody meant."""


def parse_json(data: bytes | str) -> object:
    """Return the value of a JSON document: plain data without lone surrogates, NaN or numbers without end.

    Raises:
        TooMuch: nested deeper than MAX_DEPTH, or more than MAX_PARTS objects and lists.
        Unreadable: no JSON.
    """
    text = clean_text(data) if isinstance(data, str) else decoded(data)
    try:
        _check_size(text)
        return json.loads(without_halves(text), parse_int=_whole, parse_constant=lambda _: None)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error) or type(error).__name__) from None


@contextlib.contextmanager
def in_a_sentence(what: str | Path, remedy: str) -> Iterator[None]:
    """Turn whatever the block raises over what others wrote into a UserError that names it, a Rust library's panic too.

    A sentence stays as it is; so do too little memory, a full disk, and the end of the process.
    """
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic is no Exception
        if is_disk_full(error):
            raise
        told = f"{type(error).__name__}: {one_line(error, 200)}".rstrip(": ")
        raise UserError(f"{what}: cannot be read ({told}); {remedy}.") from error


def decoded(data: bytes) -> str:
    """Return bytes as text, by the encoding that JSON's first bytes show; what is not of it becomes U+FFFD."""
    return data.decode(json.detect_encoding(data[:8]), "replace").removeprefix("\ufeff")


def without_halves(text: str) -> str:
    """Return the text of a JSON document with U+FFFD for each escaped half of a surrogate pair."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPED_HALF.sub(lambda found: found[1] or REPLACEMENT, text)


def clean_text(text: str) -> str:
    """Return a text with U+FFFD for each half of a surrogate pair, which no UTF-8 file can hold."""
    return text if text.isascii() else _HALF.sub(REPLACEMENT, text)


def one_line(value: object, longest: int = 300) -> str:
    """Return a value as words for a message: one line without control characters, at most `longest` characters."""
    text = " ".join(clean_text(str(value)[: 20 * longest]).split())
    return "".join(letter if letter.isprintable() else REPLACEMENT for letter in text)[:longest]


def _check_size(text):
    """Refuse what would take far more memory or stack than its bytes, before it is parsed."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    brackets = _NO_BRACKET.sub("", _STRING.sub("", text))
    if len(brackets) > 2 * MAX_PARTS:
        raise TooMuch(f"more than {MAX_PARTS} objects and lists")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise TooMuch(f"nested deeper than {MAX_DEPTH}")


def _whole(digits):
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)
