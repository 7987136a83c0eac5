"""AlpacaEval: the share of instructions on which a judge would rather have the model's answer than the baseline's.

A verdict is one token of two. Its log-probabilities are a preference between 1 (the baseline) and 2 (the model), so
that no verdict is drawn; the length-controlled win rate is what they say of answers of equal length.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from moult.base.files import derive_seed
from moult.base.rows import Recipe
from moult.base.suite_rows import Battle
from moult.data.fields import Decoding, Prompt
from moult.data.prompts import as_material, render
from moult.evaluation import metrics
from moult.evaluation.head_to_head.estimates import Linear, over_questions, weighted_mean
from moult.evaluation.head_to_head.kind import Benchmark, Compared, Measured, Read, Shown
from moult.evaluation.head_to_head.length_control import (
    Preference,
    difficulties_of,
    known_instructions,
    length_controlled,
)
from moult.evaluation.head_to_head.public_files import Question, named_by
from moult.evaluation.kinds import Headline
from moult.evaluation.metrics import Estimate
from moult.inference.asking import Asker
from moult.inference.requests import ChatRequest, LabelRequest, Request, Sampling

ORDERS = ("original", "swapped")
# The letter of the answer that is shown first, and that of the second.
LETTERS = ("m", "M")
# Of how many tokens a remote judge tells the log-probability.
LIKELIEST = 5
# The model behind the name of an annotator.
ANNOTATORS = {
    "weighted_alpaca_eval_gpt4_turbo": "gpt-4-1106-preview",
    "alpaca_eval_gpt4_turbo_fn": "gpt-4-1106-preview",
}


class AlpacaSuite(Compared):
    """Win rates against a baseline by one token of two, as AlpacaEval 2 has them."""

    shown: ClassVar[dict[str, tuple[str, ...]]] = {"prompt": ("answer_m", "answer_M", "fence")}

    kind: Literal["alpaca"] = Field(description="Win rates by one token of two, as AlpacaEval 2 has them.")
    orders: Literal["both", "one"] = Field(
        "both",
        description="Orders in which a pair is shown; `one`, drawn with the experiment's seed, is the published way.",
    )
    prompt: Prompt = Field(
        "head_to_head/alpaca", description="Template of resources/prompts that asks the judge for the letter m or M."
    )
    decoding: Decoding = Field(Decoding(max_tokens=2048), description="How the models' answers are decoded.")
    judging: Decoding = Field(
        Decoding(temperature=1.0, max_tokens=1), description="How a remote judge's letter is decoded."
    )


def preference_of(logprobs: Mapping[str, float], swapped: bool) -> float | None:
    """Return the preference for the model, from 1 (the baseline) to 2, of log-probabilities (nats) of tokens; None
    where neither is m, the letter of the answer shown first, or M. swapped: whether the model stood first."""
    first, second = (
        sum(math.exp(value) for token, value in logprobs.items() if token.strip() == letter) for letter in LETTERS
    )
    if first + second == 0:
        return None
    preference = 1 + second / (first + second)
    return 3 - preference if swapped else preference


# ---------------------------------------------------------------- the judge


def _recipe(settings):
    return {"orders": settings.orders}


def _shown(
    recipe: Recipe, question: Question, ours: Sequence[str], theirs: Sequence[str], references: Sequence[str]
) -> Iterator[Shown]:
    pair = (theirs[0], ours[0])
    orders: Sequence[str] = ORDERS
    if recipe["orders"] == "one":
        orders = (ORDERS[derive_seed(recipe["seed"], question.uid) % 2],)
    for order in orders:
        yield Shown(question, order, pair if order == "original" else pair[::-1])


def _request(recipe: Recipe, shown: Shown) -> Request:
    texts = {"question": shown.question.turns[0], "answer_m": shown.answers[0], "answer_M": shown.answers[1]}
    messages = tuple(render(recipe["prompt"], **as_material(texts)))
    if "serve" in recipe["endpoint"]:
        return LabelRequest(messages, LETTERS)
    seed = derive_seed(recipe["seed"], list(messages))
    return ChatRequest(messages, Sampling(**recipe["decoding"]), seed=seed, top_logprobs=LIKELIEST)


def _ask(recipe: Recipe, everything: Sequence[Shown], asker: Asker) -> list[Any]:
    """Return log-likelihoods of both letters, or a stored answer with log-probabilities. Equal answers are a draw, of
    which nobody is asked."""
    different = [shown for shown in everything if shown.answers[0] != shown.answers[1]]
    ask: Any = asker.label_logprobs if "serve" in recipe["endpoint"] else asker.ask
    values = iter(ask([_request(recipe, shown) for shown in different]))
    return [[0.0, 0.0] if shown.answers[0] == shown.answers[1] else next(values) for shown in everything]


def _read(shown: Shown, value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        logprobs: Mapping[str, float] = dict(zip(LETTERS, value, strict=True))
        raw = None
    elif value["finish_reason"] == "error":
        return {"status": "error", "value": None, "weight": 1.0, "raw": value["text"], "reason": value["error"]}
    else:
        logprobs, raw = value.get("logprobs") or {}, value["text"]
    preference = preference_of(logprobs, shown.game == "swapped")
    reason = "neither letter is among the likeliest tokens" if preference is None else None
    status = "unknown" if preference is None else "ok"
    return {"status": status, "value": preference, "weight": 1.0, "raw": raw, "reason": reason}


# ---------------------------------------------------------------- published judgements


def _annotation(row: dict[str, Any]) -> Read:
    """A row of annotations.json; or of a table without texts, which has `index` in the set of 805, and the characters
    of both answers as `len_1` and `len_2`."""
    if "instruction" in row:
        uid, lengths = named_by(row["instruction"]), [len(row["output_1"]), len(row["output_2"])]
        part = row.get("dataset")
    else:
        uid = list(known_instructions())[int(row["index"])]
        lengths, part = [int(row["len_1"]), int(row["len_2"])], known_instructions()[uid].part
    given = row["preference"]
    value = None if given in (None, "") or math.isnan(float(given)) else float(given) or 1.5
    if value is not None and not 1 <= value <= 2:
        raise ValueError(f"preference {given} is not from 1 to 2")
    judge = row.get("annotator")
    said = {"uid": uid, "part": part, "game": "original", "value": value, "weight": 1.0, "lengths": lengths}
    yield row.get("generator_2"), ANNOTATORS.get(cast(str, judge), judge), said


# ---------------------------------------------------------------- scores


def preferences(battles: Sequence[Battle]) -> list[Preference]:
    """Return each instruction once, with the mean preference over its orders, from 0 to 1."""
    found: dict[str, list[Battle]] = {}
    for row in battles:
        found.setdefault(row["uid"], []).append(row)
    return [
        Preference(
            uid,
            cast(Any, tuple(rows[0]["lengths"] or ())),
            sum(cast(float, row["value"]) - 1 for row in rows) / len(rows),
        )
        for uid, rows in found.items()
    ]


def _linear(battles: Sequence[Battle]) -> dict[str, Linear]:
    rows = preferences(battles)
    controlled, _ = length_controlled(rows, difficulties_of(rows))
    return {"length_controlled_win_rate": controlled, "win_rate": weighted_mean(_said(rows))}


def _said(rows):
    return [(row.question, row.preference, 1.0) for row in rows]


def _measured(battles: Sequence[Battle], seed: int) -> Measured:
    rows = preferences(battles)
    n, values, difficulties = len(rows), [row.preference for row in rows], difficulties_of(rows)
    controlled, finite = length_controlled(rows, difficulties)
    mean = sum(values) / n
    spread = sum((one - mean) ** 2 for one in values) / (n - 1) if n > 1 else 0.0
    halves = [(one > 0.5) + (one == 0.5) / 2 for one in values]
    found = {
        "length_controlled_win_rate": controlled.estimate((0, 1)),
        "win_rate": over_questions(_said(rows), seed, (0, 1)),
        "standard_error": Estimate((spread / n) ** 0.5, None),
        "discrete_win_rate": metrics.means({"": halves}, seed, (0, 1))[""],
        "mean_length": Estimate(sum(row.lengths[1] for row in rows) / n, None),
        "baseline_length": Estimate(sum(row.lengths[0] for row in rows) / n, None),
        "difficulties_known": Estimate(float(difficulties is not None), None),
        "fit_is_finite": Estimate(float(finite), None),
    }
    return {name: (n, estimate) for name, estimate in found.items()}


ALPACA = Benchmark(
    name="alpaca",
    fields=AlpacaSuite,
    turns=1,
    pairs=True,
    recipe=_recipe,
    shown=_shown,
    request=_request,
    ask=_ask,
    read=_read,
    forms=(
        (("instruction", "output_1", "output_2", "preference"), _annotation),
        (("index", "len_1", "len_2", "preference"), _annotation),
    ),
    headline=Headline("length_controlled_win_rate", "length-controlled win rate", "length-controlled win rates"),
    bounds=(0, 1),
    linear=_linear,
    measured=_measured,
    by_part=("win_rate",),
    metrics={
        "win_rate": "win rate",
        "standard_error": "standard error of it",
        "discrete_win_rate": "discrete win rate",
    },
)
