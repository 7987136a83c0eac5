"""Alpaca, a JSON format of LLaMA-Factory: a row has an instruction, its answer, and perhaps earlier turns."""

from collections.abc import Mapping

from moult.base.rows import Message
from moult.data.formats.conversations import MEDIA, PRETRAINING, Conversations, absent
from moult.data.formats.messages import Unusable, text_of
from moult.data.readers import RawRow


class Alpaca(Conversations):
    name = "alpaca"
    needed: tuple[str, ...] = ("prompt", "response")
    fields = ("prompt", "query", "response", "history", "system", "tools", *MEDIA)
    defaults = {"prompt": "instruction", "query": "input", "response": "output"}

    def messages(self, row: RawRow, columns: dict[str, str], tags: dict[str, str]) -> list[Message]:
        if missing := next((field for field in self.needed if columns[field] not in row), None):
            raise Unusable(absent(row, missing, columns[missing]))
        answer = text_of(row[columns["response"]], columns["response"], "empty answer")
        return [*self.asked(row, columns), {"role": "assistant", "content": answer}]

    def asked(self, row: RawRow, columns: dict[str, str]) -> list[Message]:
        """Return the messages of a raw row up to its last question; Unusable where it asks nothing."""
        if columns["prompt"] not in row:
            raise Unusable(absent(row, "prompt", columns["prompt"]))
        turns = row.get(columns.get("history", "")) or []
        pairs = turns if isinstance(turns, list) else [turns]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise Unusable(f"{columns['history']} is no list of [prompt, answer]")
        messages: list[Message] = []
        for number, (asked, answer) in enumerate(pairs, start=1):
            place = f"{columns['history']} {number}"
            messages.append({"role": "user", "content": text_of(asked, place, f"{place}: empty prompt")})
            messages.append({"role": "assistant", "content": text_of(answer, place, f"{place}: empty answer")})
        parts = [text_of(row.get(columns[field]), columns[field]) for field in ("prompt", "query") if field in columns]
        asked = text_of("\n".join(part for part in parts if part), "prompt", "empty prompt")
        return [*messages, {"role": "user", "content": asked}]

    def check_layout(self, columns: Mapping[str, str], tags: Mapping[str, str]) -> None:
        if set(columns) == {"prompt"}:
            raise ValueError(f"columns: `prompt` alone {PRETRAINING}")
        super().check_layout(columns, tags)


FORMAT = Alpaca()
