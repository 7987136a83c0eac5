"""Messages as raw rows spell them; what is wrong with one is the reason of a reject."""

from collections.abc import Mapping
from typing import Any

from moult.base.rows import Message

ASKING, ANSWERING = ("user", "observation"), ("assistant", "function_call")
EMPTY = {"assistant": "empty answer", "function_call": "empty answer", "user": "empty prompt"}


class Unusable(Exception):
    """Why a row cannot be used."""


def text_of(value: Any, name: str | None, empty: str | None = None) -> str:
    """Return a cell as text, None as nothing; `empty`: the reason where it must hold something."""
    if value is not None and type(value) is not str:
        raise Unusable(f"{name} is {kind_of(value)}, not text")
    if empty and not (value or "").strip():
        raise Unusable(empty)
    return value or ""


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    kinds = ((bool, "true or false"), (list, "a list"), (dict, "an object"), (str, "a number"))
    return next((kind for one, kind in kinds if isinstance(value, one)), "nothing")


def messages_of(values: Any, name: str, role_key: str, content_key: str, roles: Mapping[str, str]) -> list[Message]:
    """Return the messages of a row as [{role, content}]; Unusable where one cannot be read or is out of order.

    values: the list as the row has it, under `name`. roles: how the file spells a role → the role. A system message
    may come first; then those who ask and those who answer take turns.
    """
    if not isinstance(values, list):
        raise Unusable(f"{name} is no list of messages")
    messages: list[Message] = []
    for number, message in enumerate(values, start=1):
        place = f"message {number}"
        if not isinstance(message, dict) or not {role_key, content_key} <= set(message):
            raise Unusable(f"{place} is no object with {role_key!r} and {content_key!r}")
        spelt = message[role_key]
        role = roles.get(spelt) if type(spelt) is str else None
        if role is None:
            raise Unusable(f"{place}: role {str(spelt)[:40]!r} is not one of {', '.join(map(str, roles))}")
        turn = number - 1 - (messages[:1] != [] and messages[0]["role"] == "system")
        expected = ("system", *ASKING) if number == 1 else (ASKING, ANSWERING)[turn % 2]
        if role not in expected:
            raise Unusable(f"{place}: roles out of order, {spelt!r} cannot stand here")
        empty = EMPTY.get(role)
        content = text_of(message[content_key], place, empty and f"{place}: {empty}")
        messages.append({"role": role, "content": content})
    return messages
