"""Suites, which say how to measure, and evaluations, which say what."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from moult.base.errors import nearest
from moult.base.section import Name, Section, exactly_one
from moult.data.fields import Decoding, Prompt, Split
from moult.evaluation.published import published_models


class LabelSuite(Section):
    """Label classification over datasets, by generation and by exact label log-likelihood."""

    datasets: list[str] = Field(min_length=1)
    split: Split = "test"
    methods: list[Literal["generate", "likelihood"]] = Field(["generate", "likelihood"], min_length=1)
    max_tokens: int = Field(16, ge=1, description="Of a generated answer.")


class Answering(Section):
    """How the models of a judged evaluation are asked; the defaults are METEOR's."""

    prompt: Prompt | None = Field(None, description="Default: the dataset's, so that it is the one of training.")
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.9, max_tokens=1024)


class Repeats(Section):
    """Pairs that the judge is shown again, each time with another seed: does it say the same?"""

    questions: int = Field(20, ge=0, description="At most so many of them; 0: none.")
    times: int = Field(1, ge=1)


class JudgeSuite(Section):
    """Answers to questions, compared in pairs by a judge that sees each pair in both orders."""

    datasets: list[str] = Field(min_length=1, description="Datasets whose rows are questions.")
    split: Split = "test"
    sample: int | None = Field(100, ge=1, description="At most so many questions, drawn with the seed; null: all.")
    criteria: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]] = Field(
        ["accuracy", "completeness", "relevance", "coherence", "reliability"],
        min_length=1,
        description="Scored from 1 to 10, and `overall` beside them.",
    )
    answers: Answering = Answering()
    endpoint: str = Field(description="The judge.")
    prompt: Prompt = "judge/pair"
    decoding: Decoding = Decoding(max_tokens=1500)
    repeats: Repeats = Repeats()

    @model_validator(mode="after")
    def criteria_are_distinct(self):
        if "overall" in self.criteria:
            raise ValueError("criteria: `overall` is asked for anyway; leave it out")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: one stands twice")
        return self


class Suite(Section):
    """How to measure."""

    name: Name
    labels: LabelSuite | None = None
    judge: JudgeSuite | None = None

    @model_validator(mode="after")
    def one_way(self):
        exactly_one(self, "labels", "judge")
        return self


class Reference(Section):
    """Published values to set beside ours: one model and setting of a table, from every source that has it."""

    table: Literal["mmla", "meteor"] = "mmla"
    model: str
    setting: str

    @model_validator(mode="after")
    def is_there(self):
        known = published_models(self.table)
        if (self.model, self.setting) not in known:
            asked, names = f"{self.model}, {self.setting}", [", ".join(pair) for pair in known]
            raise ValueError(f"reference: resources/reference/{self.table}.csv has no {asked!r}{nearest(asked, names)}")
        return self


class Setting(Section):
    """Several models measured as one: on each dataset another, as where a study trains a model per dataset."""

    name: Name
    models: str | dict[str, str] = Field(description="Model by dataset; or one name that has {dataset} in it.")

    def model_for(self, dataset):
        """Return the name of the model that stands for this setting on a dataset, None where there is none."""
        if isinstance(self.models, str):
            return self.models.replace("{dataset}", dataset)
        return self.models.get(dataset)


class Evaluation(Section):
    """A suite and what it measures: models and settings, or, under a judge, the answers that stand in corpora."""

    suite: str
    models: list[str] = []
    settings: list[Setting] = []
    corpora: list[str] = Field([], description="Of distilled answers; only a judge compares them.")
    against: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        [], description="Models or settings to take paired differences from; under a judge the one to compare with."
    )
    reference: Reference | None = None

    @model_validator(mode="after")
    def measures_something(self):
        if not self.measured:
            raise ValueError("name `models`, `settings` or `corpora` that the suite measures")
        return self

    @property
    def measured(self):
        """The names under which scores stand."""
        return [*self.models, *(setting.name for setting in self.settings), *self.corpora]
