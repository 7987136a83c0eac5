"""What people said of answers, rendered into what a judge is trained on: the prompt of judges, and the published line.

Scores by dimension and feedback come from the data; what these lack comes from an endpoint that is told people's
verdict. Where the two contradict each other, the row is rejected.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from moult.base.files import derive_seed, digest
from moult.base.rows import Facts, JudgeItem, JudgementRow, Recipe, Reject, StoredAnswer, Usage
from moult.base.section import Name
from moult.base.stage import Experiment, Job
from moult.corpora.generated import check_rows, write_corpus
from moult.corpora.kind import Generated
from moult.data.fields import Decoding, Prompt, Rubric, Split
from moult.data.prompts import load_template, render
from moult.data.questions import judge_items
from moult.data.rubrics import load_rubrics, rubric_of
from moult.inference.asking import Asker, asker_of, flaw_of
from moult.inference.judge_replies import grade_line, pair_line, read_grade, read_pair
from moult.inference.judge_requests import dimensions_of, in_scale, judge_fields, judge_messages, reply_schema
from moult.inference.plans import Plan
from moult.inference.recipes import client_of, decoding_recipe, endpoint_recipe
from moult.inference.requests import ChatRequest, Sampling, author
from moult.inference.spending import summed_usage

# Raise when the same recipe would now ask, reject or render something else.
VERSION = 1
# Who explains what the data say themselves.
DATA = {"name": "the data", "serve": "the data"}
SHOWN = {"A": "first", "B": "second", "Tie": "Tie"}
# How a feedback may call the two answers: by number or letter, or as the first and the second one.
NAMES = re.compile(
    r"\b((?:[Aa]nswer|[Rr]esponse|[Aa]ssistant)[ _]?)([12AB])\b|\b([Ff]irst|[Ss]econd)(?= (?:answer|response|one)\b)"
)
OTHER = {"1": "2", "2": "1", "A": "B", "B": "A", "first": "second", "second": "first"}
SURPLUS = "left out, so that the longer answer is right as often as the shorter one"
logger = logging.getLogger(__name__)


class Judgements(Generated):
    """What people said of answers, as a judge is to say it."""

    rule: ClassVar = "render_judgements"
    doing: ClassVar = "rendering the judgements {corpus}"
    run: ClassVar = "moult.corpora.judgements:run"
    writes: ClassVar = "answers"
    shape: ClassVar = "judge_items"

    kind: Literal["judgements"] = Field(description="Kind of corpus: what people said of answers, to train judges on.")
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    dataset: str = Field(description="Dataset of items that people judged.")
    splits: list[Split] = Field(["train", "dev"], description="Splits whose items are rendered.")
    endpoint: str | None = Field(  # type: ignore[assignment]  # other kinds have one always
        None,
        description=(
            "Endpoint that is told people's verdict and gives scores and feedback where the data have none; null: such "
            "items are rejected."
        ),
    )
    orders: Literal["both", "original"] = Field(
        "both", description="Orders in which a pair is rendered; `both` takes away a liking for a position."
    )
    balance: Literal["length"] | None = Field(
        None,
        description=(
            "`length`: of each split as many pairs are drawn whose right answer is the longer one as pairs whose right "
            "answer is the shorter one, in characters. Null: all pairs."
        ),
    )
    references: bool = Field(False, description="Whether the judge is shown an item's reference answer.")
    rubric: Rubric = Field("default", description="Rubric of items whose category has none, or that have no category.")
    grade: Prompt = Field("judge/grade", description="Template of resources/prompts that asks to grade one answer.")
    compare: Prompt = Field(
        "judge/compare", description="Template of resources/prompts that asks to compare two answers."
    )
    explain: Prompt = Field(
        "judge/explain", description="Template of resources/prompts that tells the endpoint what people said."
    )
    decoding: Decoding = Field(Decoding(max_tokens=1024), description="How the endpoint's reply is decoded.")

    @property
    def endpoints(self) -> dict[str, str]:
        return {"endpoint": self.endpoint} if self.endpoint else {}

    def recipe(self, cfg: Experiment) -> Recipe:
        asked = {"explain": load_template(self.explain), "decoding": decoding_recipe(self.decoding)}
        return {
            "name": self.name,
            "splits": list(self.splits),
            "endpoint": endpoint_recipe(cfg, self.endpoint) if self.endpoint else {},
            **(asked if self.endpoint else {}),
            "form": "line",
            "orders": self.orders,
            "balance": self.balance,
            "references": self.references,
            "rubrics": load_rubrics(),
            "rubric": self.rubric,
            "prompts": {mode: load_template(getattr(self, mode)) for mode in ("grade", "compare")},
            "seed": derive_seed(cfg.seed, self.kind, self.name),
            "version": VERSION,
        }

    def client(self, cfg: Experiment) -> dict[str, Any] | None:
        return client_of(cfg, self.endpoint) if self.endpoint else None

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        rows = f"{facts['rows']:,} judgements"
        by = author(recipe["endpoint"] or DATA)
        return rows, f"{rows} of people, explained by {by}, pairs in {recipe['orders']} order"

    def plans(self, recipe: Recipe, rows: Sequence[Any]) -> dict[str, Plan]:
        asked = unexplained(recipe, drawn_by_length(recipe, rows)[0])
        return {"endpoint": Plan([request for _, request in asked], self.decoding.max_tokens)}


# ---------------------------------------------------------------- which pairs


def drawn_by_length(recipe: Recipe, items: Sequence[JudgeItem]) -> tuple[list[JudgeItem], list[JudgeItem]]:
    """Return (items, those left out), in their order: of each split as many pairs whose right answer is the longer as
    the shorter one, drawn by seed and uid. Grades, ties and pairs of equal lengths stay. recipe: balance, seed."""
    if not recipe["balance"]:
        return list(items), []
    sides: dict[Any, dict[bool, list[str]]] = {}
    for item in items:
        if item["mode"] == "compare" and item["human"] != "Tie":
            longer = len(cast(str, item["answer_1"])) - len(cast(str, item["answer_2"]))
            if longer:
                of_split = sides.setdefault(item["split"], {True: [], False: []})
                of_split[(longer > 0) == (item["human"] == "A")].append(item["uid"])
    surplus = set()
    for both in sides.values():
        few = min(map(len, both.values()))
        for uids in both.values():
            surplus |= set(sorted(uids, key=lambda uid: digest([recipe["seed"], uid]))[few:])
    kept = [item for item in items if item["uid"] not in surplus]
    return kept, [item for item in items if item["uid"] in surplus]


# ---------------------------------------------------------------- scores and feedback


def scores_of(recipe: Recipe, item: JudgeItem) -> list[dict[str, int]] | None:
    """Return the scores that the data have of each answer, by the dimensions of the rubric in its order; None where
    they have none, or those of other dimensions."""
    names, found = dimensions_of(recipe, item), []
    for scores in item.get("scores", []):
        folded = {name.strip().lower(): score for name, score in scores.items()}
        if set(folded) != {name.lower() for name in names}:
            return None
        found.append({name: folded[name.lower()] for name in names})
    return found or None


def answers_of(item: JudgeItem) -> list[str]:
    """Return the answers of an item, in its own order."""
    sides = ("answer",) if item["mode"] == "grade" else ("answer_1", "answer_2")
    return [cast(str, cast(Any, item)[side]) for side in sides]


def unexplained(recipe: Recipe, items: Sequence[JudgeItem]) -> list[tuple[JudgeItem, ChatRequest]]:
    """Return (item, request) of each item whose scores or feedback the data lack: its endpoint is told the verdict.

    recipe: as of `Judgements`, with explain (template) and decoding. A pair is asked about once, in its own order.
    """
    found = []
    for item in items:
        if scores_of(recipe, item) and item["feedback"]:
            continue
        shown = answers_of(item)
        verdict: Any = {"A": "answer_1", "B": "answer_2"}.get(item["human"], item["human"])
        if item["mode"] == "grade":
            verdict = f"{in_scale(item['human'], item['scale']):g}"
        messages = render(recipe["explain"], **judge_fields(recipe | {"form": "json"}, item, shown), verdict=verdict)
        schema = reply_schema(recipe, item, len(shown), "serve" in recipe["endpoint"])
        sampling, seed = Sampling(**recipe["decoding"]), derive_seed(recipe["seed"], messages)
        found.append((item, ChatRequest(tuple(messages), sampling, seed=seed, schema=schema)))
    return found


def explanation(recipe: Recipe, item: JudgeItem, value: StoredAnswer | None) -> tuple[dict[str, Any], str | None]:
    """Return ({scores, overall, feedback}, None) of an item, or ({}, why there is no such thing).

    value: the endpoint's reply, None where it was not asked. scores: dimension → 1 to 10 per answer; overall: an
    integer per answer. An overall score is to be within 1 of people's grade, the winner to be theirs; where scores of
    the data are equal once they are rounded, they name no winner and contradict nobody.
    """
    scores, feedback = scores_of(recipe, item), item["feedback"]
    told: dict[str, Any] = {}
    if scores:
        told = {"scores": scores, "overall": [mean_of(recipe, item, one) for one in scores], "feedback": feedback}
        if reason := contradiction("the data's scores", item, told["overall"], strict=False):
            return {}, reason
    if scores and feedback:
        return told, None
    if value is None:
        lacking = "feedback" if scores else f"scores by the dimensions of the rubric {rubric_name(recipe, item)}"
        return {}, f"no {lacking}, and no endpoint to ask for it"
    if flaw := flaw_of(value, "reject"):
        return {}, flaw
    found = replied(recipe, item, value["text"])
    if found is None:
        return {}, "the reply is not in the form that was asked for"
    if reason := contradiction("the endpoint", item, found["overall"], strict=True):
        return {}, reason
    told = found | told | {"feedback": feedback or found["feedback"]}
    return (told, None) if told["feedback"].strip() else ({}, "the reply has no justification")


def rubric_name(recipe: Recipe, item: JudgeItem) -> str:
    """Return the name of the rubric that an item is judged by."""
    return rubric_of(item["category"], recipe["rubrics"], recipe["rubric"])


def mean_of(recipe: Recipe, item: JudgeItem, scores: Mapping[str, int]) -> int:
    """Return the weighted mean of an answer's scores, halves rounded up."""
    weights = {one["name"]: one["weight"] for one in recipe["rubrics"][rubric_name(recipe, item)]}
    return math.floor(sum(weights[name] * scores[name] for name in scores) / sum(weights.values()) + 0.5)


