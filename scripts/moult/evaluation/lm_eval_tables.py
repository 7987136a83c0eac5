"""Tables of lm-eval's tasks for the report, and what is drawn of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.files import each_jsonl, read_json
from moult.evaluation.kinds import NUMBER, PERCENT, SuiteKind, Unit
from moult.evaluation.leaderboard import difference_lines, estimate_of
from moult.evaluation.lm_eval_scores import METHOD

METHODS = {METHOD: "by lm-eval"}
# The metric under which a task's first share is drawn: tasks have metrics of their own.
SCORE = "score"
# Samples that the report shows of a suite.
SAMPLES = 3


def is_share(row: Mapping[str, Any]) -> bool:
    """Whether a row of summary.csv is a share, the greater the better."""
    return row["higher_is_better"] == "True" and 0 <= float(row["value"]) <= 1


def panels(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the first share of each task and group: what is drawn, a panel each."""
    chosen: dict[str, str] = {}
    for row in rows:
        if is_share(row):
            chosen.setdefault(row["dataset"], row["metric"])
    return [row | {"metric": SCORE} for row in rows if chosen.get(row["dataset"]) == row["metric"]]


def suite_tables(
    kind: SuiteKind, rows: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a dict per suite: name, models, and lines, one per task or group, metric and filter: what it is, its
    unit, shots, whether greater is better (None: not said), marks, and a cell per model (an estimate with `stderr` and
    `best`, or None). differences: as `leaderboard.difference_lines` has them, each with its unit."""
    found: dict[str, Any] = {}
    smoke = any(row["limit"] for row in rows)
    for row in rows:
        suite = found.setdefault(row["suite"], {"name": row["suite"], "models": [], "lines": {}})
        if row["model"] not in suite["models"]:
            suite["models"].append(row["model"])
        place = row["dataset"], row["metric"]
        line = suite["lines"].setdefault(place, {"task": row["dataset"], "metric": row["metric"], "cells": {}})
        line |= {"group": bool(row["task"]), "n": int(row["n"]), "shots": row["shots"], "unit": _unit(row)}
        line |= {"better": {"True": True, "False": False}.get(row["higher_is_better"])}
        line["marks"] = list(dict.fromkeys([*line.get("marks", []), *filter(None, row["marks"].split("; "))]))
        stderr = float(row["stderr"]) if row["stderr"] else None
        line["cells"][row["model"]] = estimate_of(row) | {"stderr": stderr, "best": False}
    for suite in found.values():
        mine = [row for row in differences if row["suite"] == suite["name"]]
        suite["differences"] = _differences(kind, mine, suite["lines"], smoke)
        for line in suite["lines"].values():
            _mark_best(line, suite["differences"])
        suite["lines"] = list(suite["lines"].values())
        suite |= {"leaders": [], "tables": [], "sources": [], "unread": []}
    return list(found.values())


def _unit(row: Mapping[str, Any]) -> Unit:
    return PERCENT if is_share(row) else NUMBER


def _differences(kind, rows, lines, smoke):
    """Return lines of differences; where less is better, the trend is the other way round."""
    told = difference_lines(kind.headline, rows, smoke)
    for one in told:
        line = lines.get((one["dataset"], one["metric"]), {})
        one["unit"] = line.get("unit", NUMBER)
        if line.get("better") is not True:
            turned = {"up": "down", "down": "up"} if line.get("better") is False else {}
            one["trend"] = turned.get(one["trend"], "even")
    return told


def _mark_best(line, differences):
    """Mark the best cell of a line, if a paired test tells it from the runner-up."""
    if line["better"] is None or len(line["cells"]) < 2:
        return
    (best, _), (second, _), *_ = sorted(
        line["cells"].items(), key=lambda cell: cell[1]["value"], reverse=line["better"]
    )
    for one in differences:
        if (one["dataset"], one["metric"]) == (line["task"], line["metric"]):
            ahead = {(best, second): "up", (second, best): "down"}.get((one["model"], one["against"]))
            line["cells"][best]["best"] |= one["trend"] == ahead


def samples(runs: Sequence[Any], root: Path) -> dict[str, Any]:
    """Return a suite's first sample of each task as the first model was asked, and what the runs say of themselves."""
    shown: dict[str, Any] = {}
    for row in each_jsonl(root / f"{runs[0]['key']}.jsonl") if runs else ():
        if len(shown) < SAMPLES:
            shown.setdefault(row["task"], row)
    told = [read_json(root / f"{one['key']}.results.json") for one in runs]
    return {
        "samples": list(shown.values()),
        "versions": sorted({f"lm-eval {one['lm_eval_version']}" for one in told}),
        "templates": {run["name"].split("/")[1]: one["chat_template_sha"] for run, one in zip(runs, told, strict=True)},
        "cut": {run["name"].split("/")[1]: run["facts"]["cut"] for run in runs if run["facts"]["cut"]},
    }
