"""Prompts: templates in `resources/prompts/` or a study's `prompts/`, and their tokens.

The same code serves training and inference.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from moult.base.errors import UserError, ended, nearest
from moult.base.files import digest
from moult.base.outside import one_line
from moult.base.paths import named_files
from moult.base.rows import CanonicalRow, LabelSet, Message, Template
from moult.base.yaml_files import read_yaml

# How chat templates spell the turns of a conversation, as far as no text about code needs it so.
CONTROL = re.compile(r"<(?=\|[\w ]{1,40}\|>|/?(?:start|end)_of_turn>|<SYS>>|</SYS>>)|\[(?=/?INST\])")

# What a template may have a text for.
ROLES = ("system", "user", "answer")


@dataclass(frozen=True)
class Example:
    """One supervised example: chat messages up to the answer (see `with_videos`), and the answer."""

    uid: str
    messages: list
    answer: str


def template_names() -> list[str]:
    """Return the names of the prompt templates, the study's own and the shipped ones, e.g. `mmla/text`."""
    return list(named_files("prompts"))


def load_template(name: str) -> Template:
    """Return a prompt template as a plain dict of `system`, `user` and `answer` to Jinja text.

    It goes into the recipe of the job whole, so that an edited prompt rebuilds what was made with it.
    """
    if name not in named_files("prompts"):
        raise UserError(f"prompt {name!r} is not in resources/prompts/ or prompts/; write one of {template_names()}.")
    return _read_template(named_files("prompts")[name])


@cache
def _read_template(path):
    """UserError where a file is no prompt: an unknown key, a role without text, text that Jinja cannot read."""
    import jinja2

    found = read_yaml(path)
    if not isinstance(found, dict) or "user" not in found:
        raise UserError(f"{path}: needs `user:`, the text that is put to a model.")
    for role, text in found.items():
        if role not in ROLES:
            raise UserError(ended(f"{path}: unknown key {role!r}{nearest(role, ROLES)}"))
        if not isinstance(text, str):
            raise UserError(f"{path}: {role} is no text; write `{role}: |-` and the text below it.")
        try:
            _compiled(text)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", 1)
            raise UserError(
                f"{path}, {role}, line {line} of its text: no Jinja template ({str(error).rstrip('.')}); mend it."
            ) from None
    return found


@cache
def _compiled(text):
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # A prompt may come from anybody, too.
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(text)


def _fill(text, fields):
    import jinja2

    try:
        return _compiled(text).render(fields).strip()
    except jinja2.UndefinedError as error:
        raise UserError(f"prompt template: {error.message}; the row has {sorted(fields)}.") from error
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise UserError(f"prompt template: cannot be filled ({one_line(error).rstrip('.')}); correct it.") from error


def render(template: Template, **fields: Any) -> list[Message]:
    """Return the chat messages of a template; UserError when it names a field that the row lacks."""
    return [{"role": role, "content": _fill(template[role], fields)} for role in ("system", "user") if role in template]


def render_answer(template: Template, **fields: Any) -> str:
    """Return the assistant's answer of a template: what training teaches and label likelihood scores."""
    return _fill(template["answer"], fields)


def answered_example(row: Mapping[str, Any], template: Template, answer: str) -> Example:
    """Return a question and its answer as an example; row: uid, title, question."""
    fields = {"title": row["title"], "question": row["question"]}
    return Example(row["uid"], render(template, **fields), render_answer(template, **fields, answer=answer))


def label_messages(template: Template, row: CanonicalRow, label_set: LabelSet) -> tuple[list[Message], list[str]]:
    """Return (messages, one answer text per label): how a labelled row is put to a model, everywhere."""
    fields = {"text": row["text"]} | {key: label_set[key] for key in ("task", "task_words", "labels")}
    answers = [render_answer(template, **fields, label=label) for label in label_set["labels"]]
    videos = [medium["frames"] for medium in row.get("media") or () if medium["type"] == "video"]
    return with_videos(render(template, **fields), videos), answers


def spelt_out(text: str) -> str:
    """Return a text whose control tokens of common chat templates are broken by a blank, whoever reads it.

    The models of this build never see such tokens in a message (`prompt_ids`); some servers obey them.
    """
    return CONTROL.sub(lambda found: f"{found[0]} ", text)


def as_material(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a judge's template that are texts to be judged (name → text), with a `fence` to stand
    between: a mark that nobody who writes such a text can know, for it is a hash over them.
    """
    shown = {name: spelt_out(text) for name, text in texts.items()}
    return shown | {"fence": digest(list(shown.values()))[:12]}


def with_videos(messages: list[Message], videos: Sequence[str]) -> list[Message]:
    """Return messages whose last turn shows videos, named by the digests of their frames, before its text."""
    if not videos:
        return messages
    *before, last = messages
    parts = [*({"type": "video", "video": seen} for seen in videos), {"type": "text", "text": last["content"]}]
    return [*before, last | {"content": parts}]


def videos_of(messages: Sequence[Message]) -> list[str]:
    """Return the videos of a chat, in order."""
    parts = (part for message in messages if isinstance(message["content"], list) for part in message["content"])
    return [part["video"] for part in parts if part["type"] == "video"]


def texts_of(messages: Sequence[Message]) -> list[str]:
    """Return every text of a chat, in order: whole messages, and the text parts of those that show videos."""
    contents = [message["content"] for message in messages]
    parts = [content if isinstance(content, list) else [{"type": "text", "text": content}] for content in contents]
    return [part["text"] for content in parts for part in content if part["type"] == "text"]


def with_texts(messages: Sequence[Message], texts: Iterable[str]) -> list[Message]:
    """Return a chat with its texts, as `texts_of` lists them, replaced."""
    texts, replaced = iter(texts), []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = [part | {"text": next(texts)} if part["type"] == "text" else part for part in content]
        else:
            content = next(texts)
        replaced.append(message | {"content": content})
    return replaced
