"""Keys: read from environment variables when they are used, and redacted wherever a server sends them back."""

import os

from moult.base.errors import UserError


def key_of(variable, owner):
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


def variables_in(params):
    """Yield the names of variables that stand under `key` or `token`, anywhere in plain data."""
    if isinstance(params, dict):
        yield from (name for field, name in params.items() if field in ("key", "token") and isinstance(name, str))
        params = list(params.values())
    for value in params if isinstance(params, list | tuple) else ():
        yield from variables_in(value)


def redacted(text, *variables):
    """Return a text, or bytes, with the name of each variable where its value stood, also as JSON may spell it."""
    for variable in filter(None, variables):
        key = os.environ.get(variable, "").strip()
        for form in {key, key.replace("/", "\\/")} - {""}:
            name = f"[{variable}]"
            text = text.replace(form.encode(), name.encode()) if isinstance(text, bytes) else text.replace(form, name)
    return text