def replied(recipe: Recipe, item: JudgeItem, text: str) -> dict[str, Any] | None:
    """Return {scores, overall, feedback} of an endpoint's reply, None where it is not in the form."""
    names = dimensions_of(recipe, item)
    if item["mode"] == "grade":
        found = read_grade("json", text, names)
        return found and {"scores": [found["scores"]], "overall": [found["grade"]], "feedback": found["feedback"]}
    found = read_pair("json", text, names)
    if found is None:
        return None
    both = [found["first"], found["second"]]
    scores = [{name: one[name] for name in names} for one in both]
    return {"scores": scores, "overall": [one["overall"] for one in both], "feedback": found["feedback"]}


def contradiction(who: str, item: JudgeItem, overall: Sequence[int], strict: bool) -> str | None:
    """Return how overall scores contradict people's verdict, None where they do not. strict: equal ones say Tie."""
    if item["mode"] == "grade":
        human = in_scale(item["human"], item["scale"])
        if abs(overall[0] - human) > 1:
            return f"contradicts people by more than 1: {who} {overall[0]}, people {human:g}"
        return None
    winner = "Tie" if overall[0] == overall[1] else "A" if overall[0] > overall[1] else "B"
    if winner != item["human"] and (strict or winner != "Tie"):
        return f"contradicts people about the winner: {who} {winner}, people {item['human']}"
    return None


