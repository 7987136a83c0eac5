"""Iterative refinement (METEOR stage 2): a model answers, a judge says what is wrong, the model revises."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from moult.base.errors import UserError
from moult.base.files import derive_seed, digest, write_json, write_jsonl
from moult.base.reasons import in_words
from moult.base.rows import CorpusRow, Facts, Recipe, RefinedRow, Reject, Usage
from moult.base.section import Name, Section, exactly_one
from moult.base.stage import Experiment, Job
from moult.corpora.generated import check_rows, left_beside, nothing_kept
from moult.corpora.grading import Grading, grading_recipe, read_grading
from moult.corpora.kind import Generated
from moult.data.fields import Decoding, Prompt, Split, check_dimensions
from moult.data.prompts import as_material, load_template, render
from moult.data.questions import asked_rows
from moult.inference.asking import Asker, asker_of, flaw_of
from moult.inference.judge_requests import question_request
from moult.inference.plans import Plan
from moult.inference.recipes import client_of, decoding_recipe, endpoint_recipe
from moult.inference.requests import ChatRequest, Sampling, author
from moult.inference.structured import parse_verdict, verdict_schema

# Raise when the same recipe would now ask something else, or accept another answer.
VERSION = 1
# Characters of feedback and of hints, where the judge is a model of this build: a weak one may never end. So many for
# each token that it may write.
WORDY = 1.5
# What is said of an answer that there is no point in judging; it is the model's feedback as the judge's would be.
UNJUDGED = {
    "empty": "There is no answer. Answer the question.",
    "cut": "The answer stops in the middle, at the greatest length allowed. Answer in fewer words.",
}
COUNTS = ("calls", "failed", "prompt_tokens", "completion_tokens")
logger = logging.getLogger(__name__)


class Round(Section):
    """Which of several rounds a corpus or a model is of; `rounds` writes it."""

    of: Name = Field(description="Name of the `rounds` entry.")
    number: int = Field(ge=1, description="Number of the round, from 1.")
    count: int = Field(ge=1, description="Number of rounds, as far as the config knows.")
    interval: int = Field(ge=1, description="Rows per round.")


class Refining(Section):
    """How answers are judged and revised, whether of one corpus or round by round."""

    max_iterations: int = Field(
        3, ge=1, description="Largest number of answers per question: the first one and its revisions."
    )
    truncated: Literal["keep", "reject"] = Field(
        "reject",
        description="Whether an answer that was truncated at `decoding.max_tokens` is judged (`keep`), or revised "
        "without asking the judge (`reject`).",
    )
    prompt: Prompt = Field("meteor/answer", description="Template of resources/prompts that asks for the first answer.")
    revise_prompt: Prompt = Field(
        "meteor/revise", description="Template of resources/prompts that asks for a revision."
    )
    judge_prompt: Prompt = Field(
        "meteor/judge",
        description="Template of resources/prompts that asks the judge; judge/grade where `grading` is set.",
    )
    grading: Grading | None = Field(
        None, description="How the judge grades answers; null: it says of each whether it is correct."
    )
    decoding: Decoding = Field(
        Decoding(temperature=0.7, top_p=0.9, max_tokens=512), description="How answers and revisions are decoded."
    )
    judge_decoding: Decoding = Field(
        Decoding(temperature=0.0, max_tokens=512), description="How the judge's reply is decoded."
    )

    @model_validator(mode="before")
    @classmethod
    def prompt_of_a_grade(cls, raw: Any) -> Any:
        graded = isinstance(raw, dict) and raw.get("grading") is not None
        return {"judge_prompt": "judge/grade"} | raw if graded else raw

    @model_validator(mode="after")
    def grades_by_dimensions(self) -> Self:
        if self.grading:
            check_dimensions("judge_prompt", self.judge_prompt, "judge/grade")
        return self


class Refined(Generated, Refining):
    """METEOR stage 2: a model answers, a judge says what is wrong, the model revises; only accepted answers stay."""

    rule: ClassVar = "refine_answers"
    doing: ClassVar = "refining the answers {corpus}"
    run: ClassVar = "moult.corpora.refined:run"
    writes: ClassVar = "answers"

    kind: Literal["refined"] = Field(
        description="Kind of corpus: answers that a judge accepted, at once or after revision."
    )
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    dataset: str | None = Field(
        None, description="Dataset whose questions are asked; write either `dataset` or `corpus`."
    )
    corpus: str | None = Field(
        None, description="Corpus whose questions are asked; write either `dataset` or `corpus`."
    )
    splits: list[Split] = Field(["train", "dev"], description="Splits whose rows are asked.")
    slice: tuple[Annotated[int, Field(ge=0)], int | None] | None = Field(
        None,
        description=(
            "[start, stop]: only the rows at these positions are asked, stop excluded; stop null: to the end."
            " Null: all rows."
        ),
    )
    endpoint: str = Field(description="Endpoint that answers and revises.")
    judge: str = Field(description="Endpoint that judges the answers.")
    round: Round | None = Field(None, description="Round of `rounds` that the corpus belongs to; written by `rounds`.")

    @model_validator(mode="after")
    def one_source(self) -> Self:
        exactly_one(self, "dataset", "corpus")
        if self.slice and self.slice[1] is not None and self.slice[1] <= self.slice[0]:
            raise ValueError(f"slice: {list(self.slice)} has no row; write [start, stop] with start < stop")
        return self

    def recipe(self, cfg: Experiment) -> Recipe:
        # Of its round a corpus knows nothing.
        return ({"grading": grading_recipe(self.grading)} if self.grading else {}) | {
            "name": self.name,
            "splits": list(self.splits),
            "slice": list(self.slice) if self.slice else None,
            "endpoint": endpoint_recipe(cfg, self.endpoint),
            "judge": endpoint_recipe(cfg, self.judge),
            "prompt": load_template(self.prompt),
            "revise_prompt": load_template(self.revise_prompt),
            "judge_prompt": load_template(self.judge_prompt),
            "decoding": decoding_recipe(self.decoding),
            "judge_decoding": decoding_recipe(self.judge_decoding),
            "max_iterations": self.max_iterations,
            "cut": self.truncated,
            "may_be_empty": self.round is not None,
            "seed": derive_seed(cfg.seed, "refined", self.name),
            "version": VERSION,
        }

    def client(self, cfg: Experiment) -> dict[str, Any] | None:
        clients = {field: client_of(cfg, name) for field, name in self.endpoints.items()}
        return clients | {"round": self.round.model_dump() if self.round else None}

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        accepted = f"{facts['rows']:,} of {facts['rows_in']:,} rows by {author(recipe['endpoint'])}"
        often = f"at most {recipe['max_iterations']} answers each, {facts['revised']:,} accepted after revision"
        return accepted, f"{accepted}, accepted by {author(recipe['judge'])}; {often}"

    @property
    def shown(self) -> dict[str, tuple[str, ...]]:  # type: ignore[override]  # a rubric is no text to be tried with
        judged = {} if self.grading else {"judge_prompt": ("answer", "fence")}
        return {"prompt": (), "revise_prompt": ("previous", "feedback", "hints")} | judged

    @property
    def endpoints(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "judge": self.judge}

    @property
    def most_answers(self) -> int:
        return self.max_iterations

    @property
    def answer_tokens(self) -> int:
        # A revision sees the answer before it, and what was said of that.
        return 2 * self.decoding.max_tokens + self.judge_decoding.max_tokens

    def plans(self, recipe: Recipe, rows: Sequence[CorpusRow]) -> dict[str, Plan]:
        often, longest = self.max_iterations, self.decoding.max_tokens
        both = longest + self.judge_decoding.max_tokens
        rows = rows[slice(*self.slice)] if self.slice else rows
        answers = [_request(0, recipe["prompt"], row, recipe["decoding"]) for row in rows]
        verdicts = [verdict_request(recipe, row, "") for row in rows]
        return {
            # A revision sees an answer and what was said of it; the judge sees an answer.
            "endpoint": Plan(answers, longest, often, (often - 1) * both),
            "judge": Plan(verdicts, self.judge_decoding.max_tokens, often, often * longest),
        }


def refine_answers(
    recipe: Recipe, rows: Sequence[CorpusRow], asker: Asker, judge: Asker
) -> tuple[list[RefinedRow], list[Reject], Usage]:
    """Answer, judge and revise until each row is accepted or has had `max_iterations` answers.

    recipe: judge (its recipe), prompt, revise_prompt, judge_prompt (templates), decoding, judge_decoding,
    max_iterations, cut ("reject": what reached max_tokens is not judged), seed, and grading (form, rubric, accept)
    where the judge grades answers. asker: who answers and revises.
    judge: the Asker that judges; it shares the pool of `asker`.

    Returns (rows with `answer`, rejects, usage). A row that was accepted at once has `status` ok, else revised; every
    row and reject has its `history`, one {iteration, answer, verdict, feedback, hints} per answer, with the `grade`
    where there is one. The verdict of an
    answer that was empty or reached max_tokens is `empty` or `cut`: the judge is not asked about it.
    """
    check_rows(rows)
    pending, histories, failed = list(rows), {row["uid"]: [] for row in rows}, {}
    for iteration in range(1, recipe["max_iterations"] + 1):
        answered = _answers(asker, recipe, pending, histories, iteration)
        _judge(judge, recipe, answered, histories, iteration, failed)
        accepted = {uid for uid, history in histories.items() if history and history[-1]["verdict"] == "correct"}
        pending = [row for row in pending if row["uid"] not in accepted | failed.keys()]
        logger.info(
            "iteration %d: %d of %d rows accepted so far, %d to revise, %d failed",
            *(iteration, len(accepted), len(rows), len(pending), len(failed)),
        )
        if not pending:
            break
    left = {row["uid"] for row in pending}
    corpus: list[RefinedRow] = []
    rejects: list[Reject] = []
    for row in rows:
        history = histories[row["uid"]]
        if row["uid"] in failed or row["uid"] in left:
            reason = failed.get(row["uid"]) or f"not accepted after {len(history)} answers"
            text = history[-1]["answer"] if history else ""
            rejects.append({"uid": row["uid"], "reason": reason, "text": text, "history": history})
            continue
        told = {"answer": history[-1]["answer"], "answer_by": asker.author}
        told |= {"status": "ok" if len(history) == 1 else "revised", "iterations": len(history), "history": history}
        corpus.append(cast(RefinedRow, row | told))
    return corpus, rejects, usage_by_part({"endpoint": asker, "judge": judge})


def usage_by_part(askers: Mapping[str, Asker]) -> Usage:
    """Return the summed usage of two askers, with `parts`, the usage of each; askers: part → Asker."""
    parts = {part: asker.usage() for part, asker in askers.items()}
    both: list[Any] = list(parts.values())
    totals = {name: sum(one[name] for one in both) for name in COUNTS}
    costs = [one["cost_usd"] for one in both]
    names = {name: " and ".join(dict.fromkeys(one[name] for one in both)) for name in ("endpoint", "model")}
    cost = None if None in costs else round(sum(costs), 6)
    return cast(Usage, names | totals | {"cost_usd": cost, "parts": parts})


def _answers(asker, recipe, pending, histories, iteration):
    """Ask for an answer, or a better one, to each pending row; return (row, value) of each that came."""
    requests = []
    for row in pending:
        template, fields = recipe["prompt"], row
        if history := histories[row["uid"]]:
            last = history[-1]
            said = {"previous": last["answer"], "feedback": last["feedback"], "hints": last["hints"]}
            template, fields = recipe["revise_prompt"], row | said
        # A revision to the same answer, on the same feedback, draws anew.
        requests.append(_request(derive_seed(recipe["seed"], iteration), template, fields, recipe["decoding"]))
    return list(zip(pending, asker.ask(requests), strict=True))


def _judge(judge, recipe, answered, histories, iteration, failed):
    """Add to each row's history what became of its answer; to `failed` why a row can go no further."""
    judged, requests = [], []
    for row, value in answered:
        entry = {"iteration": iteration, "answer": value["text"], "verdict": None, "feedback": "", "hints": ""}
        if value["finish_reason"] == "error":
            failed[row["uid"]] = flaw_of(value, recipe["cut"])
            continue
        histories[row["uid"]].append(entry)
        if flaw_of(value, recipe["cut"]):
            entry["verdict"] = "cut" if value["text"] else "empty"
            entry["feedback"] = UNJUDGED[entry["verdict"]]
            continue
        judged.append((row, entry))
        requests.append(verdict_request(recipe, row, value["text"]))
    for (row, entry), value in zip(judged, judge.ask(requests), strict=True):
        graded = "grading" in recipe
        verdict, problem = read_grading(recipe, value["text"]) if graded else parse_verdict(value["text"])
        if value["error"] or problem:
            failed[row["uid"]] = f"judge: {value['error'] or problem}"
        else:
            entry |= verdict


