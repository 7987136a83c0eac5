"""Suites, which say how to measure, and evaluations, which say what."""

from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, create_model, model_validator

from moult.base.errors import nearest
from moult.base.section import Name, Section, exactly_one
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.published import published_models
from moult.evaluation.suites import KINDS


class _Suite(Section):
    """How to measure."""

    name: Name = Field(
        description=(
            "Name of the suite, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is "
            "part of paths."
        )
    )

    @model_validator(mode="after")
    def one_way(self) -> Self:
        exactly_one(self, *SECTIONS)
        return self

    @property
    def kind(self) -> SuiteKind:
        """The SuiteKind of this suite."""
        return next(kind for kind in KINDS if isinstance(getattr(self, kind.key), kind.fields))

    @property
    def settings(self) -> Any:
        """The section under the key of its kind."""
        return getattr(self, self.kind.key)


# The key under a suite → the kinds that it may be.
SECTIONS: dict[str, list[SuiteKind]] = {}
for _kind in KINDS:
    SECTIONS.setdefault(_kind.key, []).append(_kind)


def _section_of(kinds):
    told = Field(None, description=f"Settings of a {kinds[0].title} suite; null: it is of another kind.")
    fields: Any = reduce(or_, (kind.fields for kind in kinds))
    return (Annotated[fields, Field(discriminator="kind")] if len(kinds) > 1 else fields) | None, told


Suite = create_model(
    "Suite",
    __base__=_Suite,
    __doc__=_Suite.__doc__,
    **{key: _section_of(kinds) for key, kinds in SECTIONS.items()},
)
# Tables of resources/reference.
PUBLISHED = tuple(dict.fromkeys(table for kind in KINDS for table in kind.published))


class Reference(Section):
    """Published values to set beside ours: one model and setting of a table, from every source that has it."""

    table: Literal[PUBLISHED] = Field(  # type: ignore[valid-type]
        PUBLISHED[0], description="Table of published values: a file of resources/reference, without its ending."
    )
    model: str = Field(description="Name of the model in the table of published values.")
    setting: str = Field(description="Setting of the model in the table of published values, e.g. how it was trained.")

    @model_validator(mode="after")
    def is_there(self) -> Self:
        known = published_models(self.table)
        if (self.model, self.setting) not in known:
            asked, names = f"{self.model}, {self.setting}", [", ".join(pair) for pair in known]
            raise ValueError(f"reference: resources/reference/{self.table}.csv has no {asked!r}{nearest(asked, names)}")
        return self


class Setting(Section):
    """Several models measured as one: on each dataset another, as where a study trains a model per dataset."""

    name: Name = Field(description="Name under which the models are measured as one.")
    models: str | dict[str, str] = Field(
        description="Dataset → model that stands for the setting there; or one name that contains {dataset}."
    )

    def model_for(self, dataset: str) -> str | None:
        """Return the name of the model that stands for this setting on a dataset, None where there is none."""
        if isinstance(self.models, str):
            return self.models.replace("{dataset}", dataset)
        return self.models.get(dataset)


# Fields that kinds of suites have for themselves.
OWN = {name: declared for kind in KINDS for name, declared in kind.own_fields.items()}
# Fields of an evaluation that name what it measures.
MEASURED = ("models", "settings", "corpora", *OWN)


class _Evaluation(Section):
    """A suite and what it measures: models and settings, or, under a judge, the answers that stand in corpora."""

    suite: str = Field(description="Suite that measures.")
    models: list[str] = Field([], description="Models that are measured.")
    settings: list[Setting] = Field(
        [],
        description=(
            "Settings that are measured: each stands for another model per dataset. Only label suites measure settings."
        ),
    )
    corpora: list[str] = Field(
        [], description="Corpora of distilled answers that are compared; only a judge compares corpora."
    )
    against: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        [],
        description=(
            "Models or settings to which paired differences are taken; under a judge the one that all others "
            "are compared with."
        ),
    )
    reference: Reference | None = Field(
        None, description="Published values that the report shows beside the scores; null: none."
    )

    @model_validator(mode="after")
    def measures_something(self) -> Self:
        if not self.measured:
            fields = ", ".join(f"`{name}`" for name in MEASURED[:-1])
            raise ValueError(f"name {fields} or `{MEASURED[-1]}` that the suite measures")
        return self

    @property
    def measured(self) -> list[str]:
        """The names under which scores stand."""
        entries = [entry for field in MEASURED for entry in getattr(self, field)]
        return [entry if isinstance(entry, str) else entry.name for entry in entries]


Evaluation = create_model("Evaluation", __base__=_Evaluation, __doc__=_Evaluation.__doc__, **OWN)
