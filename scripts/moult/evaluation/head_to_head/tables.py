"""What a reader sees of head-to-head suites, beside the leaderboard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moult.evaluation import leaderboard
from moult.evaluation.head_to_head.benchmarks import BENCHMARKS
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.leaderboard import estimate_of
from moult.evaluation.published import published_of_benchmark, retired_models

# How the name of a method goes on → its words.
METHODS = {
    "_asked": "by the judge that was asked",
    "_published": "published judgements",
    "_bridged": "moved to the published judge's scale",
}


def suite_tables(
    kind: SuiteKind, rows: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a dict per suite as `leaderboard.suite_tables` does, and beside it `groups` (per method: categories, and
    per model a cell for each), `notes` (sentences on what the figures are), `others`: what was published elsewhere."""
    suites = leaderboard.suite_tables(kind, panels(kind, rows), differences)
    names = dict.fromkeys(row["suite"] for row in rows)
    told = {suite["name"] for suite in suites}
    nothing: dict[str, Any] = dict.fromkeys(("tables", "differences", "sources", "leaders", "unread"), [])
    suites += [{"name": name} | nothing for name in names if name not in told]
    for suite in suites:
        mine = [row for row in rows if row["suite"] == suite["name"]]
        suite["groups"] = _groups(kind, mine)
        suite["notes"] = [*_unread(kind, mine), *_notes(mine)]
        suite["others"] = published_of_benchmark(_benchmark_of(kind))
        suite["retired"] = retired_models()
    return suites


def panels(kind: SuiteKind, rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows of all questions of those models of which something could be read."""
    unread = {(row["suite"], row["model"], row["method"]) for row in rows if _says_nothing(kind, row)}
    return [row for row in rows if not row["task"] and (row["suite"], row["model"], row["method"]) not in unread]


def _says_nothing(kind, row):
    return row["metric"] == kind.headline.metric and not int(row["n"])


def _unread(kind, rows):
    """Yield a sentence for each model of which no judgement could be read."""
    for row in rows:
        if row["dataset"] == _benchmark_of(kind) and _says_nothing(kind, row):
            ending = next(end for end in METHODS if row["method"].endswith(end))
            yield f"{row['model']} ({METHODS[ending]}): no judgement could be read, so that it stands in no table."


def _benchmark_of(kind):
    return next(name for name, one in BENCHMARKS.items() if one.fields is kind.fields)


def _groups(kind, rows):
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    metric = BENCHMARKS[_benchmark_of(kind)].by_part[0]
    for row in rows:
        if row["task"] and row["metric"] == metric:
            cells = found.setdefault((row["method"], metric), {}).setdefault(row["model"], {})
            cells[row["task"].partition(": ")[2]] = estimate_of(row)
    tables = []
    for (method, metric), models in found.items():
        groups = list(dict.fromkeys(group for cells in models.values() for group in cells))
        lines = [(model, [cells.get(group) for group in groups]) for model, cells in models.items()]
        tables.append({"method": method, "metric": metric.replace("_", " "), "groups": groups, "rows": lines})
    return tables


def _notes(rows):
    """Yield what has to be said of a suite's figures, a sentence each."""
    values = {
        (row["model"], row["method"], row["metric"]): float(row["value"]) for row in rows if row["dataset"] != "mean"
    }
    for (model, method, metric), value in values.items():
        ending = next(end for end in METHODS if method.endswith(end))
        name = f"{model} ({METHODS[ending]})"
        if metric == "difficulties_known" and not value:
            yield (
                f"{name}: the difficulties of these instructions against this baseline are not known; the "
                "length-controlled win rate is of a fit without them."
            )
        elif metric == "fit_is_finite" and not value:
            yield (
                f"{name}: the fit of the length-controlled win rate has no finite optimum, or all answers are longer "
                "by as much; its value is a limit, or not controlled."
            )
        elif metric == "judged_twice" and value:
            yield f"{name}: {value:.0f} turns were judged more than once; all of their scores count."
    if any(method.endswith("_bridged") for _, method, _ in values):
        yield (
            "Values on the published judge's scale are no verdicts of that judge. They are those of the judge that was "
            "asked, moved by how far the two differ on the models that both have judged (prediction-powered "
            "inference), with the error of that move in the interval. All other values are plain ones."
        )


def samples(battles: Sequence[Any], root: Path) -> dict[str, Any]:
    """Return who judged whom in a suite, and whether each of these judges can still be asked."""
    lines = [
        {"model": one["recipe"]["model"], "source": source, "judge": judge, "retired": judge in retired_models()}
        for one in battles
        for source, judge in one["facts"]["judges"]
    ]
    return {"judges": lines}
