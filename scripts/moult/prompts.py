"""Prompts: templates in `resources/prompts/`, and their tokens. The same code serves training and inference."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moult.errors import UserError
from moult.files import digest

PROMPTS = Path(__file__).parents[2] / "resources" / "prompts"
# How chat templates spell the turns of a conversation, as far as no text about code needs it so.
CONTROL = re.compile(r"<(?=\|[\w ]{1,40}\|>|/?(?:start|end)_of_turn>|<SYS>>|</SYS>>)|\[(?=/?INST\])")


@dataclass(frozen=True)
class Example:
    """One supervised example: chat messages up to the answer (see `with_videos`), and the answer."""

    uid: str
    messages: list
    answer: str


def template_names():
    """Return the names of the shipped prompt templates, e.g. `mmla/text`."""
    return sorted(path.relative_to(PROMPTS).with_suffix("").as_posix() for path in PROMPTS.rglob("*.yaml"))


@cache
def load_template(name):
    """Return a prompt template as a plain dict of `system`, `user` and `answer` to Jinja text.

    It goes into the recipe of the job whole, so that an edited prompt rebuilds what was made with it.
    """
    import yaml

    try:
        return yaml.safe_load((PROMPTS / f"{name}.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"prompt {name!r} is not in resources/prompts/; write one of {template_names()}.") from None


@cache
def _compiled(text):
    import jinja2

    return jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(text)


def _fill(text, fields):
    import jinja2

    try:
        return _compiled(text).render(fields).strip()
    except jinja2.UndefinedError as error:
        raise UserError(f"prompt template: {error.message}; the row has {sorted(fields)}.") from error


def render(template, **fields):
    """Return the chat messages of a template; UserError when it names a field that the row lacks."""
    return [{"role": role, "content": _fill(template[role], fields)} for role in ("system", "user") if role in template]


def render_answer(template, **fields):
    """Return the assistant's answer of a template: what training teaches and label likelihood scores."""
    return _fill(template["answer"], fields)


def spelt_out(text):
    """Return a text whose control tokens of common chat templates are broken by a blank, whoever reads it.

    The models of this build never see such tokens in a message (`prompt_ids`); some servers obey them.
    """
    return CONTROL.sub(lambda found: f"{found[0]} ", text)


def as_material(texts):
    """Return the fields of a judge's template that are texts to be judged (name → text), with a `fence` to stand
    between: a mark that nobody who writes such a text can know, for it is a hash over them.
    """
    shown = {name: spelt_out(text) for name, text in texts.items()}
    return shown | {"fence": digest(list(shown.values()))[:12]}


def with_videos(messages, videos):
    """Return messages whose last turn shows videos, named by the digests of their frames, before its text."""
    if not videos:
        return messages
    *before, last = messages
    parts = [*({"type": "video", "video": seen} for seen in videos), {"type": "text", "text": last["content"]}]
    return [*before, last | {"content": parts}]


def videos_of(messages):
    """Return the videos of a chat, in order."""
    parts = (part for message in messages if isinstance(message["content"], list) for part in message["content"])
    return [part["video"] for part in parts if part["type"] == "video"]


def texts_of(messages):
    """Return every text of a chat, in order: whole messages, and the text parts of those that show videos."""
    contents = [message["content"] for message in messages]
    parts = [content if isinstance(content, list) else [{"type": "text", "text": content}] for content in contents]
    return [part["text"] for content in parts for part in content if part["type"] == "text"]


def _with_texts(messages, texts):
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


def prompt_ids(tokenizer, messages):
    """Return the token ids of a chat that awaits the assistant's answer; a video is the one token of its template.

    Control tokens that stand inside a message (`<|im_start|>` in a row) are spelt out as ordinary text: a row
    cannot open a turn of its own.
    """
    contents = texts_of(messages)
    control = set(tokenizer.all_special_tokens) | {str(token) for token in tokenizer.added_tokens_decoder.values()}
    hostile = any(token in content for content in contents for token in control if token.strip())
    if not hostile:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    # Blanks that a template takes from around its texts it takes from around a mark, too.
    marks = [f"\v\x02{index}\x03\v" for index in range(len(contents))]
    text = tokenizer.apply_chat_template(_with_texts(messages, marks), tokenize=False, add_generation_prompt=True)
    ids = []
    for mark, content in zip(marks, contents, strict=True):
        if mark not in text:
            mark, content = mark.strip(), content.strip()
        before, text = text.split(mark, 1)
        ids += tokenizer(before, add_special_tokens=False)["input_ids"]
        ids += tokenizer(content, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids + tokenizer(text, add_special_tokens=False)["input_ids"]


def end_of_turn_id(tokenizer):
    """Return the token id that ends the assistant's turn: what the chat template puts first after its words.

    Where the template says nothing, it is the tokenizer's end of sequence; UserError when there is neither.
    """
    mark = "\x02answer\x03"
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    text = tokenizer.apply_chat_template(chat, tokenize=False) if tokenizer.chat_template else ""
    control = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    tail = tokenizer(text.partition(mark)[2], add_special_tokens=False)["input_ids"]
    end = next((token for token in tail if token in control), tokenizer.eos_token_id)
    if end is None:
        raise UserError(
            "the model's tokenizer has no end of turn and no eos_token; set eos_token in tokenizer_config.json."
        )
    return end
