"""Scores of samples: by a reward model of this build, or by a judge that grades them."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from moult.base.files import derive_seed, read_jsonl
from moult.base.rows import Facts, Message, Recipe, Reject
from moult.base.sample_rows import Sample, ScoredSample
from moult.base.section import Name, exactly_one
from moult.base.stage import Experiment, Job
from moult.corpora.generated import check_rows, write_corpus
from moult.corpora.kind import Generated
from moult.data.fields import Decoding, Form, Prompt, Rubric, Split, check_dimensions
from moult.data.prompts import load_template
from moult.data.rubrics import DEFAULT, named_rubric
from moult.inference.asking import asker_of, flaw_of
from moult.inference.judge_replies import read_grade
from moult.inference.judge_requests import question_request
from moult.inference.plans import Plan
from moult.inference.recipes import client_of, compute_recipe, decoding_recipe, endpoint_recipe
from moult.inference.requests import ChatRequest, author
from moult.inference.rewards import ask_rewards, chat_request
from moult.inference.spending import summed_usage

# Raise when the same recipe would now ask something else, or score otherwise.
VERSION = 1
# Settings that only a judge has.
OF_JUDGE = ("form", "rubric", "prompt", "decoding")
logger = logging.getLogger(__name__)


class Scored(Generated):
    """The samples of a corpus, each with a score."""

    rule: ClassVar = "score_responses"
    doing: ClassVar = "scoring the responses {corpus}"
    run: ClassVar = "moult.corpora.scored:run"
    writes: ClassVar = "scores"
    takes: ClassVar = "samples"

    kind: Literal["scored"] = Field(description="Kind of corpus: samples, each with a score.")
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    dataset: ClassVar = None
    corpus: str = Field(description="Corpus of `kind: samples` whose answers are scored.")
    splits: list[Split] = Field(["train", "dev", "test"], description="Splits whose samples are scored.")
    reward: str | None = Field(
        None, description="Reward model of this build that scores; write either `reward` or `endpoint`."
    )
    endpoint: str | None = Field(  # type: ignore[assignment]  # other kinds have one always
        None, description="Endpoint of a judge that grades; write either `reward` or `endpoint`."
    )
    form: Form = Field("json", description="Form of a grade: JSON enforced by a schema, the published line, or [[n]].")
    rubric: Rubric = Field(DEFAULT, description="Rubric by which a judge grades all answers.")
    prompt: Prompt = Field("judge/grade", description="Template of resources/prompts that asks a judge for a grade.")
    decoding: Decoding = Field(Decoding(max_tokens=1024), description="How a judge's reply is decoded.")

    @model_validator(mode="after")
    def one_scorer(self) -> Self:
        exactly_one(self, "reward", "endpoint")
        if self.reward and (strange := [name for name in OF_JUDGE if name in self.model_fields_set]):
            raise ValueError(f"{strange[0]}: a reward model has none; leave it out, or name a judge as `endpoint`")
        check_dimensions("prompt", self.prompt, "judge/grade")
        return self

    @property
    def endpoints(self) -> dict[str, str]:
        return {"endpoint": self.endpoint} if self.endpoint else {}

    @property
    def models(self) -> dict[str, str]:
        return {"model": self.reward} if self.reward else {}

    @property
    def scorer(self) -> str:
        """Name of the reward model or of the judge's endpoint."""
        return cast(str, self.reward or self.endpoint)

    @property
    def answer_tokens(self) -> int:
        return self.decoding.max_tokens if self.endpoint else 0

    def recipe(self, cfg: Experiment) -> Recipe:
        told: Recipe = {"name": self.name, "splits": list(self.splits)}
        if self.reward:
            told |= {"endpoint": {}, "model": self.reward, "compute": compute_recipe(cfg, self.reward)}
        else:
            told |= {
                "endpoint": endpoint_recipe(cfg, cast(str, self.endpoint)),
                "prompt": load_template(self.prompt),
                "form": self.form,
                "rubric": named_rubric(self.rubric),
                "decoding": decoding_recipe(self.decoding),
                "seed": derive_seed(cfg.seed, self.kind, self.name),
            }
        return told | {"version": VERSION}

    def client(self, cfg: Experiment) -> dict[str, Any] | None:
        return client_of(cfg, self.endpoint) if self.endpoint else None

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        by = recipe.get("model") or author(recipe["endpoint"])
        rows = f"{facts['rows']:,} answers scored by {by}"
        return rows, f"{rows}, {facts['mean']:.4g} on average, {facts['lowest']:.4g} to {facts['highest']:.4g}"

    def plans(self, recipe: Recipe, rows: Sequence[Any]) -> dict[str, Plan]:
        return {"endpoint": Plan(grade_requests(recipe, rows), self.decoding.max_tokens)}


