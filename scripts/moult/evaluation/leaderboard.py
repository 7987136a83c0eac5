"""Leaderboards: models by datasets, who leads, and whether a paired test calls the lead clear."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moult.evaluation.kinds import Headline, SuiteKind
from moult.evaluation.metrics import ALPHA
from moult.evaluation.published import SOURCES

# What the rows of a suite end with: its means over the datasets.
MEANS = ("mean", "weighted_mean")


def estimate_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of summary.csv as numbers: value, low and high (None: too few rows), n, and `published`, a (source,
    value, difference) per source: the published value, and ours minus it."""
    low, high = (float(row[end]) if row[end] else None for end in ("ci_low", "ci_high"))
    estimate = {"value": float(row["value"]), "low": low, "high": high}
    published = [(source, float(row[source]), float(row[f"{source}_delta"])) for source in SOURCES if row[source]]
    return estimate | {"n": int(row["n"]), "published": published}


def suite_tables(
    kind: SuiteKind, rows: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return for each suite of summary.csv and differences.csv its name, tables, differences, published sources,
    leaders (see `leader`) and unread (see `unread_answers`). kind: their SuiteKind.

    A table has method, datasets, columns (a dataset or a mean: name, n, baseline, and the baseline's place on the
    table's scale) and rows (model, a cell per column). A cell holds metric → estimate, the headline metric's with
    `places`; `best` (see `_mark_best`); and `unread`, the rate of answers that could not be read. In a smoke run, whose
    rows have a `limit`, nothing is best and no difference clear.
    """
    found: dict[str, Any] = {}
    smoke = any(row.get("limit") for row in rows)
    for row in rows:
        cells, sources = found.setdefault(row["suite"], ({}, set()))
        cell = cells.setdefault(row["method"], {}).setdefault((row["model"], row["dataset"]), {})
        cell[row["metric"]] = estimate_of(row)
        sources |= {source for source in SOURCES if row[source]}
    lines: dict[str, list[Any]] = {}
    for row in differences:
        lines.setdefault(row["suite"], []).append(row)
    suites = []
    for name, (by_method, sources) in found.items():
        mine = difference_lines(kind.headline, lines.get(name, []), smoke)
        tests = {(line["method"], line["dataset"], frozenset((line["model"], line["against"]))): line for line in mine}
        tables = [_score_table(kind, method, cells, tests) for method, cells in by_method.items()]
        suite = {"name": name, "tables": tables, "differences": mine}
        suite["sources"] = [source for source in SOURCES if source in sources]
        suite["leaders"] = [leader(kind, name, table, tests, smoke) for table in tables]
        suites.append(suite | {"unread": unread_answers(kind, name, tables)})
    return suites


def leading_pairs(kind: SuiteKind, rows: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """Return [suite, best, runner-up] per suite and method of summary.csv, by the mean of the headline metric."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if (row["metric"], row["dataset"]) == (kind.headline.metric, "mean") and row["method"] in kind.methods:
            found.setdefault((row["suite"], row["method"]), {})[row["model"]] = {"value": float(row["value"])}
    ranked = {place: kind.headline.ranked(models.items()) for place, models in found.items()}
    pairs = {(suite, models[0][0], models[1][0]): None for (suite, _), models in ranked.items() if len(models) > 1}
    return [list(pair) for pair in pairs]


def _score_table(kind, method, cells, tests):
    headline = kind.headline
    models, names = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    datasets = [name for name in names if name not in MEANS]
    ends = [one for cell in cells.values() for one in _ends(cell[headline.metric])]
    scale = headline.unit.bounds or (min(0.0, *ends), max(0.0, *ends))
    columns = {}
    # The means first: of many datasets they are what is looked for.
    for name in [*MEANS, *datasets] if len(datasets) > 1 else datasets:
        measured = {model: cells[model, name] for model in models if (model, name) in cells}
        column = list(measured.values())
        columns[name] = {"name": name, "n": column[0][headline.metric]["n"], "baseline": _baseline(kind, column[0])}
        _mark_best(headline, measured, method, name, tests)
        for cell in column:
            low, value, high = _ends(cell[headline.metric])
            cell[headline.metric]["places"] = [place_on(scale, end) for end in (low, value, high)]
            cell["unread"] = sum(cell[rate]["value"] for rate in kind.unread_rates if rate in cell)
    known = [(columns[name]["baseline"], columns[name]["n"]) for name in datasets]
    if len(datasets) > 1 and all(baseline is not None for baseline, _ in known):
        columns["mean"]["baseline"] = sum(baseline for baseline, _ in known) / len(known)
        columns["weighted_mean"]["baseline"] = sum(baseline * n for baseline, n in known) / sum(n for _, n in known)
    for column in columns.values():
        column["place"] = None if column["baseline"] is None else place_on(scale, column["baseline"])
    rows = [{"model": model, "cells": [cells.get((model, name)) for name in columns]} for model in models]
    return {"method": method, "datasets": datasets, "columns": list(columns.values()), "rows": rows}


def _ends(one):
    """Return low, value and high of an estimate; the value in place of ends that there are not."""
    return [one["value"] if one[end] is None else one[end] for end in ("low", "value", "high")]


def _baseline(kind, cell):
    """Return the baseline of a dataset's column: the metric of any of its cells, or the same value everywhere."""
    if kind.baseline is None or kind.baseline.metric is None:
        return kind.baseline and kind.baseline.value
    return cell[kind.baseline.metric]["value"] if kind.baseline.metric in cell else None


def place_on(scale: tuple[float, float], value: float) -> float:
    """Return where a value stands on a scale (lowest, highest), in percent of its length."""
    lowest, highest = scale
    return 100 * (value - lowest) / ((highest - lowest) or 1)


def _mark_best(headline, measured, method, dataset, tests):
    """Mark the best cell of a column, if a paired test tells it from the runner-up. measured: model → cell."""
    for cell in measured.values():
        cell["best"] = False
    ranked = headline.ranked([(model, cell[headline.metric]) for model, cell in measured.items()])
    if len(ranked) > 1:
        (best, _), (second, _) = ranked[:2]
        measured[best]["best"] = _is_ahead(headline, _test(tests, method, dataset, best, second), best)


def _test(tests, method, dataset, *models):
    """Return the line of differences of two models; both means are told by the one of all rows. None without one."""
    return tests.get((method, "weighted_mean" if dataset in MEANS else dataset, frozenset(models)))


def _is_ahead(headline, test, model):
    """Whether a line of differences calls a model clearly better than the other one."""
    return test is not None and test["trend"] == ("up" if test["model"] == model else "down")


def difference_lines(headline: Headline, rows: Sequence[dict[str, Any]], smoke: bool = False) -> list[dict[str, Any]]:
    """Return rows of differences.csv as numbers, with places on a common scale around 0, and a trend: up (clearly
    better), down (clearly worse), or even. Clear is what the paired test says, and nothing in a smoke run."""
    numbers = ("difference", "ci_low", "ci_high", "p_mcnemar")
    lines = [row | {name: float(row[name]) for name in numbers} | {"n": int(row["n"])} for row in rows]
    widest = max([0.05, *(abs(line[end]) for line in lines for end in ("ci_low", "ci_high"))])
    for line in lines:
        line |= {"value": line["difference"], "low": line["ci_low"], "high": line["ci_high"]}
        # Where the mark stands on a scale from -widest to +widest, in percent.
        line["places"] = [50 + 50 * line[end] / widest for end in ("low", "value", "high")]
        clear = line["p_mcnemar"] < ALPHA and line["value"] != 0 and not smoke
        line["trend"] = ("up" if headline.is_better(line["value"], 0) else "down") if clear else "even"
    return lines


def leader(
    kind: SuiteKind, suite: str, table: Mapping[str, Any], tests: Mapping[Any, Any], smoke: bool
) -> dict[str, Any]:
    """Return who leads a table by its mean (or its one dataset), and what is known of the lead, as parts of a sentence.

    tests: (method, dataset, both models) → line of differences. `p` is that of the paired test against the rival, None
    without such a test; `ahead` is whether it calls the lead clear; `beyond` is where the baseline lies: below, within
    or above the leader's interval, None where one of the two is not known. A smoke run has none of the three.
    """
    headline, column = kind.headline, table["columns"][0]
    ranked = headline.ranked(
        [(row["model"], row["cells"][0][headline.metric]) for row in table["rows"] if row["cells"][0]]
    )
    best, first = ranked[0]
    rival = ranked[1] if len(ranked) > 1 else None
    test = _test(tests, table["method"], column["name"], best, rival[0]) if rival and not smoke else None
    baseline, beyond = column["baseline"], None
    if baseline is not None and first["low"] is not None and not smoke:
        beyond = "below" if baseline < first["low"] else "above" if baseline > first["high"] else "within"
    return {
        "kind": kind,
        "suite": suite,
        "method": table["method"],
        "datasets": table["datasets"],
        "best": best,
        "first": first,
        "rival": rival,
        "tied": [model for model, one in ranked if one["value"] == first["value"]],
        "p": test and test["p_mcnemar"],
        "ahead": _is_ahead(headline, test, best),
        "baseline": baseline,
        "beyond": beyond,
        "smoke": smoke,
    }


def unread_answers(kind: SuiteKind, suite: str, tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how many answers could not be read, by rate (of kind.unread), per model and method where there are any."""
    lines, rates = [], kind.unread_rates
    for table in tables:
        for row in table["rows"]:
            measured = zip(table["columns"], row["cells"], strict=True)
            cells = [cell for column, cell in measured if column["name"] not in MEANS and cell]
            cells = [cell for cell in cells if all(rate in cell for rate in rates)]
            sized = [(cell, cell[kind.headline.metric]["n"]) for cell in cells]
            counts = {rate: sum(round(cell[rate]["value"] * n) for cell, n in sized) for rate in rates}
            if any(counts.values()):
                names = {"suite": suite, "model": row["model"], "method": table["method"]}
                lines.append(names | {"counts": counts, "n": sum(n for _, n in sized)})
    return lines
