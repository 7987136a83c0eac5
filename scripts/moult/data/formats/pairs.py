"""Preference data of LLaMA-Factory (`ranking: true`): a prompt, an answer to prefer, and one to prefer it to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.rows import Message, Recipe
from moult.data.formats.alpaca import Alpaca
from moult.data.formats.conversations import MEDIA, Conversations, untrainable
from moult.data.formats.messages import ANSWERING, Unusable, text_of
from moult.data.formats.sharegpt import Sharegpt
from moult.data.parquet import read_rows
from moult.data.readers import RawRow

SIDES = ("chosen", "rejected")


class Pairs(Conversations):
    """A format whose rows are prompts with two answers; `meta` of a prepared row has both, beside `messages`."""

    shape = "pairs"
    answered_rows = "none"
    videos = False
    ranking = True

    def answer(self, row: RawRow, column: str, tags: dict[str, str]) -> str:
        """Return one of the answers of a raw row; Unusable where it has none."""
        raise NotImplementedError

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        prepared, reason = super().canonical(row, recipe, category)
        if prepared is None:
            return None, reason
        columns = recipe["columns"] or self.defaults
        try:
            if prepared["meta"]["messages"][-1]["role"] in (*ANSWERING, "system"):
                raise Unusable("the prompt does not end with a question")
            for side in SIDES:
                if columns[side] not in row:
                    raise Unusable(f"no column {columns[side]!r}; map it with `columns: {{{side}: <your column>}}`")
                prepared["meta"][side] = self.answer(row, columns[side], recipe["tags"])
        except Unusable as error:
            return None, str(error)
        return prepared, None

    def content(self, prepared: Mapping[str, Any]) -> Any:
        return [prepared["meta"][key] for key in ("messages", *SIDES)]

    def pairs(
        self, folder: str | Path, split: str
    ) -> tuple[list[tuple[str, list[Message], str, str]], list[tuple[str, str]]]:
        found, dropped = [], []
        for row in read_rows(folder, split):
            kind = next((kind for kind in MEDIA if row["meta"].get(kind) or (kind == "videos" and row["media"])), None)
            if reason := f"has {kind}, which are not trained on" if kind else untrainable(row):
                dropped.append((row["uid"], reason))
            else:
                found.append((row["uid"], row["meta"]["messages"], row["meta"]["chosen"], row["meta"]["rejected"]))
        return found, dropped


class AlpacaPairs(Pairs, Alpaca):
    name = "alpaca_pairs"
    formatting = "alpaca"
    needed = ("prompt", *SIDES)
    fields = ("prompt", "query", *SIDES, "history", "system", "tools", *MEDIA)
    defaults = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}

    def messages(self, row: RawRow, columns: dict[str, str], tags: dict[str, str]) -> list[Message]:
        return self.asked(row, columns)

    def answer(self, row: RawRow, column: str, tags: dict[str, str]) -> str:
        return text_of(row[column], column, f"{column}: empty answer")


class SharegptPairs(Pairs, Sharegpt):
    name = "sharegpt_pairs"
    formatting = "sharegpt"
    needed = ("messages", *SIDES)
    fields = (*needed, "system", "tools", *MEDIA)
    defaults = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}

    def messages(self, row: RawRow, columns: dict[str, str], tags: dict[str, str]) -> list[Message]:
        messages = self.turns(row, columns, tags)
        if not messages:
            raise Unusable("empty prompt")
        return messages

    def answer(self, row: RawRow, column: str, tags: dict[str, str]) -> str:
        spelt = tags or {tag: default for tag, (default, _) in self.tags.items()}
        message, keys = row[column], (spelt["role_tag"], spelt["content_tag"])
        if not isinstance(message, dict) or not set(keys) <= set(message):
            raise Unusable(f"{column} is no object with {keys[0]!r} and {keys[1]!r}")
        if message[keys[0]] != spelt["assistant_tag"]:
            raise Unusable(f"{column} is no answer of {spelt['assistant_tag']!r}")
        return text_of(message[keys[1]], column, f"{column}: empty answer")


FORMATS = (AlpacaPairs(), SharegptPairs())
