"""Scores of lm-eval's tasks as rows of our tables, and paired differences over its samples."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moult.base.errors import UserError
from moult.base.files import each_jsonl, read_json, write_csv
from moult.base.rows import Recipe, columns_of
from moult.base.stage import Job
from moult.base.suite_rows import Difference, Score
from moult.evaluation import metrics
from moult.evaluation.metrics import Estimate, Z

# Raise when the same results would now be scored or compared otherwise.
VERSION = 1
METHOD = "lm-eval"
# What lm-eval writes where there is no standard error.
NONE = "N/A"


class TaskScore(Score):
    """A metric of a task of lm-eval, written by `score_lm_eval`; `task`: `group` of a group. stderr: lm-eval's own;
    marks: what is said wherever the value stands, as of a run on some of the rows."""

    stderr: float | None
    higher_is_better: bool | None
    shots: int | None
    version: Any
    marks: str


class TaskDifference(Difference):
    """How one fares against another by one metric of a task of lm-eval."""

    metric: str


COLUMNS = columns_of(TaskScore)


def score_rows(recipe: Recipe, results: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> list[TaskScore]:
    """Return a row per task or group, metric and filter (`exact_match,strict-match`; none is left out).

    recipe: suite, model, and `run`: that of what was run. results: as `run_lm_eval` keeps them. samples: its rows.
    A mean of zeros and ones has Wilson's interval, other metrics 1.96 standard errors to each side, where there is one.
    """
    kept, rows = by_metric(samples), []
    for name, found in results["results"].items():
        group = name in results.get("groups", {}) or name in results["group_subtasks"]
        tasks = members(name, results)
        marks = marks_of(recipe["run"], results, tasks)
        better = results["higher_is_better"].get(name, {})
        for key, value in found.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = found.get(f"{metric}_stderr,{filtered}", NONE)
            values = [one for task in tasks for one in kept.get((task, metric, filtered), {}).values()]
            estimate = _estimate(float(value), stderr, values, group)
            rows.append(
                {
                    "model": recipe["model"],
                    "suite": recipe["suite"],
                    "dataset": name,
                    "task": "group" if group else "",
                    "method": METHOD,
                    "metric": metric if filtered == "none" else f"{metric},{filtered}",
                    "n": found.get("sample_count", {}).get(key) or sum(_rows_of(results, task) for task in tasks),
                    "limit": recipe["run"]["limit"],
                    "stderr": None if stderr == NONE else stderr,
                    "higher_is_better": better.get(metric),
                    "shots": results["n-shot"].get(name),
                    "version": results["versions"].get(name),
                    "marks": "; ".join(marks),
                }
                | estimate
            )
    return cast(list[TaskScore], [{column: row.get(column) for column in COLUMNS} for row in rows])


def _rows_of(results, task):
    return results["n-samples"][task]["effective"]


def members(name: str, results: Mapping[str, Any]) -> list[str]:
    """Return the tasks of a group, those of its groups among them; a task's own name."""
    below = results["group_subtasks"].get(name)
    return [task for one in below for task in members(one, results)] if below else [name]


