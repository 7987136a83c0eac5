"""Chat templates: what they are, and chats as the text that they render. What they are as tokens: `inference.tokens`.

No template runs in this process (see `sandbox`), and none is believed before it has shown a few chats in the way in
which it is going to be used.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moult.base.errors import UserError, nearest
from moult.base.paths import CODE, named_files, written_out
from moult.base.rows import Message
from moult.data.prompts import texts_of, with_texts

# Of the processor, for one chat.
SECONDS = 2.0
# The day that a template is told which asks for one, where no model's `date` says another.
DATE = "2024-07-26"
REMEDY = "correct it, or give the model another one by `chat_template`"


class _Renderer:
    """The process in which templates run, started with the first one and again whenever one has brought it down."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        self.owner = 0

    def ask(self, request: Mapping[str, Any]) -> list[dict]:
        """Return the replies to a request, one per chat; those after which the process did not live on are missing."""
        with self.lock:
            if self.process is None or self.owner != os.getpid():
                self.process, self.owner = self._start(), os.getpid()
            assert self.process.stdin and self.process.stdout
            replies: list[dict] = []
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
            for _ in request["chats"]:
                if line := self.process.stdout.readline():
                    replies.append(json.loads(line))
                else:
                    self.close()
                    break
            return replies

    def _start(self):
        paths = [str(CODE), os.environ.get("PYTHONPATH")]
        return subprocess.Popen(
            [sys.executable, "-m", "moult.data.sandbox"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )

    def close(self) -> None:
        process, self.process = self.process, None
        if process and self.owner == os.getpid():
            process.kill()
            process.communicate()


_RENDERER = _Renderer()
atexit.register(_RENDERER.close)


@dataclass(frozen=True)
class Shape:
    """What a template was seen to do.

    folds: it has no system role, and the system's words go before the user's. turns: it shows all turns of a
    conversation. prompt: text that asks for an answer to one user turn. before, after: what stands around the answer in
    the whole conversation. shown: all texts that were seen. loses: the conversation lacks words that the prompt has.
    dated: it asks for the day.
    """

    folds: bool
    turns: bool
    prompt: str
    before: str
    after: str
    shown: str
    loses: bool
    dated: bool


class ChatTemplate:
    """A chat template with the variables that it is given beside the chat, such as `bos_token`."""

    def __init__(self, text: str, variables: Mapping[str, Any], date: str = DATE) -> None:
        self.text, self.variables, self.date = text, dict(variables), date

    def rendered(self, *chats: tuple[Sequence[Message], bool]) -> list[dict[str, Any]]:
        """Return {text, asked} or {error} for chats, each (messages, whether an answer is asked for)."""
        request = {
            "template": self.text,
            "date": self.date,
            "variables": self.variables,
            "seconds": SECONDS,
            "chats": [{"messages": list(messages), "add_generation_prompt": prompt} for messages, prompt in chats],
        }
        replies = _RENDERER.ask(request)
        error = f"does not end (it had {SECONDS:g} s of the processor)"
        return replies + [{"error": error}] * (len(chats) - len(replies))

    def _texts(self, *chats):
        found = self.rendered(*chats)
        for one in found:
            if "error" in one:
                raise UserError(f"the model's chat template {one['error']}; {REMEDY}.")
        return [one["text"] for one in found]

    @cached_property
    def shape(self) -> Shape:
        """How the template shows a few chats; UserError where it cannot be used."""
        system, first, answer, second, last = (_mark(number) for number in range(5))
        rules, asked, answered, more, end = (
            Message(role=role, content=text)
            for role, text in zip(
                ("system", "user", "assistant", "user", "assistant"), (system, first, answer, second, last), strict=True
            )
        )
        texts = self._texts(([asked], True), ([asked, answered], False))
        found = self.rendered(
            ([rules, asked], True),
            ([rules, asked, answered], False),
            ([asked, answered, more], True),
            ([asked, answered, more, end], False),
        )
        texts += [one.get("text", "") for one in found]
        for text in texts:
            for words, who in ((system, "system"), (first, "user"), (answer, "assistant"), (second, "user")):
                if text.count(_bare(words)) > 1:
                    raise UserError(f"the model's chat template says a turn of the {who} twice; {REMEDY}.")
        for text, words, who in ((texts[0], first, "user"), (texts[1], answer, "assistant")):
            if _bare(words) not in text:
                raise UserError(f"the model's chat template leaves out what the {who} says; {REMEDY}.")
        before, after = _around(texts[1], answer)
        folds = _bare(system) not in texts[2]
        lost = _bare(first) not in texts[1] or not (folds or _bare(system) in texts[3])
        return Shape(
            folds=folds,
            turns=all(_bare(words) in text for text in texts[4:] for words in (first, answer, second)),
            prompt=texts[0],
            before=before,
            after=after,
            shown="\n".join(texts),
            loses=lost,
            dated=any(one.get("asked") for one in found),
        )

    def ready(self, messages: Sequence[Message]) -> list[Message]:
        """Return a chat as this template can show it; UserError where it cannot."""
        head, *rest = messages
        if self.shape.folds and head["role"] == "system":
            messages = _folded(head["content"], rest)
        if len(messages) > 2 - (messages[0]["role"] != "system") and not self.shape.turns:
            raise UserError(f"the model's chat template does not show all turns of a conversation; {REMEDY}.")
        return list(messages)

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the text of a chat (see `ready`) that asks for the assistant's answer."""
        return self._texts((messages, True))[0]

    def around(self, messages: Sequence[Message], answers: Sequence[str]) -> tuple[str, str, str, list[str]]:
        """Return (prompt, text before the answer, text after it, answers as they are written) for a chat (see `ready`).

        prompt: as of `prompt`. The others are of the whole conversation, in which the answer is the last turn.
        """
        taken = "".join([*texts_of(messages), *answers])
        mark = next(mark for mark in map(_mark, range(10**6)) if _bare(mark) not in taken)

        def whole(text):
            return [*messages, {"role": "assistant", "content": text}], False

        # A template may take blanks from around an answer.
        edged = [place for place, text in enumerate(answers) if text != text.strip()]
        prompt, shown, *real = self._texts((messages, True), whole(mark), *(whole(answers[place]) for place in edged))
        before, after = _around(shown, mark)
        written = list(answers)
        for place, text in zip(edged, real, strict=True):
            if text.startswith(before) and text.endswith(after):
                written[place] = text[len(before) : len(text) - len(after)]
        return prompt, before, after, written


def _mark(number):
    """Return words that no template knows, and from which it can take blanks."""
    return f"\v\ue000{number}\ue001\v"


def _bare(mark):
    return mark.strip()


def _around(text, mark):
    """Return what stands before and after a mark, its blanks not counted where the template left them."""
    before, found, after = text.partition(mark if mark in text else _bare(mark))
    if not found:
        raise UserError(f"the model's chat template leaves out what the assistant says; {REMEDY}.")
    return before.removesuffix("\v"), after.removeprefix("\v")


def _folded(rules, messages):
    """Return messages with the words of a system turn before those of the user."""
    if not messages or messages[0]["role"] != "user":
        return [{"role": "user", "content": rules}, *messages]
    texts = texts_of(messages[:1])
    texts[0] = f"{rules}\n\n{texts[0]}"
    return [*with_texts(messages[:1], texts), *messages[1:]]


def load_template(name: str) -> str:
    """Return the text of a chat template: of a file, or of one of the shipped or the study's own, by name."""
    named = named_files("chat_templates", ".jinja")
    path = named.get(name, Path(written_out(name)))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"chat_template {name!r} is no readable file and none by name{nearest(name, named)}") from None


def template_variables(special: Mapping[str, Any]) -> dict[str, str]:
    """Return what a template is given of a tokenizer's special tokens (role → token), as plain text."""
    return {role: str(token) for role, token in special.items() if isinstance(token, str) or hasattr(token, "content")}


def default_template(value: Any) -> str | None:
    """Return the template for chats without tools out of what a tokenizer's config holds: one, or several by name."""
    if value is None or isinstance(value, str):
        return value
    named = value if isinstance(value, Mapping) else {one["name"]: one["template"] for one in value}
    return named.get("default")
