"""Replies of judges, read as they were shown: JSON by a schema, the published line, and verdicts in brackets.

A reply is read strictly or not at all: None is not a score. A pair's winner is `first`, `second` or `Tie`, by the order
in which the judge was shown the answers; `evaluation.judging.judgement` alone says which answer that was.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moult.base.outside import Unreadable, parse_json
from moult.inference.structured import parse_pair

QUOTES = "\"'`‘’‚‛“”„‟«»"
# What may stand around a value and is no part of it.
AROUND = rf"[\s{{}}\[\]()*_{QUOTES}]*"
# Behind a value stands no word, but at most the next marker or the end of the line.
BEHIND = rf"{AROUND}(?:[^\w\n@#&*]*)(?=\n|@@@|###|&&&|\*\*\*|$)"
FEEDBACK = re.compile(r"&&&(?P<text>.*?)(?:\*\*\*|\Z)", re.DOTALL)
LABEL = re.compile(r"\s*detailed\s+evaluation\s+feedback\s*:", re.IGNORECASE)
SCORE_MARK = re.compile(r"###\s*overall\s+score\s*:", re.IGNORECASE)
RESULT_MARK = re.compile(r"###\s*final\s+result\s*:", re.IGNORECASE)
NUMBER = re.compile(rf"{AROUND}(?P<value>\d+(?:\.\d+)?){AROUND}(?:/\s*10(?![.\d]))?{BEHIND}")
WINNER = re.compile(rf"{AROUND}(?:response\s+)?(?P<value>a|b|tie)(?!\w){BEHIND}", re.IGNORECASE)
BLOCK = re.compile(r"@@@(?P<text>.*?)(?=@@@|###|\Z)", re.DOTALL)
PAIR = re.compile(rf"\s*[{QUOTES}]?\s*(?P<name>[^:{{}}]+?)\s*[{QUOTES}]?\s*:\s*(?P<value>[^,{{}}]*?)\s*(?:,|\Z)")
SHOWN = {"a": "first", "b": "second", "tie": "Tie"}
# Arena's five verdicts; other strings of these characters occur in replies, and say nothing.
VERDICTS = {"A>>B": "first", "A>B": "first", "A=B": "Tie", "B>A": "second", "B>>A": "second"}
OVERALL = "overall score"


# ---------------------------------------------------------------- the published line


def parse_grade_line(text: str) -> dict[str, Any] | None:
    """Return {grade, scores, feedback} of `@@@Dimension Scores: {…}###Overall Score: n&&&…***`; None without a grade.

    grade: from 0 to 10, of the marker, of the scores, or of both where they agree. scores: dimension → 1 to 10, None
    where one is no such number.
    """
    rest, feedback = _split(text)
    blocks = [_dimensions(block) for block in _blocks(rest)]
    inside = [value for block in blocks for name, value in block or () if name.lower() == OVERALL]
    behind = [_number(rest, mark.end()) for mark in SCORE_MARK.finditer(rest)]
    grade = _one([*map(_as_number, inside), *behind])
    if grade is None or not 0 <= grade <= 10:
        return None
    first = blocks[0] if blocks else None
    scores = _scores([(name, value) for name, value in first or () if name.lower() != OVERALL])
    return {"grade": grade, "scores": scores, "feedback": feedback}


def parse_pair_line(text: str) -> dict[str, Any] | None:
    """Return {winner, first, second, feedback} of `@@@{…}@@@{…}###Final Result: A|B|Tie&&&…***`; None without a winner.

    first, second: dimension → 1 to 10, None where they cannot be read.
    """
    rest, feedback = _split(text)
    found = [WINNER.match(rest, mark.end()) for mark in RESULT_MARK.finditer(rest)]
    winner = _one([SHOWN[one["value"].lower()] if one else None for one in found])
    if winner is None:
        return None
    blocks = [_scores(_dimensions(block)) for block in _blocks(rest)]
    first, second = blocks if len(blocks) == 2 else (None, None)
    return {"winner": winner, "first": first, "second": second, "feedback": feedback}


def grade_line(scores: Mapping[str, int], grade: int, feedback: str) -> str:
    """Return the published line of a graded answer, which `parse_grade_line` reads."""
    return f"@@@Dimension Scores: {_dict(scores, grade)}###Overall Score: {grade}{_feedback(feedback)}"


def pair_line(
    first: Mapping[str, int], second: Mapping[str, int], overall: Sequence[int], winner: str, feedback: str
) -> str:
    """Return the published line of two answers, which `parse_pair_line` reads. winner: first, second or Tie; overall:
    the two overall scores."""
    letter = {shown: letter for letter, shown in zip(("A", "B", "Tie"), SHOWN.values(), strict=True)}[winner]
    blocks = f"@@@{_dict(first, overall[0])}@@@{_dict(second, overall[1])}"
    return f"{blocks}###Final Result: {letter}{_feedback(feedback)}"


def _dict(scores, overall):
    return "{" + ", ".join(f"'{name}': {score}" for name, score in {**scores, "Overall Score": overall}.items()) + "}"


def _feedback(text):
    """Three stars end a feedback, so there are none in it."""
    parted = re.sub(r"\*(?=\*|\Z)", "* ", text)
    return f"&&&Detailed Evaluation Feedback: {parted}***"


def _split(text):
    """Return (the reply without its feedback, the feedback or None): what feedback says is never searched."""
    found = FEEDBACK.search(text)
    feedback = LABEL.sub("", found["text"], count=1).strip() if found else ""
    return FEEDBACK.sub("***", text), feedback or None


def _blocks(text):
    return [found["text"] for found in BLOCK.finditer(text)]


def _dimensions(block):
    """Return [(name, value as text)] of the one dict in a block, None where there is none that is whole."""
    inner = re.findall(r"\{([^{}]*)\}", block)
    if len(inner) != 1 or block.count("{") != 1 or block.count("}") != 1:
        return None
    found, at = [], 0
    while at < len(inner[0]):
        pair = PAIR.match(inner[0], at)
        if pair is None or pair.end() == at:
            return None
        found.append((pair["name"].strip(), pair["value"]))
        at = pair.end()
    return found


def _scores(pairs):
    """Return {dimension: 1 to 10}; None without any, where one stands twice, or where one is no such whole number."""
    values = {name: _as_number(value) for name, value in pairs or ()}
    whole = all(isinstance(value, int) and 1 <= value <= 10 for value in values.values())
    return values if values and whole and len(values) == len(pairs) else None


def _number(text, at):
    found = NUMBER.match(text, at)
    return _as_number(found["value"]) if found else None


def _as_number(text):
    """Return a number, whole where it is, with or without quotes and `/10`; None for anything else."""
    found = NUMBER.fullmatch(text)
    number = float(found["value"]) if found else None
    return int(number) if number is not None and number.is_integer() else number


def _one(values):
    """Return what all values are, None where there is none, where one could not be read, or where two differ."""
    return values[0] if values and None not in values and len(set(values)) == 1 else None


# ---------------------------------------------------------------- brackets


def parse_bracket(text: str) -> str | None:
    """Return Arena's verdict of a reply, one of VERDICTS as it is spelt; None where there is none, or two differ."""
    return one_verdict(verdicts_in(text))


