"""One parser per answer format."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from moult.base.outside import Unreadable, parse_json
from moult.base.text import begins_word, ends_word, folded


def parse_label(text: str, labels: Iterable[str]) -> tuple[str | None, str]:
    """Return (label, status) of a generated answer.

    A label counts where it stands as whole words of its script, whatever its case and spelling; underscores are blanks.
    No label is `unknown`, more than one is `multi`; both are wrong, neither is a class. A label inside a longer label
    that stands there too ("inform" in "inform friend") is not a hit of its own. This is the rule of MMLA's evaluation,
    made exact.
    """
    answer = _folded(text)
    spans = []
    for label in labels:
        wanted = _folded(label)
        for found in re.finditer(f"(?={re.escape(wanted)})", answer):
            start, end = found.start(), found.start() + len(wanted)
            if begins_word(answer, start) and ends_word(answer, end):
                spans.append((start, end, label))
    hits = {
        label
        for start, end, label in spans
        if not any(a <= start and end <= b and (a, b) != (start, end) for a, b, _ in spans)
    }
    if len(hits) == 1:
        return hits.pop(), "ok"
    return None, "multi" if hits else "unknown"


def _folded(text):
    return re.sub(r"[\s_]+", " ", folded(text))


def verdict_schema(longest: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of a judge's verdict. Feedback comes first, so that the verdict follows from it.

    longest: characters of feedback and of hints; None for remote models, of which not all take a limit.
    """
    text = {"type": "string"} | ({"maxLength": longest} if longest else {})
    properties = {"feedback": text, "hints": text, "verdict": {"type": "string", "enum": ["correct", "incorrect"]}}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def parse_verdict(text: str) -> tuple[dict[str, str], None] | tuple[None, str]:
    """Return ({verdict, feedback, hints}, None) of a reply in the form of `verdict_schema`; else (None, why not).

    Nothing is guessed from words in a text: "Partially correct" is no verdict.
    """
    try:
        value = parse_json(text)
    except Unreadable:
        return None, f"the reply is not the JSON that was asked for: {text[:80]!r}"
    if not isinstance(value, dict) or value.get("verdict") not in ("correct", "incorrect"):
        return None, f"the reply has no verdict: {text[:80]!r}"
    said = {name: value.get(name, "") for name in ("feedback", "hints")}
    if not all(isinstance(words, str) for words in said.values()):
        return None, f"the reply's feedback and hints are no texts: {text[:80]!r}"
    return {"verdict": value["verdict"]} | said, None


def parse_pair(text: str, criteria: Sequence[str]) -> dict[str, Any] | None:
    """Return the reply of a judge that compared two answers: {justification, answer_1, answer_2}; None where it is not
    in that form.

    answer_1 and answer_2 hold an integer from 1 to 10 for each of the criteria, in their order. A missing or further
    criterion, a number in words or out of range, or text around the JSON is not guessed at.
    """
    try:
        reply = parse_json(text)
    except Unreadable:
        return None
    if not isinstance(reply, dict) or not isinstance(reply.get("justification"), str):
        return None
    for name in ("answer_1", "answer_2"):
        scores = reply.get(name)
        if not isinstance(scores, dict) or set(scores) != set(criteria):
            return None
        if not all(type(score) is int and 1 <= score <= 10 for score in scores.values()):
            return None
    scores = {name: {one: reply[name][one] for one in criteria} for name in ("answer_1", "answer_2")}
    return {"justification": reply["justification"], **scores}


def label_key(label: str) -> str:
    """Return what a label is found by in an answer; two labels of one key cannot be told apart."""
    return _folded(label).strip()