# ---------------------------------------------------------------- rows to train on


def rows_of(recipe: Recipe, item: JudgeItem, told: Mapping[str, Any], by: str) -> list[JudgementRow]:
    """Return the training rows of an item: one, or of a pair one for each order. The verdict is people's.

    told: see `explanation`; by: who explained. Where a pair is swapped, feedback that names the answers is, too.
    """
    shown = answers_of(item)
    if item["mode"] == "grade":
        grade = max(1, math.floor(in_scale(item["human"], item["scale"]) + 0.5))
        return [_row(recipe, item, "original", shown, grade_line(told["scores"][0], grade, told["feedback"]), by)]
    rows = []
    for order in ("original", "swapped") if recipe["orders"] == "both" else ("original",):
        swapped = order == "swapped"
        (first, second), overall = (list(told[name])[:: -1 if swapped else 1] for name in ("scores", "overall"))
        winner = SHOWN[item["human"]]
        feedback = told["feedback"]
        if swapped:
            winner, feedback = OTHER.get(winner, winner), names_exchanged(feedback)
        line = pair_line(first, second, overall, winner, feedback)
        rows.append(_row(recipe, item, order, shown[:: -1 if swapped else 1], line, by))
    return rows


def names_exchanged(feedback: str) -> str:
    """Return a feedback in which each of two answers has the name of the other one."""

    def exchanged(found):
        if found[2]:
            return found[1] + OTHER[found[2]]
        other = OTHER[found[3].lower()]
        return other.capitalize() if found[3][0].isupper() else other

    return NAMES.sub(exchanged, feedback)


