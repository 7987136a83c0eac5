"""Keys: read from environment variables when they are used, and redacted in every message that sends them back."""

import base64
import functools
import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from moult.base.errors import UserError

# A shorter value is no secret: what local servers are given (`1`, `sk`), and too common a text to be hidden.
SHORTEST = 4
# A shorter value is hidden only where it stands as a word, since it may be one (`none`, `EMPTY`).
UNMISTAKABLE = 16


def key_of(variable: str | None, owner: str) -> str | None:
    """Return the value of an environment variable, None where none is named.

    UserError, which begins with `owner`, when it is not set or cannot be a key.
    """
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"{owner}: the variable {variable} is not set; export it and run again.")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{owner}: the variable {variable} holds no key: not plain ASCII.")
    return key


def variables_in(params: Any) -> Iterator[str]:
    """Yield the names of variables that stand under `key` or `token`, anywhere in plain data."""
    if isinstance(params, dict):
        yield from (name for field, name in params.items() if field in ("key", "token") and isinstance(name, str))
        params = list(params.values())
    for value in params if isinstance(params, list | tuple) else ():
        yield from variables_in(value)


def redacted(text: str, *variables: str | None) -> str:
    """Return a message with the name of each variable where its value stood, however JSON, a URL or base64 spell it.

    It is for messages: in an answer a value such as `none` is a word like any other.
    """
    for variable in filter(None, variables):
        key = os.environ.get(variable, "").strip()
        if len(key) >= SHORTEST:
            text = _spellings(key).sub(f"[{variable}]", text)
    return text


def redacted_in(value: Any, *variables: str | None) -> Any:
    """Return plain data with every text in it, keys of objects too, as `hidden` returns it."""
    if isinstance(value, str):
        return redacted(value, *variables)
    if isinstance(value, dict):
        return {redacted(key, *variables): redacted_in(item, *variables) for key, item in value.items()}
    return [redacted_in(item, *variables) for item in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=16)
def _spellings(key):
    """Return the pattern of a key, however it may be spelt."""
    escaped = json.dumps(key)[1:-1]
    forms = {key, escaped, escaped.replace("/", "\\/"), urllib.parse.quote(key, safe=""), urllib.parse.quote(key)}
    if len(key) < UNMISTAKABLE:
        words = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        return re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # The first and the last group depend on the neighbours.
            forms.add(encode(b"\0" * shift + key.encode())[4:-4].decode())
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))
