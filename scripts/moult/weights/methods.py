"""Merge methods: what each takes, by mergekit's own contracts, and the sentences that refuse all else.

Config and job ask here; schema and config/README.md quote it. What mergekit would refuse in the job, after all parents
are trained, or accept though it does nothing, is refused here, without mergekit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moult.base.errors import nearest
from moult.base.files import read_json


@dataclass(frozen=True)
class Range:
    """Numbers that mean something: `words` finish the sentence "takes a number …"."""

    words: str = ""
    fits: Callable[[float], bool] = math.isfinite


_SHARE = Range("above 0 and at most 1", lambda number: 0 < number <= 1)
_POSITIVE = Range("above 0", lambda number: 0 < number < math.inf)
_NOT_NEGATIVE = Range("of at least 0", lambda number: 0 <= number < math.inf)
# By parameter, or by method and parameter. mergekit knows the types alone.
RANGES: dict[str | tuple[str, str], Range] = {
    "density": _SHARE,
    "select_topk": _SHARE,
    "gamma": Range("from 0 to below 1", lambda number: 0 <= number < 1),
    "epsilon": _NOT_NEGATIVE,
    ("della", "epsilon"): Range("from 0 to below 0.5", lambda number: 0 <= number < 0.5),
    ("della_linear", "epsilon"): Range("from 0 to below 0.5", lambda number: 0 <= number < 0.5),
    ("slerp", "t"): Range("from 0 (base) to 1 (other parent)", lambda number: 0 <= number <= 1),
    "t": _NOT_NEGATIVE,
    "r": _NOT_NEGATIVE,
    "alpha": _NOT_NEGATIVE,
    "max_iter": _POSITIVE,
    "tol": _POSITIVE,
    "eps": _POSITIVE,
}
# What mergekit reads and never uses: nothing is thinned out there.
IDLE = {("task_arithmetic", "density"), ("task_arithmetic", "rescale")}


# Methods that keep entries by the rank of their magnitude, and the setting that says how many.
BY_MAGNITUDE = {"ties": "density", "breadcrumbs": "density", "breadcrumbs_ties": "density", "sce": "select_topk"}
# Methods that draw random masks, or random entries of a large tensor.
DRAWING = ("dare_linear", "dare_ties", "della", "della_linear", "arcee_fusion")


@dataclass(frozen=True)
class Setting:
    """What a method takes under one name; `scope` says whether each parent may have its own.

    In place of one value may stand a gradient over the layers, or a list of `{filter, value}` by names of tensors.
    """

    type: Literal["bool", "int", "float"]
    scope: Literal["shared", "input", "non_base"]
    range: Range
    required: bool

    @property
    def words(self) -> str:
        if self.type == "bool":
            return "true or false"
        return f"a {'whole ' if self.type == 'int' else ''}number {self.range.words}".strip()

    def takes(self, value: Any) -> bool:
        return all(self._takes_one(one) for one in scalars(value))

    def _takes_one(self, value):
        if self.type == "bool" or isinstance(value, bool):
            return self.type == "bool" and isinstance(value, bool)
        if not isinstance(value, int | float) or not self.range.fits(value):
            return False
        return self.type == "float" or float(value).is_integer()


@dataclass(frozen=True)
class MergeMethod:
    """A merge method: what its base may be, between how many models it merges (None: no bound), and its settings."""

    title: str
    reference: str | None
    base: Literal["required", "optional", "ignored"]
    inputs: tuple[int, int | None]
    without_base: tuple[int | None, int | None]
    settings: dict[str, Setting]

    @property
    def task_vectors(self) -> bool:
        """Whether the parents count by their difference from the base, which then must not be a parent."""
        return self.base != "ignored" and self.inputs[1] is None


def _read_methods():
    methods = {}
    for name, contract in read_json(Path(__file__).with_name("contracts.json"))["methods"].items():
        settings = {
            key: Setting(
                one["type"],
                one["scope"],
                RANGES.get((name, key)) or RANGES.get(key) or Range(),
                required="default" not in one,
            )
            for key, one in contract["parameters"].items()
            if (name, key) not in IDLE
        }
        methods[name] = MergeMethod(
            contract["title"],
            contract["reference"],
            contract["base"],
            tuple(contract["inputs"]),
            tuple(contract["without_base"]),
            settings,
        )
    return methods


METHODS: dict[str, MergeMethod] = _read_methods()


def by_filter(value: Any) -> bool:
    """Whether a setting is a list of `{filter, value}`."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)


