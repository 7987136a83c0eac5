"""Arena-Hard: two games a question against a baseline, five verdicts of which the strong ones weigh three."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from moult.base.files import derive_seed
from moult.base.rows import Recipe
from moult.base.suite_rows import Battle
from moult.data.fields import Decoding, Prompt
from moult.data.prompts import as_material, load_template, render
from moult.evaluation import metrics
from moult.evaluation.head_to_head.estimates import Linear, over_battles, over_questions, weighted_mean
from moult.evaluation.head_to_head.kind import Benchmark, Compared, Measured, Read, Shown
from moult.evaluation.head_to_head.public_files import Question
from moult.evaluation.kinds import Headline
from moult.inference.asking import Asker
from moult.inference.judge_replies import VERDICTS, parse_bracket, verdicts_in
from moult.inference.requests import ChatRequest, Sampling

# Of the first game the baseline stands first, of the second the model.
ORDERS = ("original", "swapped")
# Outcome for whoever stands first, and weight, of each verdict.
OUTCOMES = {
    verdict: ({"first": 1.0, "Tie": 0.5, "second": 0.0}[winner], 3.0 if len(verdict) == 4 else 1.0)
    for verdict, winner in VERDICTS.items()
}


class ArenaSuite(Compared):
    """Win rates against a baseline by five verdicts, as Arena-Hard 0.1 has them."""

    shown: ClassVar[dict[str, tuple[str, ...]]] = {"prompt": ("answer_A", "answer_B", "fence"), "again": ()}

    kind: Literal["arena"] = Field(description="Win rates by five verdicts, as Arena-Hard 0.1 has them.")
    prompt: Prompt = Field(
        "head_to_head/arena", description="Template of resources/prompts that asks the judge for one of five verdicts."
    )
    again: Prompt = Field(
        "head_to_head/arena_again", description="Template of what a judge is told once whose reply has no verdict."
    )
    decoding: Decoding = Field(Decoding(max_tokens=4096), description="How the models' answers are decoded.")
    judging: Decoding = Field(Decoding(max_tokens=4096), description="How the judge's reply is decoded.")


def _recipe(settings):
    return {"again": load_template(settings.again)}


def _shown(
    recipe: Recipe, question: Question, ours: Sequence[str], theirs: Sequence[str], references: Sequence[str]
) -> Iterator[Shown]:
    pair = (theirs[0], ours[0])
    yield Shown(question, "original", pair)
    yield Shown(question, "swapped", pair[::-1])


def _request(recipe: Recipe, shown: Shown) -> ChatRequest:
    texts = {"question": shown.question.turns[0], "answer_A": shown.answers[0], "answer_B": shown.answers[1]}
    return _chat(recipe, render(recipe["prompt"], **as_material(texts)))


def _chat(recipe, messages):
    seed = derive_seed(recipe["seed"], messages)
    return ChatRequest(tuple(messages), Sampling(**recipe["decoding"]), seed=seed)


def _ask(recipe: Recipe, everything: Sequence[Shown], asker: Asker) -> list[Any]:
    """Return a reply for each; where it names no verdict at all, that of one further turn."""
    requests = [_request(recipe, shown) for shown in everything]
    values = asker.ask(requests)
    silent = [
        place
        for place, value in enumerate(values)
        if value["finish_reason"] != "error" and value["text"] and not verdicts_in(value["text"])
    ]
    further = [
        [*requests[place].messages, {"role": "assistant", "content": values[place]["text"]}, *render(recipe["again"])]
        for place in silent
    ]
    again = asker.ask([_chat(recipe, messages) for messages in further])
    return [dict(zip(silent, again, strict=True)).get(place, value) for place, value in enumerate(values)]


def _read(shown: Shown, value: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"value": None, "weight": 1.0, "raw": value["text"] or value["error"]}
    if value["finish_reason"] == "error":
        return nothing | {"status": "error", "reason": value["error"]}
    return nothing | _outcome(parse_bracket(value["text"]), shown.game)


def _outcome(verdict, order):
    """Return what a verdict says of the model, which stands first where the order is swapped."""
    if verdict not in OUTCOMES:
        return {"status": "unknown", "value": None, "weight": 1.0, "reason": "no verdict, or two that differ"}
    first, weight = OUTCOMES[verdict]
    return {"status": "ok", "value": first if order == "swapped" else 1 - first, "weight": weight, "reason": None}


# ---------------------------------------------------------------- published judgements


def _games(row: dict[str, Any]) -> Read:
    """A row of model_judgment: a verdict per game."""
    for game, order in zip(row["games"], ORDERS, strict=False):
        said = {"uid": str(row["question_id"]), "part": None, "game": order, "lengths": None, "raw": game["score"]}
        yield row.get("model"), row.get("judge"), said | _outcome(game["score"], order)


def _battle(row: dict[str, Any]) -> Read:
    """A row of battles: a verdict of weight 3 is three equal rows; model_a is the baseline."""
    winner = row["winner"]
    value = {"model_a": 0.0, "model_b": 1.0}.get(winner, 0.5 if winner.startswith("tie") else None)
    said = {"uid": str(row["question_id"]), "part": None, "game": "original", "value": value, "weight": 1.0}
    yield row.get("model_b"), row.get("judge"), said | {"lengths": None, "raw": winner}


# ---------------------------------------------------------------- scores


def _said(battles):
    return [(row["uid"], cast(float, row["value"]), row["weight"]) for row in battles]


def _linear(battles: Sequence[Battle]) -> dict[str, Linear]:
    return {"win_rate": weighted_mean(_said(battles))}


def _measured(battles: Sequence[Battle], seed: int) -> Measured:
    """The win rate, Σ weight · outcome ⁄ Σ weight, which is Bradley and Terry's where all battles are against one
    baseline; its interval over questions, and beside it the published kind over battles."""
    said, n = _said(battles), len({row["uid"] for row in battles})
    found = {"win_rate": over_questions(said, seed, (0, 1)), "win_rate_by_battles": over_battles(said, seed)}
    found["tie_rate"] = metrics.share(sum(row["value"] == 0.5 for row in battles), len(battles))
    return {name: (n, estimate) for name, estimate in found.items()}


ARENA = Benchmark(
    name="arena",
    fields=ArenaSuite,
    turns=1,
    pairs=True,
    recipe=_recipe,
    shown=_shown,
    request=_request,
    ask=_ask,
    read=_read,
    forms=((("question_id", "games"), _games), (("question_id", "winner"), _battle)),
    headline=Headline("win_rate", "win rate", "win rates"),
    bounds=(0, 1),
    linear=_linear,
    measured=_measured,
    by_part=("win_rate",),
    metrics={
        "win_rate_by_battles": "the same with the published interval, over battles",
        "tie_rate": "verdicts that are ties",
    },
    times=2,
)
