"""The published leaderboards of Holmes and Flash-Holmes: resources/reference/holmes.csv."""

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from statistics import fmean

from moult.evaluation.published import REFERENCE

# What stands where neither the set nor the leaderboard names a subfield or a phenomenon.
UNNAMED = "other"


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with open(REFERENCE / "holmes.csv", encoding="utf-8", newline="") as handle:
        return tuple(csv.DictReader(handle))


@cache
def _places() -> dict[str, tuple[str, str]]:
    return {row["dataset"]: (row["subfield"], row["phenomenon"]) for row in _rows()}


def place_of(dataset: str) -> tuple[str, str]:
    """Return the linguistic subfield and phenomenon of a published dataset; empty texts of any other."""
    return _places().get(dataset, ("", ""))


@cache
def published_probes() -> tuple[str, ...]:
    """Return the models that the table has values of."""
    return tuple(dict.fromkeys(row["model"] for row in _rows()))


@cache
def _values():
    return {(row["model"], float(row["portion"]), row["dataset"]): float(row["value"]) for row in _rows()}


def published_value(model: str, portion: float, dataset: str) -> float | None:
    """Return the published mean of five seeds of a model on a dataset at a portion of train, None without one."""
    return _values().get((model, portion, dataset))


def subfield_means(values: Mapping[str, float | None], subfields: Mapping[str, str]) -> dict[str, tuple[float, int]]:
    """Return subfield → (plain mean over its datasets that have a value, how many these are).

    values, subfields: by dataset. A mean over phenomena first is another number: the leaderboard takes this one.
    """
    found: dict[str, list[float]] = {}
    for dataset, value in values.items():
        if value is not None:
            found.setdefault(subfields[dataset], []).append(value)
    return {subfield: (fmean(mine), len(mine)) for subfield, mine in sorted(found.items())}


def study_means() -> list[dict[str, str]]:
    """Return the means of the merging study (resources/reference/merging.csv), each with the note on its other F1."""
    with open(REFERENCE / "merging.csv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def columns_of_leaderboard(models: Iterable[str]) -> list[str]:
    """Return the columns of the published leaderboards, one per model behind the six of the dataset."""
    first = ["probing dataset", "linguistic subfield", "linguistic phenomena", "probe type", "train portion", "probe"]
    return [*first, *models]
