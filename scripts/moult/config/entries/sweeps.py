"""Sweeps: merges of the same parents by several methods, densities and weights."""

import itertools
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from moult.base.section import DType, Section
from moult.weights.methods import BY_MAGNITUDE, DRAWING, METHODS

Masks = Literal["stream", "by_name"]
MASKS = (
    "Where random masks come from: stream, drawn by mergekit for one tensor after another; by_name: from the seed and "
    "the tensor's name, whatever other tensors there are. Only methods that draw take it."
)


class Sweep(Section):
    """Merges of the same parents, one per method, density and weight; one job makes all that are not there."""

    methods: list[Literal[tuple(METHODS)]] = Field(  # type: ignore[valid-type]
        min_length=1, description="Methods; each takes of the following what it knows."
    )
    parents: list[str] = Field(min_length=2, description="Names of the models that are merged.")
    base: str | None = Field(
        None,
        description=(
            "Model that the merges start from; a method whose base is one of the parents takes the first of them, "
            "where this is none."
        ),
    )
    densities: list[float] = Field([], description="Shares of task vectors that are kept; a merge for each.")
    weights: list[float | list[float]] = Field(
        [], description="Weights; a merge for each, which is that of all parents, or a list with one for each parent."
    )
    parameters: dict[str, float | bool | list] = Field(
        {}, description="Settings of the merges; each method takes those that it knows."
    )
    dtype: DType = Field("bfloat16", description="Number format that is reckoned in, and of the merged weights.")
    out_dtype: DType | None = Field(
        None, description="Number format of the merged weights, rounded once at the end; null: that of `dtype`."
    )
    chat_template: str | None = Field(
        None,
        description=(
            "Name of the model whose chat template is taken; null: the base, or the first parent that has one."
        ),
    )
    masks: Masks = Field("stream", description=f"{MASKS} By name, the merges of a sweep have the same masks.")

    @model_validator(mode="after")
    def does_something(self) -> Self:
        known = [METHODS[method].settings for method in self.methods]
        unused = [key for key in self.parameters if not any(key in settings for settings in known)]
        unused += ["weights"] * (bool(self.weights) and not any("weight" in settings for settings in known))
        unused += ["densities"] * (bool(self.densities) and not any(map(_share, self.methods)))
        unused += ["masks"] * (self.masks == "by_name" and not any(method in DRAWING for method in self.methods))
        if unused:
            raise ValueError(f"{unused[0]}: none of the methods {', '.join(self.methods)} takes it; leave it out")
        for weight in self.weights:
            if isinstance(weight, list) and len(weight) != len(self.parents):
                raise ValueError(f"weights: {weight} is not one for each of {len(self.parents)} parents")
        return self

    @property
    def count(self) -> int:
        """How many merges there are at most."""
        return len(self.methods) * max(1, len(self.densities)) * max(1, len(self.weights))

    def members(self, name: str) -> dict[str, dict[str, Any]]:
        """Return name → section of each merge, as plain data; those that share most stand beside each other."""
        found = {}
        densities: list[Any] = self.densities or [None]
        weights: list[Any] = self.weights or [None]
        for density, method, weight in itertools.product(densities, self.methods, weights):
            settings, share = METHODS[method].settings, _share(method)
            density, weight = density if share else None, weight if "weight" in settings else None
            told = [f"{name}-{method}"]
            told += [f"d{density:g}"] if density is not None else []
            told += [f"w{'-'.join(f'{one:g}' for one in _each(weight, 1))}"] if weight is not None else []
            found["-".join(told)] = self._merge(method, density, weight)
        return found

    def _merge(self, method, density, weight):
        known, share = METHODS[method], _share(method)
        parameters = {key: value for key, value in self.parameters.items() if key in known.settings}
        own: list[dict[str, Any]] = [{"model": one} for one in self.parents]
        if weight is not None:
            own = [one | {"weight": its} for one, its in zip(own, _each(weight, len(own)), strict=True)]
        if density is not None and known.settings[share].scope == "shared":
            parameters[share] = density
        elif density is not None:
            own = [one | {share: density} for one in own]
        base = self.base
        if known.base == "ignored":
            base = None
        elif known.base == "required" and not known.task_vectors and base not in self.parents:
            base = self.parents[0]
        masks = {"masks": "by_name"} if self.masks == "by_name" and method in DRAWING else {}
        further = {key: getattr(self, key) for key in ("out_dtype", "chat_template")}
        return {
            "method": method,
            "base": base,
            "parents": own,
            "parameters": parameters,
            "dtype": self.dtype,
            **{key: value for key, value in further.items() if value is not None},
            **masks,
        }


def _share(method):
    """Return the setting of a method that says which share of the entries is kept, None where none does."""
    return next((key for key in (BY_MAGNITUDE.get(method), "density") if key in METHODS[method].settings), None)


def _each(weight, count):
    return weight if isinstance(weight, list) else [weight] * count