def verdict_request(recipe: Recipe, row: CorpusRow, answer: str) -> ChatRequest:
    """Return the request that shows the judge a row and an answer to it."""
    decoding, serves = recipe["judge_decoding"], "serve" in recipe["judge"]
    if "grading" in recipe:
        judging = recipe["grading"] | {"decoding": decoding}
        return question_request(judging, recipe["judge_prompt"], row, (answer,), serves, (recipe["seed"],))
    schema = verdict_schema(int(WORDY * decoding["max_tokens"]) if serves else None)
    return _request(recipe["seed"], recipe["judge_prompt"], shown_to_judge(row, answer), decoding, schema)


def shown_to_judge(row: CorpusRow, answer: str) -> dict[str, Any]:
    """Return the fields of the judge's template for a row and an answer to it."""
    return dict(row) | as_material({"title": row["title"] or "", "question": row["question"], "answer": answer})


def _request(seed, template, fields, decoding, schema=None):
    """Return a request with a seed of its own."""
    messages = tuple(render(template, **({"guideline": ""} | fields)))
    return ChatRequest(messages, Sampling(**decoding), derive_seed(seed, list(messages)), schema)


def row_digest(row: Any) -> str:
    """Return a digest of a question, 16 hexadecimal digits."""
    return digest(row)[:16]


