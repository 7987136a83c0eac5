"""Samples: several answers of a model to each prompt, each journalled by itself; or those that a file has."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from moult.base.files import derive_seed
from moult.base.rows import Facts, Recipe, Reject, StoredAnswer
from moult.base.sample_rows import PromptRow, Sample
from moult.base.section import Line, Name, Section
from moult.base.stage import Experiment, Job
from moult.corpora.generated import check_rows, write_corpus
from moult.corpora.kind import Generated
from moult.corpora.shares import Share, of_share, share_recipe
from moult.data.fields import Decoding, Prompt, Split
from moult.data.prompts import load_template, render
from moult.data.questions import prompt_rows
from moult.inference.asking import asker_of, flaw_of
from moult.inference.plans import Plan
from moult.inference.recipes import client_of, decoding_recipe, endpoint_recipe
from moult.inference.requests import ChatRequest, Sampling, author
from moult.inference.spending import summed_usage
from moult.inference.tokens import prompt_ids

# Raise when the same recipe would now ask something else, or keep another answer.
VERSION = 1
logger = logging.getLogger(__name__)


class Fits(Section):
    """The model whose prompts are not to be too long."""

    model: str = Field(description="Model whose tokens are counted, by its own chat template.")
    tokens: int = Field(ge=1, description="Largest number of tokens of a prompt; longer prompts are rejected.")


class Samples(Generated):
    """Several answers to each prompt, by one model; or those that a dataset has."""

    rule: ClassVar = "sample_responses"
    doing: ClassVar = "sampling the responses {corpus}"
    run: ClassVar = "moult.corpora.samples:run"
    writes: ClassVar = "samples"
    shape: ClassVar = ("prompts", "questions")
    shown: ClassVar = {"prompt": ()}

    kind: Literal["samples"] = Field(description="Kind of corpus: several answers of one model to each prompt.")
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    dataset: str = Field(description="Dataset of prompts or questions that are answered.")
    splits: list[Split] = Field(["train", "dev"], description="Splits whose rows are answered.")
    share: Share | None = Field(
        None,
        description=(
            "[start, stop]: only rows whose place between 0 and 1, drawn by the experiment's seed and the row's "
            "uid, is in there; the same rows in all corpora. Null: all rows."
        ),
    )
    endpoint: str | None = Field(  # type: ignore[assignment]  # other kinds have one always
        None,
        description=(
            "Endpoint that answers; null: nobody is asked, the dataset's own answers are taken (`columns: "
            "{answers: ...}`)."
        ),
    )
    answered_by: Line | None = Field(
        None, description="Who has given the dataset's own answers, where they do not say it; null: the dataset's name."
    )
    samples: int = Field(5, ge=1, le=10_000, description="Number of answers to each prompt; not for a dataset's own.")
    prompt: Prompt | None = Field(
        None,
        description=(
            "Template of resources/prompts for questions; null: the one that their dataset trains with. Prompts "
            "have none."
        ),
    )
    truncated: Literal["keep", "reject"] = Field(
        "keep",
        description=(
            "What becomes of an answer that was truncated at `decoding.max_tokens`; one that is kept is in no "
            "preference pair, unless that says otherwise."
        ),
    )
    fits: Fits | None = Field(None, description="Limit on the length of prompts; null: that of the model that answers.")
    decoding: Decoding = Field(
        Decoding(temperature=0.8, top_p=0.95, max_tokens=4096), description="How answers are decoded."
    )

    @model_validator(mode="after")
    def samples_differ(self) -> Self:
        if self.endpoint and self.samples > 1 and not self.decoding.temperature:
            raise ValueError("decoding: at temperature 0 all samples are one answer; raise it, or write `samples: 1`")
        return self

    @property
    def endpoints(self) -> dict[str, str]:
        return {"endpoint": self.endpoint} if self.endpoint else {}

    @property
    def models(self) -> dict[str, str]:
        return {"fits": self.fits.model} if self.fits else {}

    def checks(self, cfg: Experiment) -> Iterator[str]:
        dataset = cfg.find("datasets", self.dataset)
        if dataset.shape == "prompts" and self.prompt:
            yield f"prompt: the rows of {self.dataset!r} are prompts themselves; leave it out"
        if not self.endpoint and "answers" not in dataset.columns:
            told = f"write one, or say where {self.dataset!r} has answers: `columns: {{answers: <your column>}}`"
            yield f"endpoint: nobody is to be asked; {told}"

    def recipe(self, cfg: Experiment) -> Recipe:
        dataset = cfg.find("datasets", self.dataset)
        template = self.prompt or dataset.template
        asked = {"decoding": decoding_recipe(self.decoding), "samples": self.samples, "cut": self.truncated}
        return {
            "name": self.name,
            "splits": list(self.splits),
            **share_recipe(cfg, self.share),
            "endpoint": endpoint_recipe(cfg, self.endpoint) if self.endpoint else {},
            **(asked if self.endpoint else {"answered_by": self.answered_by or self.dataset}),
            "prompt": load_template(template) if template else None,
            **({"fits": self.fits.model_dump()} if self.fits else {}),
            "seed": derive_seed(cfg.seed, self.kind, self.name),
            "version": VERSION,
        }

    def client(self, cfg: Experiment) -> dict[str, Any] | None:
        return client_of(cfg, self.endpoint) if self.endpoint else None

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        if not recipe["endpoint"]:
            rows = f"{facts['rows']:,} answers of {recipe['answered_by']}"
            return rows, f"{rows}, from their file, to {facts['prompts']:,} prompts"
        rows, decoding = f"{facts['rows']:,} samples of {author(recipe['endpoint'])}", recipe["decoding"]
        limits = (
            f"temperature {decoding['temperature']:g}, top-p {decoding['top_p']:g}, {decoding['max_tokens']} tokens"
        )
        return rows, f"{rows}, {recipe['samples']} to each of {facts['prompts']:,} prompts, {limits} at most"

    @property
    def most_answers(self) -> int:
        return self.samples

    def awaited(self, recipe: Recipe, rows: Sequence[Any]) -> list[Any]:
        """Return the samples of rows as far as they are known before any is drawn: those of a file, or empty ones."""
        rows = of_share(recipe, rows)
        if not self.endpoint:
            return samples_in(recipe, rows)[0]
        drawn = {"finish_reason": "stop", "tokens": None}
        numbers = range(self.samples)
        return [_sample(recipe, row, number, "", "", drawn) for row in rows for number in numbers]

    def plans(self, recipe: Recipe, rows: Sequence[Any]) -> dict[str, Plan]:
        return {"endpoint": Plan(sample_requests(recipe, of_share(recipe, rows)), self.decoding.max_tokens)}


def messages_of(recipe: Recipe, row: PromptRow) -> list[Any]:
    """Return the messages that a model is asked: the row's own, or those of the template of its questions."""
    if recipe["prompt"]:
        return render(recipe["prompt"], **({"guideline": ""} | row))
    return row.get("prompt") or [{"role": "user", "content": row["question"]}]