def scalars(value: Any) -> Iterator[Any]:
    """Yield the values of a setting, of its gradient or of its list of `{filter, value}`; else what stands there."""
    for part in value if by_filter(value) else [value]:
        if by_filter(value) and part.keys() | {"filter"} == {"filter", "value"}:
            part = part["value"]
        yield from part if isinstance(part, list) and part else [part]


def base_in_words(method: MergeMethod) -> str:
    """Return what a method asks of `base`, as words."""
    if method.base == "ignored":
        return "no `base`"
    if not method.task_vectors:
        return "`base`: one of the two models"
    return "`base`: the model that the parents were trained from" + (" (optional)" if method.base == "optional" else "")


def description(name: str) -> str:
    """Return a line that says what a method does and takes."""
    method = METHODS[name]
    takes = [base_in_words(method)]
    for owner, shared in (("each parent", False), ("`parameters`", True)):
        keys = [key for key, one in method.settings.items() if (one.scope == "shared") == shared]
        if keys:
            takes.append(f"{owner}: " + ", ".join(f"`{key}`" for key in keys))
    return f"`{name}`: {method.title}{f' ({method.reference})' if method.reference else ''}; {'; '.join(takes)}."


def groups(merge: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is merged with each other: the whole, each slice, or each slice of each module.

    A group has `where` (empty for the whole), `parents`, `parameters` (own ones before those of all) and `base`.
    """
    whole: dict[str, Any] = {"where": "", "base": merge.get("base"), "parameters": merge.get("parameters") or {}}
    if merge.get("modules"):
        found = []
        for module, part in merge["modules"].items():
            inner = whole | {"parameters": whole["parameters"] | (part.get("parameters") or {})}
            for group in _slices(part, inner):
                found.append(group | {"where": ", ".join(filter(None, [f"module {module}", group["where"]]))})
        return found
    return _slices(merge, whole)


def _slices(part, whole):
    if not part.get("slices"):
        return [whole | {"parents": part["parents"]}]
    return [
        {
            "where": f"slice {number}",
            "base": one.get("base") or whole["base"],
            "parents": one["sources"],
            "parameters": whole["parameters"] | (one.get("parameters") or {}),
        }
        for number, one in enumerate(part["slices"], 1)
    ]


def refusals(merge: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each mistake in a merge: the section of a config or a recipe, as plain data."""
    for group in groups(merge):
        for sentence in _refusals_of_group(merge, group):
            yield f"{group['where']}: {sentence}" if group["where"] else sentence


def _refusals_of_group(merge, group):
    name, base = merge["method"], group["base"]
    method, names = METHODS[name], [parent["model"] for parent in group["parents"]]
    yield from _misplaced_base(merge, name, method, base, names)
    inputs = len({*names, base} - {None})
    yield from _wrong_number(name, "models", inputs, method.inputs)
    if method.without_base != (None, None):
        yield from _wrong_number(name, "parents besides the base", len({*names} - {base}), method.without_base)
    if not group["where"] and inputs < 2 and method.inputs[1] != 1:
        yield f"{names[0]} alone is no merge; name two models or more"
    for twice in sorted({one for one in names if names.count(one) > 1}):
        yield f"{twice} stands twice among the parents; name it once, with the sum of its weights"
    ranges = {tuple(parent["layer_range"]) for parent in group["parents"] if parent.get("layer_range")}
    if len({last - first for first, last in ranges}) > 1:
        yield f"its sources have layers {sorted(ranges)}; take equally many of each"
    misfits = list(_misfits(name, method, group))
    yield from misfits or _chances_of_della(name, group)


def _misplaced_base(merge, name, method, base, names):
    # The base's tokenizer is then the one that others are united with.
    if method.base == "ignored" and base is not None and not (merge.get("tokenizer") and base in names):
        yield f"{name} takes no `base`; leave out `base: {base}`"
    elif method.base == "required" and base is None:
        yield f"{name} needs {base_in_words(method)}"
    elif base in names and method.task_vectors:
        yield (
            f"{base} is base and parent: its task vector is zero, its share of the merge does nothing; {name} takes "
            f"{base_in_words(method)}"
        )
    elif base is not None and base not in names and method.base == "required" and method.inputs[1] == len(names):
        yield f"base {base} is not one of the parents {', '.join(names)}, as {name} needs it"


def _wrong_number(name, what, number, bounds):
    least, most = bounds
    if (least and number < least) or (most is not None and number > most):
        bound = f"{most}" if least == most else f"{least or 0} or more" if most is None else f"{least or 0} to {most}"
        yield f"{name} takes {bound} {what}, not {number}"


def _misfits(name, method, group):
    """Refuse settings that a method does not take where they stand, and say which are missing."""
    parts = [("parameters", group["parameters"], method.settings)]
    own = {key: one for key, one in method.settings.items() if one.scope != "shared"}
    for parent in group["parents"]:
        # mergekit reads what belongs to a parent there, and never of the base.
        known = {} if parent["model"] == group["base"] and method.task_vectors else own
        parts.append((f"parent {parent['model']}", parent, known))
    for owner, given, known in parts:
        for key, value in given.items():
            if key in ("model", "layer_range") or value is None:
                continue
            if key not in known:
                elsewhere = "; it belongs under `parameters`" if key in method.settings else nearest(key, known)
                yield f"{owner}: {name} takes no {key!r}{elsewhere}"
            elif not known[key].takes(value):
                or_list = "" if known[key].type == "bool" else ", or a list of such"
                yield f"{owner}: {key} is {_plain(value)}; {name} takes {known[key].words}{or_list}"
            elif by_filter(value):
                yield from (f"{owner}: {key}: {sentence}" for sentence in _filters(value, known[key]))
    everywhere = {key for key, value in group["parameters"].items() if value is not None}
    for owner, given, known in parts[1:] if own else ():
        for key in (key for key, one in known.items() if one.required and key not in everywhere):
            if given.get(key) is None and not (given["model"] == group["base"] and known[key].scope == "non_base"):
                yield f"{owner}: {key} is missing; {name} needs {known[key].words}"
    for key, one in method.settings.items():
        if one.required and one.scope == "shared" and key not in everywhere:
            yield f"parameters: {key} is missing; {name} needs {one.words}"


def _filters(parts, setting):
    """Refuse filters behind one that takes all tensors, and a needed setting that some tensor would lack."""
    catches = [number for number, part in enumerate(parts) if part.get("filter") in (None, "*")]
    if catches and catches[0] < len(parts) - 1:
        yield "behind an entry without filter, which takes all tensors, further ones do nothing; put it last"
    if setting.required and not catches:
        yield "no entry takes the tensors that no filter meets; add one without filter, as the last"


def _plain(value):
    """Return a setting as a user writes it: without the fields of a filter that are not set."""
    if by_filter(value):
        return [{key: one for key, one in part.items() if one is not None} for part in value]
    return value


def _chances_of_della(name, group):
    """Refuse chances outside (0, 1): della keeps entries with chances from density - epsilon to density + epsilon.

    A density of 1 keeps all entries, whatever epsilon. Of gradients and filters the extremes are compared.
    """
    if not name.startswith("della"):
        return
    given = group["parameters"]
    for parent in group["parents"]:
        density, epsilon = (
            parent.get(key) if parent.get(key) is not None else given.get(key, default)
            for key, default in (("density", 1), ("epsilon", 0.15))
        )
        densities, width = list(scalars(1 if density is None else density)), max(scalars(epsilon or 0))
        if min(densities) < 1 and not (min(densities) - width > 0 and max(densities) + width < 1):
            yield (
                f"parent {parent['model']}: density {_plain(density)} and epsilon {width}: della keeps entries with "
                "chances from density - epsilon to density + epsilon, and these must stay between 0 and 1"
            )


def selects(merge: dict[str, Any]) -> bool:
    """Whether a merge leaves entries out by the rank of their magnitude."""
    share = BY_MAGNITUDE.get(merge["method"])
    values = [value for _, key, value in _settings(merge) if key == share]
    return any(one < 1 for value in values for one in scalars(value))


def filters(merge: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (where it stands, filter) for each filter of a merge that is to meet some tensors alone."""
    return [
        (f"{owner}: {key}", part["filter"])
        for owner, key, value in _settings(merge)
        if by_filter(value)
        for part in value
        if part.get("filter") not in (None, "*")
    ]


def gradients_outside(merge: dict[str, Any]) -> list[str]:
    """Return a warning per gradient that may meet tensors outside of the layers: these get its first value."""
    warnings = []
    for owner, key, value in _settings(merge):
        for part in value if by_filter(value) else [{"value": value}]:
            if isinstance(part["value"], list) and part.get("filter") in (None, "*"):
                warnings.append(
                    f"{owner}: {key} is a gradient over the layers; tensors outside of the layers (embeddings, last "
                    f"norm, head) get its first value, {part['value'][0]}."
                )
    return warnings


def _settings(merge):
    """Yield (where, key, value) for all settings of a merge, those of parts before those of the whole."""
    for group in groups(merge):
        prefix = f"{group['where']}, " if group["where"] else ""
        for parent in group["parents"]:
            for key, value in parent.items():
                if key not in ("model", "layer_range") and value is not None:
                    yield f"{prefix}parent {parent['model']}", key, value
        for key, value in group["parameters"].items():
            if value is not None:
                yield f"{prefix}parameters", key, value
