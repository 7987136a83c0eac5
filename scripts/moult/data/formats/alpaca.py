"""Alpaca, a JSON format of LLaMA-Factory: a row has an instruction, its answer, and perhaps earlier turns."""

from moult.base.rows import Message
from moult.data.formats.conversations import MEDIA, Conversations
from moult.data.formats.messages import Unusable, text_of
from moult.data.readers import RawRow


class Alpaca(Conversations):
    name = "alpaca"
    needed = ("prompt", "response")
    fields = ("prompt", "query", "response", "history", "system", "tools", *MEDIA)
    defaults = {"prompt": "instruction", "query": "input", "response": "output"}

    def messages(self, row: RawRow, columns: dict[str, str], tags: dict[str, str]) -> list[Message]:
        if missing := next((field for field in self.needed if columns[field] not in row), None):
            raise Unusable(f"no column {columns[missing]!r}; map it with `columns: {{{missing}: <your column>}}`")
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
        answer = text_of(row[columns["response"]], columns["response"], "empty answer")
        return [*messages, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


FORMAT = Alpaca()
