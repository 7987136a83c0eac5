"""Questions and answers in the forms in which AlpacaEval, Arena-Hard and MT-Bench publish them.

A question set is a list of {instruction, output, dataset} (AlpacaEval: `output` is the baseline's answer) or lines of
{question_id, category, turns}; answers are a list of {instruction, output} or lines of {question_id, choices}. A turn
is a text, or {content: text}.
"""

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.outside import Unreadable, parse_json


@dataclass(frozen=True)
class Question:
    """A question of a set: its name, its turns, its category, and the baseline's answer and reference answers to its
    turns where the set has them."""

    uid: str
    turns: tuple[str, ...]
    part: str | None = None
    baseline: str | None = None
    references: tuple[str, ...] = ()


def named_by(instruction: str) -> str:
    """Return the name of an AlpacaEval question: the SHA-256 of its instruction."""
    return hashlib.sha256(instruction.encode()).hexdigest()


def rows_of(path: str | Path) -> list[Any]:
    """Return the rows of a JSON file that is a list, of JSON lines, or of a CSV file with a header."""
    path = Path(path)
    try:
        if path.suffix.lower() == ".csv":
            with open(path, encoding="utf-8-sig", newline="") as handle:
                return list(csv.DictReader(handle))
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if path.suffix.lower() == ".json":
            rows = parse_json(data)
            if not isinstance(rows, list):
                raise UserError(f"{path}: is no list of rows; write one, or JSON lines in a file that ends in .jsonl.")
            return rows
        return [parse_json(line) for line in data.splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file that is there.") from None
    except (Unreadable, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no JSON, JSON lines or CSV ({error}); fetch or export it again.") from None


def _turn(value):
    """Return the text of a turn, None where it has none."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _name(row):
    """Return the name of the question that a row is of, None where it has none."""
    if isinstance(row, dict):
        if isinstance(row.get("instruction"), str):
            return named_by(row["instruction"])
        if isinstance(row.get("question_id"), str | int):
            return str(row["question_id"])
    return None


def read_questions(path: str | Path, turns: int) -> list[Question]:
    """Return the questions of a set, in its order. turns: how many a question has at most.

    Raises:
        UserError: no questions, a row without a name or without turns, more turns than asked, a name that stands twice.
    """
    found: dict[str, Question] = {}
    for number, row in enumerate(rows_of(path), start=1):
        place, uid = f"{path}, row {number}", _name(row)
        if uid is None:
            raise UserError(f"{place}: has neither an instruction nor a question_id; write one of them.")
        if "instruction" in row:
            texts: list[Any] = [row["instruction"]]
        else:
            texts = list(map(_turn, row["turns"])) if isinstance(row.get("turns"), list) else []
        if not texts or not all(text and text.strip() for text in texts):
            raise UserError(f"{place}: question {uid} has no turns; write `turns`, a list of texts that are not empty.")
        if len(texts) > turns:
            raise UserError(
                f"{place}: question {uid} has {len(texts)} turns, but such a suite asks {turns}; leave it out."
            )
        if uid in found:
            raise UserError(f"{place}: question {uid} stands twice; leave one out.")
        part = row.get("dataset") if "instruction" in row else row.get("category")
        baseline = row["output"] if isinstance(row.get("output"), str) else None
        references = row["reference"] if isinstance(row.get("reference"), list) else []
        if not all(isinstance(text, str) for text in references):
            raise UserError(f"{place}: a reference of question {uid} is no text; write `reference`, a list of texts.")
        found[uid] = Question(uid, tuple(texts), str(part) if part else None, baseline, tuple(references))
    if not found:
        raise UserError(f"{path}: has no questions; name a file that has some.")
    return list(found.values())


def read_answers(path: str | Path, questions: Sequence[Question], what: str = "answer") -> dict[str, tuple[str, ...]]:
    """Return question → the texts of its turns, of a file of answers to some of these questions.

    what: what the rows are called. Answers to further questions are left alone; of references there may be none.

    Raises:
        UserError: a row without a name or turns, a reference for a question that is not there, a file of which no row
            is of these questions.
    """
    asked, found = {question.uid: question for question in questions}, {}
    for number, row in enumerate(rows_of(path), start=1):
        place, uid = f"{path}, row {number}", _name(row)
        if uid is None:
            raise UserError(f"{place}: has neither an instruction nor a question_id; write one of them.")
        texts = _answer(row)
        if texts is None:
            raise UserError(f"{place}: has no {what}; write `output`, or `choices` whose first has `turns`, as text.")
        if uid not in asked:
            if what == "reference":
                raise UserError(
                    f"{place}: is a reference for question {uid}, which is not among the questions; "
                    "name the references of these questions."
                )
            continue
        found[uid] = texts
    if not found:
        raise UserError(f"{path}: has no {what} to any of these questions; name a file of theirs.")
    return found


def _answer(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    if isinstance(row.get("output"), str):
        return (row["output"],)
    try:
        texts = [_turn(turn) for turn in row["choices"][0]["turns"]]
    except (KeyError, IndexError, TypeError):
        return None
    return tuple(text for text in texts if text is not None) if texts and None not in texts else None


def each_row(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place for a message, row) of a file whose rows are objects."""
    for number, row in enumerate(rows_of(path), start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: is no object with fields; fetch or export the file again.")
        yield f"{path}, row {number}", row
