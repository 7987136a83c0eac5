"""What a kind of head-to-head suite declares: how its judge is asked and read, and how battles are scored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import Field, model_validator

from moult.base.errors import nearest
from moult.base.rows import Recipe
from moult.base.section import Line, LocalPath, Name, Section, exactly_one
from moult.base.suite_rows import Battle
from moult.evaluation.head_to_head.estimates import Linear
from moult.evaluation.head_to_head.public_files import Question
from moult.evaluation.kinds import Headline, Settings
from moult.evaluation.metrics import Estimate
from moult.evaluation.published import published_of_benchmark
from moult.inference.asking import Asker
from moult.inference.requests import Request

# Of one row of a published file: (model or None, judge or None, fields of the Battle).
Read = Iterator[tuple[str | None, str | None, dict[str, Any]]]
# Metric → (how many questions, the estimate).
Measured = dict[str, tuple[int, Estimate]]


class Shown(NamedTuple):
    """What a judge is shown: the game (an order, or a turn), the answers in the order shown, and reference answers.

    Where an answer is graded alone, `answers` are those of all turns up to the graded one.
    """

    question: Question
    game: str
    answers: tuple[str, ...]
    references: tuple[str, ...] = ()


class Baseline(Section):
    """What all answers are compared with."""

    name: Name = Field(description="Name of the baseline.")
    model: str | None = Field(None, description="Model of this build that answers; write either `model` or `answers`.")
    answers: LocalPath | None = Field(None, description="File of the baseline's answers, in the published form.")

    @model_validator(mode="after")
    def one_source(self) -> Self:
        exactly_one(self, "model", "answers")
        return self


class Filed(Section):
    """A model of which there are files: its answers, judgements that others published of it, or both."""

    name: Name = Field(description="Name under which the model's scores stand.")
    answers: LocalPath | None = Field(
        None, description="File of its answers, in the published form: the suite's judge is asked about them."
    )
    judgements: LocalPath | None = Field(
        None, description="File of judgements that somebody else made, in the published form: nobody is asked."
    )
    of: str | None = Field(
        None, description="Name of the model in the file of judgements; null: the file is of one model."
    )

    @model_validator(mode="after")
    def has_files(self) -> Self:
        if not self.answers and not self.judgements:
            raise ValueError(f"files {self.name!r}: write `answers`, `judgements` or both")
        return self


class HeadToHead(Settings):
    """What the three kinds share. Their questions are files, no datasets."""

    datasets: ClassVar[tuple[str, ...]] = ()

    questions: LocalPath | None = Field(
        None,
        description=(
            "File of the questions, in the published form; null: none is asked, published judgements alone are scored."
        ),
    )
    by_hand: Line | None = Field(
        None,
        description=(
            "Where the suite's files come from that are to be put there by hand: without them planning goes on and "
            "building refuses. Null: they must be there."
        ),
    )
    endpoint: str | None = Field(None, description="Endpoint that judges; null: none, as above.")
    published: dict[str, str] = Field(
        {}, description="What is measured → its name in resources/reference/wrpo.csv, whose values stand beside ours."
    )

    @model_validator(mode="after")
    def was_published(self) -> Self:
        known = {row["model"] for row in published_of_benchmark(self.kind)}  # type: ignore[attr-defined]
        for name in self.published.values():
            if name not in known:
                raise ValueError(f"published: resources/reference/wrpo.csv has no model {name!r}{nearest(name, known)}")
        return self

    @property
    def files(self) -> list[str]:
        """The suite's own files: questions, the baseline's answers, references."""
        baseline = getattr(self, "baseline", None)
        found = [self.questions, baseline and baseline.answers, getattr(self, "references", None)]
        return [path for path in found if path]

    @property
    def awaited(self) -> list[str]:
        """Its files that are still to be put there by hand."""
        return [path for path in self.files if self.by_hand and not Path(path).exists()]

    @property
    def endpoints(self) -> dict[str, str]:
        return {"endpoint": self.endpoint} if self.endpoint else {}


class Compared(HeadToHead):
    """Of the kinds that compare a model's answer with a baseline's."""

    baseline: Baseline | None = Field(
        None, description="What answers are compared with; null: the `output` that the questions come with."
    )


@dataclass(frozen=True)
class Benchmark:
    """A kind of head-to-head suite. `head_to_head.benchmarks.BENCHMARKS` lists them."""

    # In the config: the `kind` of the section, and the section itself.
    name: str
    fields: type[HeadToHead]
    # Turns of a question, at most.
    turns: int
    # Whether a model's answer is compared with a baseline's.
    pairs: bool
    # Settings → what decides what the judge is asked, beside prompt, decoding and endpoint.
    recipe: Callable[[Any], Recipe]
    # Recipe, question, our turns, the baseline's, references → what the judge is shown.
    shown: Callable[[Recipe, Question, Sequence[str], Sequence[str], Sequence[str]], Iterator[Shown]]
    # Recipe, Shown → the request.
    request: Callable[[Recipe, Shown], Request]
    # Recipe, all that is shown, asker → a reply for each.
    ask: Callable[[Recipe, Sequence[Shown], Asker], list[Any]]
    # Shown, reply → {status, value, weight, raw, reason}.
    read: Callable[[Shown, Any], dict[str, Any]]
    # Columns that tell a published form of judgements → its reader.
    forms: tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], Read]], ...]
    headline: Headline
    bounds: tuple[float, float]
    # Readable battles → metric → Linear: what a bridge moves and differences are taken of, the headline among them.
    linear: Callable[[Sequence[Battle]], dict[str, Linear]]
    # Readable battles, seed → metric → (n, Estimate).
    measured: Callable[[Sequence[Battle], int], Measured]
    # Metrics that groups of few questions can have.
    by_part: tuple[str, ...]
    # Metrics beside the headline → heading.
    metrics: dict[str, str] = field(default_factory=dict)
    # How often a request is asked at most.
    times: int = 1
