"""Prompts to be answered by models: each row has a text as `prompt` or a list of messages as `messages`."""

from collections.abc import Mapping
from typing import Any

from moult.base.rows import Recipe
from moult.data.formats.base import Format
from moult.data.formats.messages import Unusable, messages_of, text_of

ROLES = {role: role for role in ("system", "user", "assistant")}


class Prompts(Format):
    name = "prompts"
    shape = "prompts"
    fields = ("prompt", "messages", "prompt_id", "id")
    ids = ("prompt_id", "id")
    repeated = "duplicate prompt"
    answered_rows = "none"
    task = "conversation"
    language = "und"

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return (prepared, reason): `text` is the last user turn, `meta` has all `messages` up to it."""
        try:
            messages = _asked(row)
        except Unusable as reason:
            return None, str(reason)
        return {"text": messages[-1]["content"], "meta": {"messages": messages}}, None

    def content(self, prepared: Mapping[str, Any]) -> Any:
        return prepared["meta"]["messages"]


def _asked(row):
    """Return the messages of a row up to its last user turn: of `prompt`, or of `messages` where that holds nothing."""
    field = next((field for field in ("prompt", "messages") if row.get(field)), None)
    if field is None and not {"prompt", "messages"} & set(row):
        raise Unusable("no column 'prompt' or 'messages'; map one with `columns: {prompt: <your column>}`")
    if field is None:
        raise Unusable("empty prompt")
    if field == "prompt" and not isinstance(row[field], list):
        return [{"role": "user", "content": text_of(row[field], field, "empty prompt")}]
    messages = messages_of(row[field], field, "role", "content", ROLES)
    if messages[-1]["role"] == "assistant":
        messages.pop()
    # As in conversations, an empty system message is none: the chat template has its own.
    messages = [message for message in messages if message["role"] != "system" or message["content"]]
    if not messages or messages[-1]["role"] != "user":
        raise Unusable("no user turn")
    return messages


FORMAT = Prompts()