def verdicts_in(text: str) -> list[str]:
    """Return what stands in double brackets and might be one of Arena's verdicts, in its order."""
    return re.findall(r"\[\[\s*([AB<>=]+)\s*\]\]", text)


def one_verdict(found: Sequence[str]) -> str | None:
    """Return the verdict that all found ones are, None where they differ, or are none of VERDICTS."""
    return _one([verdict if verdict in VERDICTS else None for verdict in found])


def parse_rating(text: str) -> float | None:
    """Return the number from 0 to 10 in double brackets, or where there are none in single ones; None where there is
    none, or two differ."""
    found = re.findall(r"\[\[([^\[\]]*)\]\]", text) or re.findall(r"\[([^\[\]]*)\]", text)
    numbers = [number for number in map(_as_number, found) if number is not None]
    number = _one(numbers)
    return number if number is not None and 0 <= number <= 10 else None


# ---------------------------------------------------------------- any form


def parse_grade(text: str, criteria: Sequence[str]) -> dict[str, Any] | None:
    """Return {grade, scores, feedback} of a reply in the form of `judge_requests.grade_schema`; None otherwise."""
    try:
        reply = parse_json(text)
    except Unreadable:
        return None
    scores = reply.get("answer") if isinstance(reply, dict) else None
    if not isinstance(reply, dict) or not isinstance(reply.get("justification"), str) or not isinstance(scores, dict):
        return None
    right = set(scores) == {*criteria, "overall"}
    if not right or not all(type(score) is int and 1 <= score <= 10 for score in scores.values()):
        return None
    by_dimension = {name: scores[name] for name in criteria}
    return {"grade": scores["overall"], "scores": by_dimension, "feedback": reply["justification"]}


def read_grade(form: str, text: str, criteria: Sequence[str]) -> dict[str, Any] | None:
    """Return {grade, scores, feedback} of a reply about one answer, in the form that was asked for; None if it is not
    in it. form: json, line or bracket."""
    if form == "json":
        return parse_grade(text, criteria)
    if form == "line":
        return parse_grade_line(text)
    rating = parse_rating(text)
    return None if rating is None else {"grade": rating, "scores": None, "feedback": None}


def _as_asked(scores, criteria):
    """Return scores by the names that were asked for, whatever the case in which the reply has them."""
    names = {name.lower(): name for name in criteria} | {OVERALL: "overall"}
    return scores and {names.get(name.lower(), name): score for name, score in scores.items()}


def read_pair(form: str, text: str, criteria: Sequence[str]) -> dict[str, Any] | None:
    """Return {winner, first, second, feedback} of a reply about two answers, in the form that was asked for; None if it
    is not in it. By JSON the higher overall score wins. form: json, line or bracket."""
    if form == "line":
        found = parse_pair_line(text)
        return found and found | {place: _as_asked(found[place], criteria) for place in ("first", "second")}
    if form == "bracket":
        verdict = parse_bracket(text)
        said = {"first": None, "second": None, "feedback": None}
        return None if verdict is None else {"winner": VERDICTS[verdict]} | said
    found = parse_pair(text, (*criteria, "overall"))
    if found is None:
        return None
    first, second = found["answer_1"], found["answer_2"]
    difference = first["overall"] - second["overall"]
    winner = "Tie" if difference == 0 else "first" if difference > 0 else "second"
    return {"winner": winner, "first": first, "second": second, "feedback": found["justification"]}
