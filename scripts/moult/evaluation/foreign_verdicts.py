"""Files of judgements that somebody else made, in the forms in which they were published, read as replies.

A reader says of each row what it was about, and what the judge said of it as it was shown. Judgements of the swapped
order that their authors turned back are put as they were shown, so that `judging.judgement` turns back all of them.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.rows import JudgeItem
from moult.inference.judge_replies import VERDICTS, one_verdict

LETTERS = {"first": "A", "second": "B", "Tie": "Tie"}
TURNED = {"first": "second", "second": "first", "Tie": "Tie"}
# Of one judgement: what names the item ({id} or {row}, from 0), the label that the file has, order → what was said.
Said = tuple[Mapping[str, Any], Any, dict[str, str]]


def _text(winner):
    """Return a winner as shown (first, second, Tie) as a reply; None, which nobody could read, as an empty one."""
    return "" if winner is None else f"###Final Result: {LETTERS[winner]}"


def _llmbar(row):
    """{index, label, forward: {winner}, swapped: {winner}}: 1 or 2, both in the item's order; null: unread."""
    winner = {"1": "first", "2": "second", None: None}
    said = {order: winner[row[key]["winner"]] for order, key in (("original", "forward"), ("swapped", "swapped"))}
    said["swapped"] = TURNED.get(said["swapped"])
    return {"row": int(row["index"])}, {1: "A", 2: "B"}[int(row["label"])], said


def _autoj(row):
    """row, label, output, output_exchanged: 0 the first, 1 the second, 2 a tie, each as it was shown."""
    shown = {"0": "first", "1": "second", "2": "Tie"}
    said = {"original": shown.get(row["output"]), "swapped": shown.get(row["output_exchanged"])}
    return {"row": int(row["row"])}, {"0": "A", "1": "B", "2": "Tie"}[row["label"]], said


def _pandalm(row):
    """idx and the verdict of one order: 1, 2, or 0 for a tie."""
    verdict = str(row["pandalm_7b"] if "pandalm_7b" in row else row["pandalm_result"])
    return {"id": str(row["idx"])}, None, {"original": {"0": "Tie", "1": "first", "2": "second"}.get(verdict)}


def _judgebench(row):
    """pair_id, label and two judgements, each with the verdicts that were found in its reply."""
    found = [one_verdict(one["verdicts_found"]) for one in row["judgments"]]
    said = {order: one and VERDICTS[one] for order, one in zip(("original", "swapped"), found, strict=True)}
    return {"id": row["pair_id"]}, row["label"][0], said


def _rewards(row):
    """pair_id, label, and the scores of a reward model in both orders: of A and B, and of the first and the second."""
    scores = {
        "original": ("forward_score_A", "forward_score_B"),
        "swapped": ("swapped_score_first", "swapped_score_second"),
    }
    said = {}
    for order, (first, second) in scores.items():
        difference = float(row[first]) - float(row[second])
        said[order] = "Tie" if difference == 0 else "first" if difference > 0 else "second"
    return {"id": row["pair_id"]}, row["label"][0], said


def _ours(row):
    """uid, order, winner (in the item's order) or grade: a row of `verdicts/` of another build."""
    if row["method"] == "grade":
        text = f"###Overall Score: {row['grade']}" if row["status"] == "ok" else ""
        return {"id": row["uid"].split(":", 2)[-1]}, None, {"original": text}
    winner = {"A": "first", "B": "second", "Tie": "Tie", None: None}[row["winner"]]
    said = {row["order"]: TURNED.get(winner) if row["order"] == "swapped" else winner}
    return {"id": row["uid"].split(":", 2)[-1]}, None, said


# The columns that tell a form → its reader.
FORMS: dict[str, tuple[tuple[str, ...], Callable[[Any], Said]]] = {
    "LLMBar": (("index", "label", "forward", "swapped"), _llmbar),
    "Auto-J": (("row", "label", "output", "output_exchanged"), _autoj),
    "PandaLM": (("idx", "pandalm_7b"), _pandalm),
    "PandaLM's own": (("idx", "pandalm_result"), _pandalm),
    "JudgeBench": (("pair_id", "label", "judgments"), _judgebench),
    "JudgeBench's reward models": (("pair_id", "label", "forward_score_A", "swapped_score_first"), _rewards),
    "verdicts of another build": (("uid", "method", "order", "status", "winner", "grade"), _ours),
}


def foreign_rows(path: str | Path) -> Iterator[tuple[int, Said]]:
    """Yield (number, what it says) of each row of a file; UserError with file, row and remedy where one is wrong."""
    for number, row in enumerate(_rows(path), start=1):
        form = next((one for one in FORMS.values() if isinstance(row, dict) and set(one[0]) <= set(row)), None)
        if form is None:
            known = "; ".join(f"{name}: {', '.join(columns)}" for name, (columns, _) in FORMS.items())
            raise UserError(
                f"{path}, row {number}: has the columns of no known form of judgements; write one of {known}."
            )
        try:
            yield number, form[1](row)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{path}, row {number}: a judgement cannot be read ({told}); write it as its form has it, "
                f"{', '.join(form[0])}."
            ) from None


def _rows(path):
    path = Path(path)
    try:
        if path.suffix.lower() == ".csv":
            with open(path, encoding="utf-8-sig", newline="") as handle:
                return list(csv.DictReader(handle))
        text = path.read_text(encoding="utf-8-sig")
        return (
            json.loads(text)
            if path.suffix.lower() == ".json"
            else [json.loads(line) for line in text.splitlines() if line]
        )
    except ValueError as error:
        raise UserError(f"{path}: is no CSV, JSON or JSON lines ({error}); fetch or export it again.") from error


def read_foreign(path: str | Path, items: Sequence[JudgeItem]) -> dict[str, dict[str, str]]:
    """Return uid → order → reply of the judgements in a file that are of these items; the others are left alone.

    A row names its item by id, or by its number in the file that the items came from. UserError where a file is of
    other items: where its label contradicts that of the item.
    """
    by_id = {item["uid"].split(":", 2)[-1]: item for item in items}
    by_row = {int(item["source"].rpartition(":")[2]) - 1: item for item in items}
    if len({item["source"].rpartition(":")[0] for item in items}) > 1:
        by_row = {}
    found: dict[str, dict[str, str]] = {}
    for number, (name, label, said) in foreign_rows(path):
        if "row" in name and items and not by_row:
            raise UserError(
                f"{path}, row {number}: names its item by its number, but the dataset has several files; "
                "make a dataset of each."
            )
        item = by_id.get(name["id"]) if "id" in name else by_row.get(name["row"])
        if item is None:
            continue
        if label is not None and item["human"] != label:
            raise UserError(
                f"{path}, row {number}: its label is {label}, but people said {item['human']} of {item['uid']}; "
                "name the file of this dataset's judgements."
            )
        texts = {
            order: one if isinstance(one, str) and one.startswith("#") else _text(one) for order, one in said.items()
        }
        found.setdefault(item["uid"], {}).update(texts)
    return found
