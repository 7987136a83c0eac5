"""Values that others published, shown beside ours."""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from moult.base.paths import RESOURCES

REFERENCE = RESOURCES / "reference"
# Who published: each has a column, and one for what ours is more.
SOURCES = ("paper", "reproduction")


@cache
def published_models(table: str) -> list[tuple[str, str]]:
    """Return the (model, setting) pairs that a table of resources/reference has values of."""
    with open(REFERENCE / f"{table}.csv", encoding="utf-8", newline="") as handle:
        return sorted({(row["model"], row["setting"]) for row in csv.DictReader(handle)})


def published_of_judge(named: Mapping[str, Any], dataset: str, task: str, metric: str, n: int) -> float | None:
    """Return what was published of a judge (resources/reference/judge.csv), None unless it is of the same dataset,
    group, measure and number of items.

    named: judge, and datasets: ours → the published one. task: `tag: <group>`, or nothing for all of a dataset.
    """
    asked = (named["judge"], named["datasets"].get(dataset), task.removeprefix("tag: "), metric, n)
    return _judges().get(asked) if ":" not in asked[2] else None


@cache
def _judges():
    with open(REFERENCE / "judge.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {
        (row["judge"], row["dataset"], row["group"], row["metric"], int(row["n"])): float(row["value"]) for row in rows
    }


def published_judges() -> list[str]:
    """Return the judges that resources/reference/judge.csv has values of."""
    return sorted({name for name, *_ in _judges()})


def judged_datasets() -> list[str]:
    """Return the datasets that resources/reference/judge.csv has values on."""
    return sorted({name for _, name, *_ in _judges()})


@cache
def retired_models() -> frozenset[str]:
    """Return the models that can be asked no more, because their service shut them down."""
    with open(REFERENCE / "retired_judges.csv", encoding="utf-8", newline="") as handle:
        return frozenset(row["model"] for row in csv.DictReader(handle))


@cache
def retired_sources(tables: tuple[str, ...]) -> frozenset[str]:
    """Return the sources of tables of resources/reference whose judge can be asked no more: its service shut it down.

    Such a table has a column `judge`; `retired_judges.csv` has the models and the days.
    """
    retired, found = retired_models(), set()
    for table in tables:
        with open(REFERENCE / f"{table}.csv", encoding="utf-8", newline="") as handle:
            found |= {row["source"] for row in csv.DictReader(handle) if row.get("judge") in retired}
    return frozenset(found)


class Published:
    """The published values of one model and setting, by source: read per dataset, means over the very same datasets."""

    def __init__(self, reference: Mapping[str, str] | None) -> None:
        """Read the table that an evaluation's `reference` names, given as a dict; None is a table without rows."""
        rows, named = [], reference or {}
        if reference:
            with open(REFERENCE / f"{reference['table']}.csv", encoding="utf-8", newline="") as handle:
                rows = list(csv.DictReader(handle))
        self.sizes = {row["dataset"]: int(row["n"]) for row in rows}
        rows = [row for row in rows if all(row[key] == named[key] for key in ("model", "setting"))]
        self.values = {(row["source"], row["dataset"], row["metric"]): float(row["value"]) for row in rows}
        self.tested = {(row["source"], row["dataset"], row["metric"]): int(row["n"]) for row in rows}

    def of(self, source: str, dataset: str, metric: str) -> float | None:
        """Return the value that a source published for a dataset, None without one."""
        return self.values.get((source, dataset, metric))

    def mean(self, source: str, mean: str, metric: str, datasets: Sequence[str]) -> float | None:
        """Return a source's `mean` or `weighted_mean` over these datasets, None where it lacks one of them.

        It is the published mean where that was taken over as many test rows as these datasets have; else it is computed
        from the source's values.
        """
        import numpy as np

        sizes = [self.sizes.get(dataset, 0) for dataset in datasets]
        if all(sizes) and self.tested.get((source, mean, metric)) == sum(sizes):
            return self.values[source, mean, metric]
        values = [self.of(source, dataset, metric) for dataset in datasets]
        if None in values:
            return None
        return float(np.average(values, weights=sizes if mean == "weighted_mean" else None))


# Kind of head-to-head suite → the benchmark's name in wrpo.csv.
BENCHMARKS = {"alpaca": "alpaca_eval_2", "arena": "arena_hard", "mt": "mt_bench"}


@cache
def published_of_benchmark(kind: str) -> list[dict[str, str]]:
    """Return the rows of resources/reference/wrpo.csv that are of a kind of head-to-head suite: source, model, metric,
    value, judge and note."""
    with open(REFERENCE / "wrpo.csv", encoding="utf-8", newline="") as handle:
        return [row for row in csv.DictReader(handle) if row["benchmark"] == BENCHMARKS[kind]]


def published_battles(model: str | None, kind: str, metric: str) -> float | None:
    """Return what the WRPO paper published of a model under a kind of head-to-head suite, None where it has nothing."""
    for row in published_of_benchmark(kind):
        if (row["source"], row["model"], row["metric"]) == ("paper", model, metric):
            return float(row["value"])
    return None