def marks_of(run: Recipe, results: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """Return what must be said wherever numbers of these tasks stand: they are not those of the whole task as it is."""
    found = []
    counts = [results["n-samples"][task] for task in tasks]
    taken, whole = (sum(count[key] for count in counts) for key in ("effective", "original"))
    if run["limit"] or run["samples"]:
        found.append(f"{taken:,} of {whole:,} rows")
    fewer = [
        f"{(shots := results['n-shot'][task])} shot{'' if shots == 1 else 's'} instead of {own}"
        for task in tasks
        if (own := results["own_shots"].get(task)) and results["n-shot"].get(task, own) < own
    ]
    found += dict.fromkeys(fewer)
    if bits := run["compute"].get("bits"):
        found.append(f"weights in {bits} bits")
    return found


def _estimate(value, stderr, values, group):
    """Return value, ci_low and ci_high. values: one per row, where they are known."""
    is_mean = values and math.isclose(sum(values) / len(values), value, abs_tol=1e-9)
    if is_mean and not group and set(values) <= {0, 1}:
        return {"value": value} | _ends(metrics.share(round(sum(values)), len(values)).interval)
    if stderr == NONE or not math.isfinite(stderr):
        return {"value": value, "ci_low": None, "ci_high": None}
    low, high = value - Z * stderr, value + Z * stderr
    if values and min(values) >= 0 and max(values) <= 1 and 0 <= value <= 1:
        low, high = max(0.0, low), min(1.0, high)
    return {"value": value} | _ends((low, high))


def _ends(interval):
    row = Estimate(0.0, interval).as_row()
    return {name: row[name] for name in ("ci_low", "ci_high")}


def by_metric(samples: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[int, float]]:
    """Return (task, metric, filter) → number of the row → value, of metrics that have a number per row."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in samples:
        for metric in row["metrics"]:
            value = row[metric]
            if isinstance(value, bool | int | float):
                found.setdefault((row["task"], metric, row["filter"]), {})[row["doc_id"]] = float(value)
    return found


def differences(recipe: Recipe, samples: Mapping[tuple[str, ...], str | Path]) -> list[Difference]:
    """Return how models fare against those that their evaluation names, by task and metric, on the same rows.

    recipe: pairs [suite, model, against]. samples: (suite, model) → path. Of zeros and ones it is the difference of
    shares with McNemar's test, as of labels; of other means the mean difference with 1.96 standard errors of the
    differences to each side, and the sign test. Rows are the same where document and target are (their hashes).
    """
    kinds = functools.lru_cache(maxsize=2)(lambda key: _hashed(samples[key]))
    rows: list[Difference] = []
    for suite, model, against in recipe["pairs"]:
        if (suite, model) not in samples or (suite, against) not in samples:
            continue
        ours, theirs = kinds((suite, model)), kinds((suite, against))
        for (task, metric, filtered), values in ours.items():
            other = theirs.get((task, metric, filtered), {})
            pairs = [(value, other[row]) for row, value in values.items() if row in other]
            if pairs:
                name = metric if filtered == "none" else f"{metric},{filtered}"
                place = {"suite": suite, "model": model, "against": against, "dataset": task, "method": METHOD}
                rows.append(cast(TaskDifference, place | _difference(pairs) | {"n": len(pairs), "metric": name}))
    return rows


def _hashed(path):
    """Return (task, metric, filter) → (number, hashes of document and target) → value."""
    rows = list(each_jsonl(path))
    known = {(row["task"], row["doc_id"]): (row["doc_hash"], row["target_hash"]) for row in rows}
    return {
        key: {(number, *known[key[0], number]): value for number, value in values.items()}
        for key, values in by_metric(rows).items()
    }


def _difference(pairs):
    apart = [ours - theirs for ours, theirs in pairs]
    told = metrics.paired_difference(sum(one > 0 for one in apart), sum(one < 0 for one in apart), len(apart))
    if {value for pair in pairs for value in pair} <= {0.0, 1.0}:
        return told
    mean = sum(apart) / len(apart)
    spread = math.sqrt(sum((one - mean) ** 2 for one in apart) / max(1, len(apart) - 1) / len(apart))
    ends = {"ci_low": round(mean - Z * spread, 6), "ci_high": round(mean + Z * spread, 6)}
    return told | {"difference": round(mean, 6)} | ends


def run(job: Job) -> None:
    """Do the job of score_lm_eval."""
    path = Path(job.inputs.samples)
    beside = path.with_suffix(".results.json")
    if not beside.exists():
        raise UserError(f"{beside}: is not there, though the samples are; delete {path} and run again.")
    results = read_json(beside)
    recipe = job.recipe | {"run": read_json(path.with_suffix(".manifest.json"))["recipe"]}
    write_csv(job.outputs.scores, score_rows(recipe, results, each_jsonl(path)), COLUMNS)
