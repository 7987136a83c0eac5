"""Prompts to be answered by models: each row has a text or a message as `prompt`, or a list of messages as `messages`.

Where `columns` names one, a row has `answers` too: those that somebody else's models have given.
"""

from collections.abc import Mapping
from typing import Any

from moult.base.rows import Recipe
from moult.data.formats.base import Format
from moult.data.formats.messages import Unusable, messages_of, text_of

ROLES = {role: role for role in ("system", "user", "assistant")}


class Prompts(Format):
    name = "prompts"
    shape = "prompts"
    fields = ("prompt", "messages", "prompt_id", "id", "answers")
    ids = ("prompt_id", "id")
    repeated = "duplicate prompt"
    answered_rows = "none"
    task = "conversation"
    language = "und"

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return (prepared, reason): `text` is the last user turn, `meta` has all `messages` up to it, and `answers`
        ({content, and model where the file names it}) where `columns` does."""
        try:
            messages = _asked(row)
            answers = {"answers": _answers(row["answers"])} if "answers" in recipe["columns"] else {}
        except Unusable as reason:
            return None, str(reason)
        return {"text": messages[-1]["content"], "meta": {"messages": messages} | answers}, None

    def content(self, prepared: Mapping[str, Any]) -> Any:
        return prepared["meta"]["messages"]


def _asked(row):
    """Return the messages of a row up to its last user turn: of `prompt`, or of `messages` where that holds nothing."""
    field = next((field for field in ("prompt", "messages") if row.get(field)), None)
    if field is None and not {"prompt", "messages"} & set(row):
        raise Unusable("no column 'prompt' or 'messages'; map one with `columns: {prompt: <your column>}`")
    if field is None:
        raise Unusable("empty prompt")
    if field == "prompt" and not isinstance(row[field], list | dict):
        return [{"role": "user", "content": text_of(row[field], field, "empty prompt")}]
    said = [row[field]] if isinstance(row[field], dict) else row[field]
    messages = messages_of(said, field, "role", "content", ROLES)
    if messages[-1]["role"] == "assistant":
        messages.pop()
    # As in conversations, an empty system message is none: the chat template has its own.
    messages = [message for message in messages if message["role"] != "system" or message["content"]]
    if not messages or messages[-1]["role"] != "user":
        raise Unusable("no user turn")
    return messages


def _answers(values):
    """Return the answers of a row, which has a text or a message for each."""
    if not isinstance(values, list) or not values:
        raise Unusable("answers is no list of answers, or an empty one")
    answers = []
    for number, value in enumerate(values, start=1):
        message = value if isinstance(value, dict) else {"content": value}
        found = {key: text_of(message[key], f"answer {number}") for key in ("content", "model") if message.get(key)}
        answers.append({"content": ""} | found)
    return answers


FORMAT = Prompts()
