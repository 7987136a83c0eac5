"""Tables and pictures of probes: means by subfield, the best models first."""

from collections.abc import Sequence
from typing import Any

from moult.evaluation import leaderboard
from moult.evaluation.kinds import SuiteKind, Unit
from moult.evaluation.leaderboard import MEANS, estimate_of

METHODS = {"linear": "by a linear probe", "mlp": "by a probe with a hidden layer"}
SCORE = Unit(factor=1, digits=3, sign="", bounds=(0, 1))
METRICS = {
    "selectivity_random_labels": "less random labels",
    "selectivity_random_weights": "less random weights",
    "selectivity_permutation": "less permuted words",
    "score_seen": "inputs seen in train",
    "score_unseen": "inputs not seen",
    "compression": "times shorter than the uniform code",
}
# Models of a table that can be read; the CSV has all.
MOST_MODELS = 40


def panels(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the means over all sets and over those of each subfield, the latter under its name: what is shown of many
    sets."""
    found = []
    for row in rows:
        if row["dataset"] in MEANS:
            found.append(row)
        elif row["task"] == "subfield":
            found.append(row | {"dataset": row["dataset"].removeprefix("subfield: "), "task": ""})
    return found


def best_first(kind: SuiteKind, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of the best models by the mean score, those first, and how many models are left out."""
    score = {row["model"]: float(row["value"]) for row in rows if _is_headline(kind, row)}
    order = sorted(score, key=lambda model: -score[model])
    places = {model: place for place, model in enumerate(order[:MOST_MODELS])}
    kept = [row for row in rows if row["model"] in places]
    return sorted(kept, key=lambda row: places[row["model"]]), len(order) - len(places)


def _is_headline(kind, row):
    return (row["dataset"], row["task"], row["metric"]) == ("mean", "", kind.headline.metric)


def suite_tables(
    kind: SuiteKind, rows: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a dict per suite as `leaderboard.suite_tables` does, over subfields in place of sets, the best models
    first; and beside it `left_out` (models), `layers` and `portions`: a line per model with an estimate per column, and
    `lengths`: per set and model the bits of its labels."""
    found = []
    for name in dict.fromkeys(row["suite"] for row in rows):
        mine, left_out = best_first(kind, [row for row in rows if row["suite"] == name])
        shown = {row["model"] for row in mine}
        lines = [one for one in differences if one["suite"] == name and {one["model"], one["against"]} <= shown]
        lines = [one for one in lines if one["dataset"] == "weighted_mean" or len(lines) <= MOST_MODELS]
        sets = list(dict.fromkeys(row["dataset"] for row in mine if not row["task"] and row["dataset"] not in MEANS))
        for suite in leaderboard.suite_tables(kind, panels(mine), lines):
            # Means are over sets, whatever the columns are.
            suite["leaders"] = [one | {"datasets": sets} for one in suite["leaders"]]
            suite |= {"left_out": left_out, "layers": _by_task(mine, "layer"), "portions": _by_task(mine, "portion")}
            found.append(suite | {"lengths": _lengths(mine)})
    return found


def _by_task(rows, what):
    """Return the mean score of each model by layer or portion, with that of the one which counts as the last."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["metric"] == "score" and row["task"] == what:
            cells.setdefault((row["model"], row["method"]), {})[row["dataset"]] = estimate_of(row)
    columns = list(dict.fromkeys(task for line in cells.values() for task in line))
    lines = [
        {"model": key[0], "method": key[1], "cells": [line.get(one) for one in columns]} for key, line in cells.items()
    ]
    return {"columns": columns, "rows": lines}


def _lengths(rows):
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        if (
            row["metric"] in ("description_bits", "uniform_bits", "compression")
            and not row["task"]
            and row["dataset"] not in MEANS
        ):
            place = row["dataset"], row["model"], row["method"]
            found.setdefault(place, {})[row["metric"]] = float(row["value"])
    return [
        {"dataset": dataset, "model": model, "method": method} | line
        for (dataset, model, method), line in found.items()
    ]
