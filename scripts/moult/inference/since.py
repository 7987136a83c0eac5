"""Which models' chats have other tokens since these are what the chat template renders.

Before, a prompt was what the template renders for it, an answer its own text, and the end of turn one token. For most
templates that is the same. For the others answers in a journal have a key of their own, and what was made with a model
that was fetched before is made again; nothing else is.
"""

import os
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import read_json
from moult.base.rows import Message
from moult.base.stage import Experiment
from moult.inference.tokens import ChatTokens
from moult.weights.fetch import TOKENS
from moult.weights.template import SETTINGS, special_tokens, template_of

_ANSWERS = ("joy", "Yes, it is.", "1", "(a)", "neutral")


class _Tokenizer:
    """As much of a folder's tokenizer as `ChatTokens` needs, without transformers, which takes seconds to import."""

    def __init__(self, folder: Path, template: str) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.backend_tokenizer.no_truncation()
        self.chat_template, self.special_tokens_map = template, special_tokens(folder)
        self.added_tokens_decoder = self.backend_tokenizer.get_added_tokens_decoder()

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    @cached_property
    def all_special_tokens(self) -> list[str]:
        known = dict.fromkeys(self.special_tokens_map.values())
        return [token for token in known if self.backend_tokenizer.token_to_id(token) is not None]

    @property
    def all_special_ids(self) -> list[int | None]:
        return [self.backend_tokenizer.token_to_id(token) for token in self.all_special_tokens]

    def _id(self, role):
        token = self.special_tokens_map.get(role)
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    @property
    def eos_token_id(self) -> int | None:
        return self._id("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._id("unk_token")


def has_other_tokens(folder: str | Path, asked: bool = False) -> bool:
    """Whether rows of the model of a folder have other tokens than before, or, where it is `asked`, answers may differ:
    those of an enforced form begin with what the template writes before an answer."""
    folder = Path(folder)
    if not (folder / "tokenizer.json").exists():
        return False
    template = template_of(folder)
    if template is None:
        return False
    chat = ChatTokens(_Tokenizer(folder, template.text))
    try:
        shape = template.shape
        if shape.dated or (asked and chat.lead) or any(ids != before for ids, before in _rows(chat)):
            return True
    except UserError:
        return False
    # It was silent about the system's words, or writes turns by tokens that were not spelt out in rows.
    rules = [Message(role="system", content="rules"), Message(role="user", content="question")]
    silent = shape.folds and "error" not in template.rendered((rules, True))[0]
    added = chat.tokenizer.added_tokens_decoder.values()
    return silent or any(token.content in shape.shown for token in added if token.content.strip() and not token.special)


def _rows(chat: ChatTokens) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the tokens of a few conversations as they are, and as they were."""
    question = Message(role="user", content="Is it?")
    chats = [[question], [question, Message(role="assistant", content="No."), question]]
    if not chat.template.shape.folds:
        chats.append([Message(role="system", content="Be brief."), question])
    encode, end = chat.tokenizer, chat.end
    for messages in chats:
        prompt, answers = chat.answered(messages, _ANSWERS)
        asked = encode(chat.template.prompt(messages))["input_ids"]
        yield chat.prompt(messages), asked
        for answer, ids in zip(_ANSWERS, answers, strict=True):
            yield prompt + ids, asked + encode(answer)["input_ids"] + [end]


_has_other_tokens = cache(has_other_tokens)


def tokens_recipe(cfg: Experiment, model: str, asked: bool = False) -> dict[str, Any]:
    """Return {tokens} where a model of this build was made before tokens were what they are, and has other ones now;
    see `has_other_tokens`."""
    root = cfg.lineage(model)[-1]
    # Asked of a thousand jobs about a handful of models.
    folder = os.path.abspath(f"results/{cfg.name}/models/{root.name}")
    manifest = f"{folder}.manifest.json"
    if not (root.fetch and os.path.isdir(folder) and os.path.exists(manifest)):
        return {}
    made = _made(manifest, os.stat(manifest).st_mtime_ns)
    fetched_again = any(made["recipe"].get(key) != root.chat.get(key) for key in SETTINGS)
    if "tokens" in made["facts"] or fetched_again or not _has_other_tokens(folder, asked):
        return {}
    return {"tokens": TOKENS}


@cache
def _made(manifest, written):
    """Return a manifest, read once for each time that it was written."""
    return read_json(manifest)
