"""Judgements that others published, read as battles: scored without asking anybody."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from moult.base.errors import UserError, nearest
from moult.base.rows import Battle, columns_of
from moult.evaluation.head_to_head.length_control import known_instructions
from moult.evaluation.head_to_head.public_files import each_row, named_by
from moult.evaluation.published import retired_models
from moult.inference.judge_replies import VERDICTS

ORDERS = ("original", "swapped")
# The model behind the name of an annotator.
ANNOTATORS = {
    "weighted_alpaca_eval_gpt4_turbo": "gpt-4-1106-preview",
    "alpaca_eval_gpt4_turbo_fn": "gpt-4-1106-preview",
}
# Outcome for whoever stands first, and weight, of each of Arena's verdicts.
OUTCOMES = {
    verdict: ({"first": 1.0, "Tie": 0.5, "second": 0.0}[winner], 3.0 if len(verdict) == 4 else 1.0)
    for verdict, winner in VERDICTS.items()
}
# Of one row: (model or None, judge or None, fields of the Battle).
Read = Iterator[tuple[str | None, str | None, dict[str, Any]]]


def preference_of(logprobs: Mapping[str, float], swapped: bool) -> float | None:
    """Return the preference for the model, from 1 (the baseline) to 2, of log-probabilities (nats) of the letters m, the
    answer shown first, and M, the second; None without either. swapped: whether the model stood first."""
    first, second = (math.exp(logprobs[letter]) if letter in logprobs else 0.0 for letter in ("m", "M"))
    if first + second == 0:
        return None
    preference = 1 + second / (first + second)
    return 3 - preference if swapped else preference


def _annotation(row: dict[str, Any]) -> Read:
    """A row of AlpacaEval's annotations.json; or of a table without texts, which has `index` in the set of 805, and the
    characters of both answers as `len_1` and `len_2`."""
    if "instruction" in row:
        uid, lengths = named_by(row["instruction"]), [len(row["output_1"]), len(row["output_2"])]
        part = row.get("dataset")
    else:
        names = list(known_instructions())
        uid = names[int(row["index"])]
        lengths, part = [int(row["len_1"]), int(row["len_2"])], known_instructions()[uid].part
    given = row["preference"]
    value = None if given in (None, "") or math.isnan(float(given)) else float(given) or 1.5
    if value is not None and not 1 <= value <= 2:
        raise ValueError(f"preference {given} is not from 1 to 2")
    judge = row.get("annotator")
    said = {"uid": uid, "part": part, "game": "original", "value": value, "weight": 1.0, "lengths": lengths}
    yield row.get("generator_2"), ANNOTATORS.get(cast(str, judge), judge), said


def _arena_games(row: dict[str, Any]) -> Read:
    """A row of Arena-Hard's model_judgment: of the first game the baseline stands first, of the second the model."""
    for game, order in zip(row["games"], ORDERS, strict=False):
        verdict = game["score"]
        outcome, weight = OUTCOMES.get(verdict, (None, 1.0))
        value = outcome if outcome is None or order == "swapped" else 1 - outcome
        said = {"uid": str(row["question_id"]), "part": None, "game": order, "value": value, "weight": weight}
        yield row.get("model"), row.get("judge"), said | {"lengths": None, "raw": verdict}


def _arena_battle(row: dict[str, Any]) -> Read:
    """A row of Arena-Hard's battles: a verdict of weight 3 is three equal rows; model_a is the baseline."""
    winner = row["winner"]
    value = {"model_a": 0.0, "model_b": 1.0}.get(winner, 0.5 if winner.startswith("tie") else None)
    said = {"uid": str(row["question_id"]), "part": None, "game": "original", "value": value, "weight": 1.0}
    yield row.get("model_b"), row.get("judge"), said | {"lengths": None, "raw": winner}


def _mt_judgement(row: dict[str, Any]) -> Read:
    """A row of MT-Bench's single-answer judgements; −1 is a reply without a score."""
    score, judge = float(row["score"]), row.get("judge")
    said = {"uid": str(row["question_id"]), "part": None, "game": f"turn_{int(row['turn'])}", "weight": 1.0}
    said |= {"value": None if score == -1 else score, "lengths": None}
    if said["value"] is not None and not 0 <= score <= 10:
        raise ValueError(f"score {row['score']} is not from 0 to 10")
    yield row.get("model"), judge[0] if isinstance(judge, list) else judge, said


# Kind of suite → the columns that tell a form → its reader.
FORMS: dict[str, tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], Read]], ...]] = {
    "alpaca": (
        (("instruction", "output_1", "output_2", "preference"), _annotation),
        (("index", "len_1", "len_2", "preference"), _annotation),
    ),
    "arena": ((("question_id", "games"), _arena_games), (("question_id", "winner"), _arena_battle)),
    "mt": ((("question_id", "turn", "score"), _mt_judgement),),
}


def read_judgements(
    path: str | Path, kind: str, name: str, of: str | None = None, parts: Mapping[str, str | None] | None = None
) -> list[Battle]:
    """Return the battles that a file of published judgements tells of, in its order.

    kind: alpaca, arena or mt. name: what the model is called here. of: its name in the file; None where the file is of
    one model. parts: question → category, where the questions are at hand; judgements of others are left out.

    Raises:
        UserError: a row of no known form or that cannot be read, a file of several models, of another one, or of other
            questions.
    """
    rows: list[Battle] = []
    models: dict[str | None, None] = {}
    for place, row in each_row(path):
        reader = next((read for columns, read in FORMS[kind] if set(columns) <= set(row)), None)
        if reader is None:
            known = "; ".join(", ".join(columns) for columns, _ in FORMS[kind])
            raise UserError(f"{place}: has the columns of no known form of judgements; write one of {known}.")
        try:
            read = list(reader(row))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{place}: a judgement cannot be read ({type(error).__name__}: {error}); fetch the file again."
            ) from None
        for model, judge, said in read:
            models[model] = None
            if of is None or model == of:
                told: dict[str, Any] = {"raw": None, "reason": None} | said
                told |= {"model": name, "judge": judge or "not named", "source": "published"}
                told["status"] = "unknown" if told["value"] is None else "ok"
                rows.append(cast(Battle, {key: told[key] for key in columns_of(Battle)}))
    if of is None and len(models) > 1:
        raise UserError(
            f"{path}: has judgements of {len(models)} models; write `of`, the one that is meant{_among(models)}"
        )
    if of is not None and of not in models:
        raise UserError(f"{path}: has no judgement of {of!r}{nearest(of, [str(model) for model in models])}.")
    if parts is not None:
        rows = [cast(Battle, row | {"part": parts[row["uid"]] or row["part"]}) for row in rows if row["uid"] in parts]
    if not rows:
        raise UserError(f"{path}: has no judgement of any of these questions; name a file of theirs.")
    return rows


def _among(models):
    return f": {', '.join(sorted(map(str, models)))[:200]}."


def is_retired(judge: str) -> bool:
    """Whether a judge can be asked no more, because its service shut it down."""
    return judge in retired_models()