def sample_requests(recipe: Recipe, rows: Sequence[PromptRow]) -> list[ChatRequest]:
    """Return what is asked: for each row `samples` requests in order.

    A request's seed comes from its own words and its place, so that a further sample or prompt asks for itself alone.
    """
    sampling = Sampling(**recipe["decoding"])
    requests = []
    for row in rows:
        messages = tuple(messages_of(recipe, row))
        seeds = [derive_seed(recipe["seed"], list(messages), place) for place in range(recipe["samples"])]
        requests += [ChatRequest(messages, sampling, seed=seed) for seed in seeds]
    return requests


def fitting(recipe: Recipe, rows: Sequence[PromptRow], tokenizer: Any) -> tuple[list[PromptRow], list[Reject]]:
    """Return (rows, rejects): those whose prompts have at most `fits.tokens` tokens; all where there is no limit."""
    if "fits" not in recipe:
        return list(rows), []
    model, most = recipe["fits"]["model"], recipe["fits"]["tokens"]
    kept: list[PromptRow] = []
    rejects: list[Reject] = []
    for row in rows:
        if (count := len(prompt_ids(tokenizer, messages_of(recipe, row)))) <= most:
            kept.append(row)
        else:
            reason = f"a prompt of {count} tokens of {model}, more than {most}"
            rejects.append({"uid": row["uid"], "reason": reason, "text": row["question"]})
    return kept, rejects


def samples_of(
    recipe: Recipe, rows: Sequence[PromptRow], values: Sequence[StoredAnswer], by: str
) -> tuple[list[Sample], list[Reject]]:
    """Return (samples, rejects with reasons) of the stored answers to `sample_requests`; by: name of who answered."""
    kept: list[Sample] = []
    rejects: list[Reject] = []
    for number, value in enumerate(values):
        row, sample = rows[number // recipe["samples"]], number % recipe["samples"]
        if reason := flaw_of(value, recipe["cut"]):
            rejects.append({"uid": f"{row['uid']}:{sample}", "reason": reason, "text": value["text"]})
        else:
            how = {"finish_reason": value["finish_reason"], "tokens": value["completion_tokens"]}
            kept.append(_sample(recipe, row, sample, value["text"], by, how))
    return kept, rejects


def samples_in(recipe: Recipe, rows: Sequence[PromptRow]) -> tuple[list[Sample], list[Reject]]:
    """Return (samples, rejects with reasons) of the answers that the rows of a dataset have."""
    kept: list[Sample] = []
    rejects: list[Reject] = []
    for row in rows:
        for sample, answer in enumerate(row.get("answers", ())):
            if not answer["content"].strip():
                rejects.append({"uid": f"{row['uid']}:{sample}", "reason": "empty answer", "text": ""})
                continue
            by = answer.get("model") or recipe["answered_by"]
            kept.append(_sample(recipe, row, sample, answer["content"], by, {"finish_reason": "stop", "tokens": None}))
    return kept, rejects


def _sample(recipe, row, sample, text, by, how):
    found = {key: row[key] for key in ("uid", "dataset", "split")} | {"sample": sample}
    return cast(Sample, found | {"prompt": messages_of(recipe, row), "answer": text, "answer_by": by} | how)


def run(job: Job) -> None:
    """Do the job of sample_responses."""
    recipe, tokenizer = job.recipe, None
    if "fits" in recipe:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(job.inputs.fits, local_files_only=True)
    rows, long = fitting(recipe, of_share(recipe, prompt_rows(job.inputs.questions, recipe["splits"])), tokenizer)
    if not long:
        check_rows(cast(Any, rows))
    if recipe["endpoint"]:
        with asker_of(job, job.inputs) as asker:
            values = asker.ask(sample_requests(recipe, rows), several=True)
            kept, rejects = samples_of(recipe, rows, values, asker.author)
            usage, asked = asker.usage(), len(values)
    else:
        kept, rejects = samples_in(recipe, rows)
        by = recipe["answered_by"]
        usage, asked = summed_usage([], {"name": by, "serve": by}), sum(len(row["answers"]) for row in rows)
    logger.info("%d prompts, %d samples, %d rejected", len(rows), len(kept), len(rejects) + len(long))
    written = write_corpus(job.outputs.corpus, job.outputs.rejects, job.outputs.usage, (kept, [*long, *rejects], usage))
    job.facts = written | {"rows_in": asked + len(long), "prompts": len(rows)}
