"""Selections: the best of several models, as a model of its own."""

from typing import Self

from pydantic import Field, model_validator

from moult.base.section import Section


class Racing(Section):
    """How the rows of dev are spent on the models that can still be the best."""

    share: float = Field(
        0.25, gt=0, le=1, description="Share of all judgements (rows × models) that the race may cost at most."
    )
    margin: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="How far below the best the winner may be: the race ends where no more is at stake.",
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="Chance that a bound is wrong anywhere in the race, however often one looks."
    )


class Select(Section):
    """The best of several models by a metric of a dev split; of equals the one that is named first."""

    among: list[str] = Field(min_length=2, description="Names of the models that are chosen among.")
    suite: str = Field(description="Suite that measures them, on a dev split.")
    metric: str | None = Field(None, description="Metric that they are chosen by; null: the one the suite is read by.")
    method: str | None = Field(
        None, description="How the suite measures, where it does so in several ways; null: the first of them."
    )
    dataset: str = Field(
        "mean", description="Dataset of the suite that counts; mean: all alike, weighted_mean: by their rows."
    )
    race: Racing | None = Field(
        None,
        description=(
            "How the models are raced, so that few rows are spent on those that cannot be the best; null: all are "
            "measured on all rows, as `evaluations` says."
        ),
    )

    @model_validator(mode="after")
    def of_several(self) -> Self:
        if twice := sorted({name for name in self.among if self.among.count(name) > 1}):
            raise ValueError(f"among: {twice[0]} stands twice; leave one out")
        return self