def grade_requests(recipe: Recipe, rows: Sequence[Sample]) -> list[ChatRequest]:
    """Return the requests that show a judge samples, one each. recipe: prompt, form, rubric, decoding, seed."""
    serves, seed = "serve" in recipe["endpoint"], (recipe["seed"],)
    return [
        question_request(recipe, recipe["prompt"], cast(Any, asked), (row["answer"],), serves, seed)
        for row in rows
        for asked in ({"title": None, "question": as_question(row["prompt"])},)
    ]


def as_question(messages: Sequence[Message]) -> str:
    """Return a prompt as one text: its only turn, or each turn under the name of who speaks."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


def scored_row(recipe: Recipe, row: Sample, value: Any) -> tuple[ScoredSample, None] | tuple[None, str]:
    """Return (the sample with its score, None) of a stored value, or (None, why there is no score)."""
    if isinstance(value, list):
        score, parts = value[0], value[1:]
        half = len(parts) // 2
        more: dict[str, Any] = {"parts": parts[:half], "gates": parts[half:]} if parts else {}
        return cast(ScoredSample, row | {"reward": score} | more), None
    if "model" in recipe:
        return None, f"not scored: {value['error']}"
    if flaw := flaw_of(value, "keep"):
        return None, f"judge: {flaw}"
    found = read_grade(recipe["form"], value["text"], [one["name"] for one in recipe["rubric"]["dimensions"]])
    if found is None:
        return None, f"judge: the reply has no grade in the form that was asked for: {value['text'][:80]!r}"
    return cast(ScoredSample, row | {"reward": float(found["grade"]), "scores": found["scores"]}), None


def scores_of(recipe: Recipe, rows: Sequence[Sample], values: Sequence[Any]) -> tuple[list[ScoredSample], list[Reject]]:
    """Return (samples with their scores, rejects with reasons) of the stored values of each sample."""
    kept: list[ScoredSample] = []
    rejects: list[Reject] = []
    for row, value in zip(rows, values, strict=True):
        found, reason = scored_row(recipe, row, value)
        if found is None:
            rejects.append({"uid": f"{row['uid']}:{row['sample']}", "reason": cast(str, reason), "text": row["answer"]})
        else:
            kept.append(found)
    return kept, rejects


def run(job: Job) -> None:
    """Do the job of score_responses."""
    recipe = job.recipe
    rows: list[Sample] = [row for row in read_jsonl(job.inputs.asked) if row["split"] in recipe["splits"]]
    check_rows(cast(Any, rows))
    if "model" in recipe:
        requests = [chat_request(row["prompt"], row["answer"]) for row in rows]
        with asker_of(job, job.inputs, "model") as asker:
            values = ask_rewards(asker, requests, recipe["compute"]["batch_size"])
        usage = summed_usage([], {"name": recipe["model"], "serve": recipe["model"]})
    else:
        with asker_of(job, job.inputs) as asker:
            values = asker.ask(grade_requests(recipe, rows))
            usage = asker.usage()
    kept, rejects = scores_of(recipe, rows, values)
    logger.info("%d samples, %d scored, %d rejected", len(rows), len(kept), len(rejects))
    written = write_corpus(job.outputs.corpus, job.outputs.rejects, job.outputs.usage, (kept, rejects, usage))
    scores = [row["reward"] for row in kept]
    job.facts = written | {"rows_in": len(rows), "mean": round(sum(scores) / len(scores), 6)}
    job.facts |= {"lowest": min(scores), "highest": max(scores)}
