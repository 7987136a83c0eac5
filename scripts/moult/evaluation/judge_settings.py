"""The config of a suite in which one judge or several compare answers in pairs."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from moult.base.section import Section, exactly_one
from moult.data.fields import Decoding, Form, Prompt, Rubric, Split, check_dimensions
from moult.data.rubrics import DEFAULT
from moult.evaluation.kinds import Settings


class Answering(Section):
    """How the models of a judged evaluation are asked; the defaults are METEOR's."""

    prompt: Prompt | None = Field(
        None, description="Template of resources/prompts for the questions; null: the one that the dataset trains with."
    )
    decoding: Decoding = Field(
        Decoding(temperature=0.7, top_p=0.9, max_tokens=1024), description="How the models' answers are decoded."
    )


class Repeats(Section):
    """Pairs that the judge is shown again, each time with another seed, to measure how far it agrees with itself."""

    questions: int = Field(
        20, ge=0, description="Largest number of questions whose pairs the judge is shown again; 0: none."
    )
    times: int = Field(1, ge=1, description="How often each of these pairs is shown again.")


class Juror(Section):
    """One of several judges of the same answers. A name alone is that of an endpoint."""

    endpoint: str = Field(description="Endpoint that judges.")
    form: Form | None = Field(None, description="Form of this judge's replies; null: that of the suite.")


def _as_jurors(values: Any) -> Any:
    if not isinstance(values, list):
        return values
    return [{"endpoint": one} if isinstance(one, str) else one for one in values]


class JudgeSuite(Settings):
    """Answers to questions, compared in pairs by a judge that sees each pair in both orders."""

    datasets: list[str] = Field(min_length=1, description="Datasets whose rows are questions.")
    split: Split = Field("test", description="Split whose questions are asked.")
    sample: int | None = Field(
        100, ge=1, description="Largest number of questions, drawn with the experiment's seed; null: all."
    )
    criteria: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]] = Field(
        ["accuracy", "completeness", "relevance", "coherence", "reliability"],
        min_length=1,
        description="Criteria that the judge scores from 1 to 10; `overall` is always scored too.",
    )
    answers: Answering = Field(Answering(), description="How the compared models answer the questions.")
    endpoint: str | None = Field(None, description="Endpoint that judges; write either `endpoint` or `judges`.")
    judges: Annotated[list[Juror], BeforeValidator(_as_jurors)] | None = Field(
        None,
        min_length=2,
        description=(
            "Endpoints that judge the same answers; the scores are the first one's, the report says how the others "
            "agree with it and with each other."
        ),
    )
    form: Form | None = Field(
        None,
        description=(
            "Form of a reply: JSON enforced by a schema, the published line that a trained judge writes, or a verdict "
            "in double brackets; null: JSON."
        ),
    )
    rubric: Rubric | None = Field(
        None,
        description=(
            "Rubric whose dimensions stand in place of `criteria`, asked about as a judge is trained; null: `default` "
            "where a `form` is set, else `criteria`."
        ),
    )
    prompt: Prompt = Field(
        "judge/pair",
        description=(
            "Template of resources/prompts that asks the judge to compare two answers; judge/compare where it does so "
            "by a rubric."
        ),
    )
    decoding: Decoding = Field(Decoding(max_tokens=1500), description="How the judge's reply is decoded.")
    repeats: Repeats = Field(
        Repeats(), description="Which pairs the judge is shown again, to measure how far it agrees with itself."
    )

    @model_validator(mode="before")
    @classmethod
    def prompt_of_a_rubric(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "prompt" in raw:
            return raw
        jurors = raw["judges"] if isinstance(raw.get("judges"), list) else []
        formed = [one.get("form") for one in [raw, *jurors] if isinstance(one, dict)]
        return raw | {"prompt": "judge/compare"} if any(formed) or raw.get("rubric") else raw

    @model_validator(mode="after")
    def criteria_are_distinct(self) -> Self:
        if "overall" in self.criteria:
            raise ValueError("criteria: `overall` is asked for anyway; leave it out")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: one stands twice")
        return self

    @model_validator(mode="after")
    def judges_are_distinct(self) -> Self:
        exactly_one(self, "endpoint", "judges")
        names = [juror.endpoint for juror in self.jurors]
        if len(set(names)) < len(names):
            raise ValueError("judges: one stands twice; give it another endpoint to be asked a second time")
        return self

    @model_validator(mode="after")
    def one_rubric(self) -> Self:
        if self.by_rubric is None:
            return self
        if "criteria" in self.model_fields_set:
            raise ValueError("criteria: follow from the rubric where `form` or `rubric` is set; leave them out")
        check_dimensions("prompt", self.prompt, "judge/compare")
        return self

    @property
    def jurors(self) -> list[Juror]:
        """All who judge, the one whose scores count first."""
        return self.judges or [Juror(endpoint=str(self.endpoint))]

    @property
    def by_rubric(self) -> str | None:
        """Name of the rubric by which all judge; None where they judge by `criteria`."""
        formed = self.form or any(juror.form for juror in self.judges or ())
        return self.rubric or (DEFAULT if formed else None)

    @property
    def shown(self) -> dict[str, tuple[str, ...]]:  # type: ignore[override]  # a rubric is no text to be tried with
        return {} if self.by_rubric else {"prompt": ("answer_1", "answer_2", "fence", "criteria")}

    @property
    def endpoints(self) -> dict[str, str]:
        return {f"judges {place}" if place else "endpoint": one.endpoint for place, one in enumerate(self.jurors)}
