"""The chat template of a model's folder: the one that came with it or another, told what the config sets, and tried."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import write_text_atomic
from moult.base.rows import Message
from moult.data.chats import ChatTemplate, template_variables
from moult.weights.compatibility import chat_template
from moult.weights.headers import read_object

# What a config may set of a fetched model's chats.
SETTINGS = ("chat_template", "thinking", "date")
# Names under which templates are told whether a model is to think.
SWITCHES = ("enable_thinking", "thinking")
# What a date can be asked for by; of the time of day, midnight.
_FORMS = (
    "%-d",
    "%-m",
    "%a",
    "%A",
    "%b",
    "%B",
    "%d",
    "%D",
    "%e",
    "%F",
    "%j",
    "%m",
    "%u",
    "%w",
    "%x",
    "%y",
    "%Y",
    "%H",
    "%M",
)


def template_of(folder: str | Path, settings: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """Return the chat template of a model's folder, None where there is none.

    settings: any of SETTINGS: `chat_template`, the text of another one; `thinking`, whether the model is to think
    before it answers; `date` (YYYY-MM-DD), the day that it is told. They become a part of the template, so that whoever
    uses the folder sees what was trained. UserError where the template cannot be told whether to think.
    """
    folder, settings = Path(folder), settings or {}
    text = settings.get("chat_template", chat_template(folder))
    if text is None:
        return None
    variables = special_tokens(folder)
    if "date" in settings:
        text = _dated(datetime.date.fromisoformat(settings["date"])) + text
    if "thinking" in settings:
        value = "true" if settings["thinking"] else "false"
        switch = _switch(ChatTemplate(text, variables))
        text = f"{{% if {switch} is not defined %}}{{% set {switch} = {value} %}}{{% endif %}}\n{text}"
    return ChatTemplate(text, variables)


def write_template(folder: Path, template: ChatTemplate) -> None:
    """Write a chat template where transformers looks first."""
    write_text_atomic(folder / "chat_template.jinja", template.text)


def check_template(template: ChatTemplate | None, folder: str | Path, asked: bool | None = None) -> list[str]:
    """Return warnings about a folder's chat template.

    asked: whether the model is asked or trained on chats; None: nobody knows. UserError where its template cannot be
    used, or where it is asked and has none.
    """
    if template is None:
        lacks = "has no chat template, by which questions are put to it"
        if asked:
            raise UserError(
                f"{folder}: {lacks}; give it one, e.g. `chat_template: chatml`, or take a model that is made for chats."
            )
        return [f"{lacks}: it cannot be trained or asked without `chat_template`"]
    try:
        shape = template.shape
    except UserError as error:
        if asked is False:
            return [str(error).removesuffix(".")]
        raise UserError(f"{folder}: {error}") from None
    warnings = []
    if shape.folds:
        warnings.append("the chat template has no system role: the system's words go before those of the user")
    if not shape.turns:
        warnings.append("the chat template does not show all turns of a conversation: those of several are refused")
    if shape.loses:
        warnings.append("the chat template forgets words once they are answered: rows keep those of the prompt")
    elif not shape.before.startswith(shape.prompt):
        asks = shape.prompt[-40:]
        warnings.append(
            f"the chat template asks by {asks!r}, which no conversation has: rows are those of conversations, and "
            "answers are asked for as the template does"
        )
    return warnings


def special_tokens(folder: str | Path) -> dict[str, str]:
    """Return role → token of a tokenizer's special tokens, as a chat template is given them."""
    folder = Path(folder)
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = read_object(folder / name) if (folder / name).exists() else {}
        for role, token in settings.items():
            if role.endswith("_token"):
                found[role] = token.get("content") if isinstance(token, dict) else token
    return template_variables(found)


def _dated(date):
    """Return lines of Jinja that tell a template which day it is, in whatever way it asks."""
    written = "".join(f" | replace({form!r}, {date.strftime(form)!r})" for form in _FORMS)
    return (
        f"{{% if date_string is not defined %}}{{% set date_string = '{date.strftime('%d %b %Y')}' %}}{{% endif %}}\n"
        f"{{% macro strftime_now(form) %}}{{{{ form{written} }}}}{{% endmacro %}}\n"
    )


def _switch(template):
    """Return the name under which a template is told whether to think; UserError where it knows none."""
    asked, answered = Message(role="user", content="question"), Message(role="assistant", content="answer")
    chats = ([asked], True), ([asked, answered], False)
    for name in SWITCHES:
        shown = [ChatTemplate(template.text, template.variables | {name: on}).rendered(*chats) for on in (True, False)]
        if shown[0] != shown[1]:
            return name
    raise UserError(
        f"thinking: the model's chat template has no switch for it ({' or '.join(SWITCHES)}); leave `thinking` out, or "
        "give it another template by `chat_template`."
    )