def _row(recipe, item, order, shown, line, by):
    row = {"uid": item["uid"] + (":swapped" if order == "swapped" else "")}
    row |= {"dataset": item["dataset"], "split": item["split"], "field": rubric_name(recipe, item), "title": None}
    row |= {"question": item["question"], "mode": item["mode"], "order": order}
    return cast(JudgementRow, row | {"prompt": judge_messages(recipe, item, shown), "answer": line, "answer_by": by})


def render_judgements(
    recipe: Recipe, items: Sequence[JudgeItem], asker: Asker | None
) -> tuple[list[JudgementRow], list[Reject], Usage]:
    """Return (training rows, rejects, usage) of items that people judged. recipe: see `Judgements.recipe`. asker: who
    explains what the data do not; None: nobody does.

    Pairs are drawn by length before anything is asked, and again from those that are left, so that the balance holds.
    """
    check_rows(cast(Any, items))
    drawn, surplus = drawn_by_length(recipe, items)
    asked = unexplained(recipe, drawn) if asker else []
    values = asker.ask([request for _, request in asked]) if asker else []
    replies = {item["uid"]: value for (item, _), value in zip(asked, values, strict=True)}
    told, reasons = {}, {}
    for item in drawn:
        found, reason = explanation(recipe, item, replies.get(item["uid"]))
        if reason:
            reasons[item["uid"]] = reason
        else:
            told[item["uid"]] = found
    left, more = drawn_by_length(recipe, [item for item in drawn if item["uid"] in told])
    reasons |= {item["uid"]: SURPLUS for item in [*surplus, *more]}
    kept: list[JudgementRow] = []
    for item in left:
        uid = item["uid"]
        kept += rows_of(recipe, item, told[uid], asker.author if asker and uid in replies else author(DATA))
    texts = {uid: value["text"] for uid, value in replies.items()}
    rejects: list[Reject] = [
        {"uid": uid, "reason": reasons[uid], "text": texts.get(uid, "")}
        for uid in (item["uid"] for item in items)
        if uid in reasons
    ]
    logger.info("%d items in, %d rows out, %d items rejected", len(items), len(kept), len(rejects))
    return kept, rejects, asker.usage() if asker else summed_usage([], DATA)


def run(job: Job) -> None:
    """Do the job of render_judgements."""
    recipe, items = job.recipe, judge_items(job.inputs.questions, job.recipe["splits"])
    if recipe["endpoint"]:
        with asker_of(job, job.inputs) as asker:
            result = render_judgements(recipe, items, asker)
    else:
        result = render_judgements(recipe, items, None)
    written = write_corpus(job.outputs.corpus, job.outputs.rejects, job.outputs.usage, result)
    # A pair that is shown both ways is two rows of one item.
    swapped = sum(row["order"] == "swapped" for row in result[0])
    job.facts = written | {"rows_in": len(items) + swapped}
