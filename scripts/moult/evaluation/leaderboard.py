"""Leaderboards: models by datasets, who leads, and whether the lead is clear."""

from collections.abc import Mapping, Sequence
from typing import Any

from moult.evaluation.kinds import Headline, SuiteKind
from moult.evaluation.published import SOURCES

# What the rows of a suite end with: its means over the datasets.
MEANS = ("mean", "weighted_mean")


def estimate_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of summary.csv as numbers: value, low, high, n, and `published`, a (source, value, difference) per
    source: the published value, and ours minus it."""
    estimate = {"value": float(row["value"]), "low": float(row["ci_low"]), "high": float(row["ci_high"])}
    published = [(source, float(row[source]), float(row[f"{source}_delta"])) for source in SOURCES if row[source]]
    return estimate | {"n": int(row["n"]), "published": published}


def suite_tables(
    kind: SuiteKind, rows: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return for each suite of summary.csv and differences.csv its name, tables, differences, published sources,
    leaders (see `leader`) and unread (see `unread_answers`). kind: their SuiteKind.

    A table has method, datasets, columns (a dataset or a mean: name, n, baseline, and the baseline's place on the
    table's scale) and rows (model, a cell per column). A cell holds metric → estimate, the headline metric's with
    `places`; `best` (see `_mark_best`); and `unread`, the rate of answers that could not be read.
    """
    found = {}
    for row in rows:
        cells = found.setdefault(row["suite"], {}).setdefault(row["method"], {})
        cells.setdefault((row["model"], row["dataset"]), {})[row["metric"]] = estimate_of(row)
    suites = []
    for name, by_method in found.items():
        tables = [_score_table(kind, method, cells) for method, cells in by_method.items()]
        mine = [row for row in differences if row["suite"] == name]
        suite = {"name": name, "tables": tables, "differences": difference_lines(kind.headline, mine)}
        suite["sources"] = [source for source in SOURCES if any(row[source] for row in rows if row["suite"] == name)]
        suite["leaders"] = [leader(kind, name, table) for table in tables]
        suites.append(suite | {"unread": unread_answers(kind, name, tables)})
    return suites


def _score_table(kind, method, cells):
    headline = kind.headline
    models, names = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    datasets = [name for name in names if name not in MEANS]
    ends = [cell[headline.metric][end] for cell in cells.values() for end in ("low", "high")]
    scale = headline.unit.bounds or (min(0.0, *ends), max(0.0, *ends))
    columns = {}
    # The means first: of many datasets they are what is looked for.
    for name in [*MEANS, *datasets] if len(datasets) > 1 else datasets:
        column = [cells[model, name] for model in models if (model, name) in cells]
        columns[name] = {"name": name, "n": column[0][headline.metric]["n"], "baseline": _baseline(kind, column[0])}
        _mark_best(headline, column)
        for cell in column:
            one = cell[headline.metric]
            one["places"] = [place_on(scale, one[end]) for end in ("low", "value", "high")]
            cell["unread"] = sum(cell[rate]["value"] for rate in kind.unread_rates if rate in cell)
    known = [(columns[name]["baseline"], columns[name]["n"]) for name in datasets]
    if len(datasets) > 1 and all(baseline is not None for baseline, _ in known):
        columns["mean"]["baseline"] = sum(baseline for baseline, _ in known) / len(known)
        columns["weighted_mean"]["baseline"] = sum(baseline * n for baseline, n in known) / sum(n for _, n in known)
    for column in columns.values():
        column["place"] = None if column["baseline"] is None else place_on(scale, column["baseline"])
    rows = [{"model": model, "cells": [cells.get((model, name)) for name in columns]} for model in models]
    return {"method": method, "datasets": datasets, "columns": list(columns.values()), "rows": rows}


def _baseline(kind, cell):
    """Return the baseline of a dataset's column: the metric of any of its cells, or the same value everywhere."""
    if kind.baseline is None or kind.baseline.metric is None:
        return kind.baseline and kind.baseline.value
    return cell[kind.baseline.metric]["value"] if kind.baseline.metric in cell else None


def place_on(scale: tuple[float, float], value: float) -> float:
    """Return where a value stands on a scale (lowest, highest), in percent of its length."""
    lowest, highest = scale
    return 100 * (value - lowest) / ((highest - lowest) or 1)


def _mark_best(headline, column):
    """Mark the best cell of a column, if the runner-up's value lies outside of its interval."""
    ranked = headline.ranked([(cell, cell[headline.metric]) for cell in column])
    for cell in column:
        cell["best"] = False
    if len(ranked) > 1:
        (best, first), (_, second) = ranked[:2]
        best["best"] = headline.is_clearly_better(first, second["value"])


def difference_lines(headline: Headline, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of differences.csv as numbers, with places on a common scale around 0, and a trend: up (clearly
    better), down (clearly worse), or even."""
    numbers = ("difference", "ci_low", "ci_high", "p_mcnemar")
    lines = [row | {name: float(row[name]) for name in numbers} | {"n": int(row["n"])} for row in rows]
    widest = max([0.05, *(abs(line[end]) for line in lines for end in ("ci_low", "ci_high"))])
    for line in lines:
        line |= {"value": line["difference"], "low": line["ci_low"], "high": line["ci_high"]}
        # Where the mark stands on a scale from -widest to +widest, in percent.
        line["places"] = [50 + 50 * line[end] / widest for end in ("low", "value", "high")]
        clear = line["p_mcnemar"] < 0.05 and (line["low"] > 0 or line["high"] < 0)
        line["trend"] = ("up" if headline.is_clearly_better(line, 0) else "down") if clear else "even"
    return lines


def leader(kind: SuiteKind, suite: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return who leads a table by its mean (or its one dataset), and whether that is clear, as parts of a sentence."""
    headline, baseline = kind.headline, table["columns"][0]["baseline"]
    ranked = headline.ranked(
        [(row["model"], row["cells"][0][headline.metric]) for row in table["rows"] if row["cells"][0]]
    )
    best, first = ranked[0]
    rivals = ranked[1:2]
    return {
        "kind": kind,
        "suite": suite,
        "method": table["method"],
        "datasets": table["datasets"],
        "best": best,
        "first": first,
        "rival": rivals[0] if rivals else None,
        "tied": [model for model, one in ranked if one["value"] == first["value"]],
        "ahead": all(headline.is_clearly_better(first, one["value"]) for _, one in rivals),
        "baseline": baseline,
        "beats": baseline is not None and headline.is_clearly_better(first, baseline),
    }


def unread_answers(kind: SuiteKind, suite: str, tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how many answers could not be read, by rate (of kind.unread), per model and method where there are any."""
    lines, rates = [], kind.unread_rates
    for table in tables:
        for row in table["rows"]:
            cells = [cell for cell in row["cells"] if cell and all(rate in cell for rate in rates)]
            sized = [(cell, cell[kind.headline.metric]["n"]) for cell in cells]
            counts = {rate: sum(round(cell[rate]["value"] * n) for cell, n in sized) for rate in rates}
            if any(counts.values()):
                names = {"suite": suite, "model": row["model"], "method": table["method"]}
                lines.append(names | {"counts": counts, "n": sum(n for _, n in sized)})
    return lines
