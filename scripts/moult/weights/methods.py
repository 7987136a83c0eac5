"""Merge methods: the settings that each takes, and the sentences that refuse all others.

Config and job read this table, schema and config/README.md quote it. Names and meanings are mergekit's. What mergekit
would refuse in the job, after all parents are trained, is refused here, without mergekit.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from moult.base.errors import nearest


@dataclass(frozen=True)
class Setting:
    """What a method takes under one name: true or false, or a finite number that `fits` accepts.

    In place of a number may stand a gradient over the layers, or a list of `{filter, value}` by names of tensors.
    """

    words: str
    type: Literal["switch", "number"] = "number"
    fits: Callable[[float], bool] = math.isfinite
    required: bool = False

    def takes(self, value: Any) -> bool:
        if self.type == "switch":
            return isinstance(value, bool)
        return all(type(number) in (int, float) and self.fits(number) for number in numbers(value))


@dataclass(frozen=True)
class MergeMethod:
    """A merge method: `words` describe it and name its paper; `base` is none, one of the parents, or another model."""

    words: str
    base: Literal["none", "a parent", "no parent"]
    parents: int | None = None  # exactly so many; None: two or more
    per_parent: dict[str, Setting] = field(default_factory=dict)
    parameters: dict[str, Setting] = field(default_factory=dict)
    together: Callable[[dict], Iterable[str]] = lambda merge: ()  # refusals of settings that fit one by one


def _chances_of_della(merge):
    """Refuse chances outside (0, 1): della keeps entries with chances from density - epsilon to density + epsilon.

    A density of 1 keeps all entries, whatever epsilon. Of gradients the extremes are compared.
    """
    epsilon = merge.get("parameters", {}).get("epsilon")
    width = max(numbers(0.15 if epsilon is None else epsilon))
    for parent in merge["parents"]:
        densities = list(numbers(1 if parent.get("density") is None else parent["density"]))
        if min(densities) < 1 and not (min(densities) - width > 0 and max(densities) + width < 1):
            yield (
                f"parent {parent['model']}: density {parent['density']} and epsilon {width}: della keeps entries with "
                "chances from density - epsilon to density + epsilon, and these must stay between 0 and 1"
            )


WEIGHT = Setting("a number", required=True)
DENSITY = Setting("a number above 0 and at most 1", fits=lambda number: 0 < number <= 1)
FRACTION = Setting("a number from 0 (base) to 1 (other parent)", fits=lambda number: 0 <= number <= 1, required=True)
EPSILON = Setting("a number from 0 to below 0.5", fits=lambda number: 0 <= number < 0.5)
SWITCH = Setting("true or false", "switch")
TASK_VECTORS = {"normalize": SWITCH, "int8_mask": SWITCH, "lambda": Setting("a number")}

METHODS = {
    "linear": MergeMethod(
        "weighted mean of the parents (Wortsman et al. 2022, arXiv 2203.05482)",
        base="none",
        per_parent={"weight": WEIGHT},
        parameters={"normalize": SWITCH},
    ),
    "slerp": MergeMethod(
        "point on the arc between two parents (Shoemake 1985)",
        base="a parent",
        parents=2,
        parameters={"t": FRACTION},
    ),
    "ties": MergeMethod(
        "base plus task vectors that are trimmed and agree in sign (Yadav et al. 2023, arXiv 2306.01708)",
        base="no parent",
        per_parent={"weight": WEIGHT, "density": DENSITY},
        parameters=TASK_VECTORS,
    ),
    "dare_ties": MergeMethod(
        "ties of task vectors that are thinned out at random and rescaled (Yu et al. 2023, arXiv 2311.03099)",
        base="no parent",
        per_parent={"weight": WEIGHT, "density": DENSITY},
        parameters=TASK_VECTORS,
    ),
    "task_arithmetic": MergeMethod(
        "base plus weighted sum of task vectors (Ilharco et al. 2022, arXiv 2212.04089)",
        base="no parent",
        per_parent={"weight": WEIGHT},
        parameters=TASK_VECTORS,
    ),
    # mergekit rescales what is left of a task vector to its L1 norm, the paper each entry by its own chance.
    "della": MergeMethod(
        "dare_ties that drops the small entries of a row more often (Deep et al. 2024, arXiv 2406.11617)",
        base="no parent",
        per_parent={"weight": WEIGHT, "density": DENSITY},
        parameters=TASK_VECTORS | {"epsilon": EPSILON},
        together=_chances_of_della,
    ),
}
BASES = {
    "none": "no `base`",
    "a parent": "`base`: one of the parents",
    "no parent": "`base`: the model that the parents were trained from",
}


def numbers(value: Any) -> Iterator[Any]:
    """Yield the numbers of a setting, of its gradient or of its list of `{filter, value}`; else what stands there."""
    by_filter = isinstance(value, list) and value and all(isinstance(part, dict) for part in value)
    for part in value if by_filter else [value]:
        if by_filter and part.keys() | {"filter"} == {"filter", "value"}:
            part = part["value"]
        yield from part if isinstance(part, list) and part else [part]


def description(name: str) -> str:
    """Return a line that says what a method does and takes."""
    method = METHODS[name]
    takes = [BASES[method.base]]
    for owner, settings in (("each parent", method.per_parent), ("`parameters`", method.parameters)):
        if settings:
            takes.append(f"{owner}: " + ", ".join(f"`{key}`" for key in settings))
    return f"`{name}`: {method.words}; {'; '.join(takes)}."


def refusals(merge: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each mistake in a merge: the section of a config or a recipe, as plain data."""
    name, base, parents = merge["method"], merge.get("base"), merge["parents"]
    method, names = METHODS[name], [parent["model"] for parent in parents]
    if method.base == "none" and base is not None:
        yield f"{name} takes no `base`; leave out `base: {base}`"
    if method.base != "none" and base is None:
        yield f"{name} needs {BASES[method.base]}"
    elif method.base == "a parent" and base not in names:
        yield f"base {base} is not one of the parents {', '.join(names)}, as {name} needs it"
    elif method.base == "no parent" and base in names:
        yield (
            f"{base} is base and parent: its task vector is zero, its share of the merge does nothing; {name} needs "
            f"{BASES[method.base]}"
        )
    if method.parents and len(names) != method.parents:
        yield f"{name} takes {method.parents} parents, not {len(names)}"
    for twice in sorted({one for one in names if names.count(one) > 1}):
        yield f"{twice} stands twice among the parents; name it once, with the sum of its weights"
    misfits = list(_misfits(name, "parameters", method.parameters, merge.get("parameters", {})))
    for parent in parents:
        settings = {key: value for key, value in parent.items() if key != "model"}
        misfits += _misfits(name, f"parent {parent['model']}", method.per_parent, settings)
    yield from misfits or method.together(merge)


def _misfits(name, owner, known, given):
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if key not in known:
            yield f"{owner}: {name} takes no {key!r}{nearest(key, known)}"
        elif not known[key].takes(value):
            or_list = ", or a list of such" if known[key].type == "number" else ""
            yield f"{owner}: {key} is {value}; {name} takes {known[key].words}{or_list}"
    for key, setting in known.items():
        if setting.required and key not in given:
            yield f"{owner}: {key} is missing; {name} needs {setting.words}"