def slice_of(rows: list[CorpusRow], recipe: Recipe) -> list[CorpusRow]:
    """Return the rows of a corpus' slice, by position; UserError where it has none, or where the rows are not those
    that this job was planned for."""
    start, stop = recipe["slice"] or (0, None)
    found = rows[start:stop]
    if not found:
        raise UserError(f"slice [{start}, {stop}]: there are only {len(rows)} rows; correct `slice`.")
    if recipe.get("rows") not in (None, digest(list(map(row_digest, found)))):
        raise UserError("the questions were changed after this run was planned; run again.")
    return found


def check_rounds(place: Mapping[str, Any], found: int, dataset: str) -> None:
    """UserError where a dataset's train rows (`found` of them) make another number of rounds than its `rows` says.

    place: number, count and interval of a round, and its name.
    """
    count = -(-found // place["interval"])
    if count != place["count"]:
        raise UserError(
            f"rounds {place['of']}: dataset {dataset} has {found} train rows, which make {count} rounds of "
            f"{place['interval']}, not {place['count']}; write `rows: {found}`."
        )


def write_refined(
    corpus: str | Path,
    rejects: str | Path,
    usage: str | Path,
    result: tuple[Sequence[RefinedRow], Sequence[Reject], Usage],
    may_be_empty: bool = False,
) -> Facts:
    """Write the three files of a refined corpus; `result` is what `refine_answers` returned. Return the counts.

    UserError where nothing was accepted, unless that `may_be_empty`: then the round's model stays as it was.
    """
    kept, rejected, totals = result
    if not kept and not may_be_empty:
        raise nothing_kept(corpus, rejected)
    left_beside(corpus).unlink(missing_ok=True)
    if not kept:
        logger.warning("nothing was accepted: this round trains nothing, its model equals the one before")
    if rejected:
        told = "%d of %d rows are left out (rejects.jsonl): %s"
        logger.warning(told, len(rejected), len(kept) + len(rejected), in_words(row["reason"] for row in rejected))
    write_jsonl(rejects, rejected)
    write_json(usage, totals)
    write_jsonl(corpus, kept)
    revised = sum(row["status"] == "revised" for row in kept)
    return {"rows_in": len(kept) + len(rejected), "rows": len(kept), "rejects": len(rejected), "revised": revised}


def run(job: Job) -> None:
    """Do the job of refine_answers."""
    recipe, inputs = job.recipe, job.inputs
    rows = asked_rows(inputs, recipe["splits"])
    if job.client["round"]:
        check_rounds(job.client["round"], len(rows), inputs.get("questions") or inputs.asked)
    rows = slice_of(rows, recipe)
    with asker_of(job, inputs) as asker, asker_of(job, inputs, "judge", asker.pool) as judge:
        result = refine_answers(recipe, rows, asker, judge)
    outputs = (job.outputs.corpus, job.outputs.rejects, job.outputs.usage)
    job.facts = write_refined(*outputs, result, may_be_empty=recipe["may_be_empty"])
