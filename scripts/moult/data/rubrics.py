"""Rubrics: the dimensions by which a judge scores answers of a category, in `resources/judge/criteria/` or a study's
`judge/criteria/`, a file per category."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from moult.base.errors import UserError
from moult.base.paths import named_files

KIND = "judge/criteria"
# The rubric of what is of no kind; a judge sees no name of a kind then.
DEFAULT = "default"
# Where a reply names dimensions, these characters stand between them.
RESERVED = re.compile(r"""['"{}:#@&*\n]""")


def rubric_names() -> list[str]:
    """Return the names of the rubrics, the study's own and the shipped ones, e.g. `casual-conversation`."""
    return list(named_files(KIND))


def load_rubrics() -> dict[str, list[dict[str, Any]]]:
    """Return name → dimensions of every rubric: {name, sentence, weight}, in their order.

    They go into the recipe of a job whole, since the categories of its items are not known before.
    """
    return {name: _read_rubric(path) for name, path in named_files(KIND).items()}


def named_rubric(name: str) -> dict[str, Any]:
    """Return {name, dimensions} of a rubric, for the recipe of a job whose questions are all of one kind."""
    return {"name": name, "dimensions": _read_rubric(named_files(KIND)[name])}


@cache
def _read_rubric(path):
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        dimensions = [{"weight": 1} | dict(one) for one in found["dimensions"]]
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        raise UserError(f"{path}: is no rubric; write `dimensions:`, a list of {{name, sentence, weight}}.") from None
    names = [one.get("name") for one in dimensions]
    for number, one in enumerate(dimensions, start=1):
        wrong = None
        if set(one) != {"name", "sentence", "weight"} or not all(
            isinstance(one[key], str) for key in ("name", "sentence")
        ):
            wrong = "needs a `name` and a `sentence`, and beside them at most a `weight`"
        elif RESERVED.search(one["name"]) or one["name"].lower() in ("overall", "overall score") or not one["name"]:
            wrong = "needs another name: without quotes, braces or any of : # @ & *, and not `overall`"
        elif isinstance(one["weight"], bool) or not isinstance(one["weight"], int | float) or one["weight"] <= 0:
            wrong = "needs a weight above 0"
        elif names.count(one["name"]) > 1:
            wrong = f"has the name {one['name']!r} of another one; give it its own"
        if wrong:
            raise UserError(f"{path}, dimension {number}: {wrong}.")
    if not dimensions:
        raise UserError(f"{path}: has no dimension; write at least one under `dimensions:`.")
    return dimensions


def rubric_of(category: str | None, rubrics: Mapping[str, Any], default: str) -> str:
    """Return the name of the rubric for a category as data spells it; the default one where it has none."""
    name = re.sub(r"[\s_]+", "-", (category or "").strip().lower())
    return name if name in rubrics else default
