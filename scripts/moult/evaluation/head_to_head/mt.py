"""MT-Bench: answers to two turns of a question, each graded alone from 1 to 10."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from moult.base.files import derive_seed
from moult.base.rows import Recipe
from moult.base.section import LocalPath
from moult.base.suite_rows import Battle
from moult.data.fields import Decoding, Prompt
from moult.data.prompts import as_material, render
from moult.evaluation.head_to_head.estimates import Linear, over_questions, weighted_mean
from moult.evaluation.head_to_head.kind import Benchmark, HeadToHead, Measured, Read, Shown
from moult.evaluation.head_to_head.public_files import Question
from moult.evaluation.kinds import Headline, Unit
from moult.evaluation.metrics import Estimate
from moult.inference.asking import Asker
from moult.inference.judge_replies import parse_rating
from moult.inference.requests import ChatRequest, Sampling

TEXTS = ("question_1", "answer_1", "question_2", "answer_2", "reference_1", "reference_2")


class MtSuite(HeadToHead):
    """Grades of two turns, as MT-Bench has them."""

    shown: ClassVar[dict[str, tuple[str, ...]]] = {"prompt": (*TEXTS, "fence")}

    kind: Literal["mt"] = Field(description="Grades of two turns from 1 to 10, as MT-Bench has them.")
    references: LocalPath | None = Field(
        None,
        description=(
            "File of reference answers that the judge is shown, in the published form; null: those that the questions "
            "come with."
        ),
    )
    temperatures: dict[str, float] = Field(
        {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1},
        description="Category of questions → temperature of the models' answers; of others that of `decoding`.",
    )
    prompt: Prompt = Field(
        "head_to_head/mt", description="Template of resources/prompts that asks the judge to grade an answer."
    )
    decoding: Decoding = Field(Decoding(max_tokens=1024), description="How the models' answers are decoded.")
    judging: Decoding = Field(Decoding(max_tokens=2048), description="How the judge's reply is decoded.")


def _shown(
    recipe: Recipe, question: Question, ours: Sequence[str], theirs: Sequence[str], references: Sequence[str]
) -> Iterator[Shown]:
    for turn in range(len(question.turns)):
        yield Shown(question, f"turn_{turn + 1}", tuple(ours[: turn + 1]), tuple(references[: turn + 1]))


def _request(recipe: Recipe, shown: Shown) -> ChatRequest:
    """Return the request to grade the last answer shown, in its conversation."""
    texts = {}
    for name, several in (
        ("question", shown.question.turns[: len(shown.answers)]),
        ("answer", shown.answers),
        ("reference", shown.references),
    ):
        texts |= {f"{name}_{turn}": text for turn, text in enumerate(several, start=1)}
    messages = render(recipe["prompt"], **(dict.fromkeys(TEXTS) | as_material(texts)))
    seed = derive_seed(recipe["seed"], messages)
    return ChatRequest(tuple(messages), Sampling(**recipe["decoding"]), seed=seed)


def _ask(recipe: Recipe, everything: Sequence[Shown], asker: Asker) -> list[Any]:
    return asker.ask([_request(recipe, shown) for shown in everything])


def _read(shown: Shown, value: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"value": None, "weight": 1.0, "raw": value["text"] or value["error"]}
    if value["finish_reason"] == "error":
        return nothing | {"status": "error", "reason": value["error"]}
    grade = parse_rating(value["text"])
    if grade is None or grade < 1:
        return nothing | {"status": "unknown", "reason": "no grade from 1 to 10, or two that differ"}
    return nothing | {"status": "ok", "value": grade, "reason": None}


def _judgement(row: dict[str, Any]) -> Read:
    """A row of single-answer judgements; −1 is a reply without a score."""
    score, judge = float(row["score"]), row.get("judge")
    if score != -1 and not 0 <= score <= 10:
        raise ValueError(f"score {row['score']} is not from 0 to 10")
    said = {"uid": str(row["question_id"]), "part": None, "game": f"turn_{int(row['turn'])}", "weight": 1.0}
    said |= {"value": None if score == -1 else score, "lengths": None}
    yield row.get("model"), judge[0] if isinstance(judge, list) else judge, said


# ---------------------------------------------------------------- scores


def _turns(battles):
    """Return metric → what was said: of all turns, and of each. A turn that was judged twice counts twice, as in the
    published code."""
    said = [(row["uid"], cast(float, row["value"]), row["weight"], row["game"]) for row in battles]
    columns = {"score": [one[:3] for one in said]}
    columns |= {game: [one[:3] for one in said if one[3] == game] for game in ("turn_1", "turn_2")}
    return {name: values for name, values in columns.items() if values}


def _linear(battles: Sequence[Battle]) -> dict[str, Linear]:
    return {name: weighted_mean(said) for name, said in _turns(battles).items()}


def _measured(battles: Sequence[Battle], seed: int) -> Measured:
    found = {
        name: (len({uid for uid, *_ in said}), over_questions(said, seed, (1, 10)))
        for name, said in _turns(battles).items()
    }
    times = Counter((row["uid"], row["game"]) for row in battles)
    return found | {"judged_twice": (len(times), Estimate(sum(one > 1 for one in times.values()), None))}


MT = Benchmark(
    name="mt",
    fields=MtSuite,
    turns=2,
    pairs=False,
    recipe=lambda settings: {},
    shown=_shown,
    request=_request,
    ask=_ask,
    read=_read,
    forms=((("question_id", "turn", "score"), _judgement),),
    headline=Headline("score", "score", "scores", Unit(factor=1, digits=2, sign="", bounds=(1, 10))),
    bounds=(1, 10),
    linear=_linear,
    measured=_measured,
    by_part=("score", "turn_1", "turn_2"),
    metrics={"turn_1": "first turn", "turn_2": "second turn"},
)
