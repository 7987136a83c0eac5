"""Tables of judges for the report: agreement, trust, bias, groups of items, and what people agree among themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moult.base.files import read_jsonl
from moult.evaluation import leaderboard
from moult.evaluation.kinds import NUMBER, PERCENT, SuiteKind, Unit
from moult.evaluation.leaderboard import MEANS, estimate_of

METHODS = {"compare": "pairs compared", "grade": "answers graded", "by_grades": "pairs by two grades"}
METHODS |= {"injected": "hidden instructions"}
CORRELATION = Unit(factor=1, digits=3, sign="", bounds=(-1, 1))
# Title → (methods, metric → (heading, unit)).
TABLES: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, Unit]]]] = {
    "Pairs: agreement by every rule": (
        ("compare", "by_grades"),
        {
            "agreement_forward": ("original order", PERCENT),
            "agreement_swapped": ("swapped order", PERCENT),
            "agreement_both": ("right in both (Auto-J)", PERCENT),
            "vote": ("vote of both (JudgeBench)", PERCENT),
            "agreement_of_all": ("unread counts as wrong (LLMBar)", PERCENT),
            "macro_f1": ("macro F1", PERCENT),
            "kappa": ("Cohen's kappa", CORRELATION),
        },
    ),
    "Pairs: how far a judge agrees with itself": (
        ("compare", "by_grades"),
        {
            "consistency": ("same winner in both orders", PERCENT),
            "first_wins": ("whichever stood first won", PERCENT),
            "tie_rate": ("ties said", PERCENT),
            "tie_true_rate": ("ties true", PERCENT),
            "unread_rate": ("replies not in the form", PERCENT),
            "error_rate": ("errors", PERCENT),
            "unanswered_rate": ("nothing said", PERCENT),
        },
    ),
    "Pairs: does length move the verdict?": (
        ("compare", "by_grades"),
        {
            "agreement_longer": ("right answer is the longer", PERCENT),
            "agreement_shorter": ("right answer is the shorter", PERCENT),
            "length_correlation": ("verdict and length, people's verdict held fixed", CORRELATION),
        },
    ),
    "Grades": (
        ("grade",),
        {
            "pearson": ("Pearson", CORRELATION),
            "spearman": ("Spearman", CORRELATION),
            "kendall_tau_b": ("Kendall's tau-b", CORRELATION),
            "mean_absolute_error": ("mean absolute error", NUMBER),
            "quadratic_kappa": ("quadratic kappa", CORRELATION),
            "length_correlation": ("grade and length, people's grade held fixed", CORRELATION),
            "unread_rate": ("replies not in the form", PERCENT),
        },
    ),
}
PEOPLE = {
    "people_agreement": ("with the majority of the others", PERCENT),
    "people_kappa": ("kappa of that", CORRELATION),
}
# Verdicts that the report shows of a suite.
SAMPLES = 3


def panels(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows of whole datasets of which something could be read, not those of groups of items."""
    place = ("suite", "model", "dataset", "method")
    whole = [row for row in rows if not row["task"]]
    unread = {tuple(row[key] for key in place) for row in whole if row["metric"] == "agreement" and not int(row["n"])}
    return [row for row in whole if tuple(row[key] for key in place) not in unread]


def suite_tables(
    kind: SuiteKind, rows: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a dict per suite as `leaderboard.suite_tables` does, and beside it `further` and `people`: tables of
    {title, columns (heading, unit), rows (judge, dataset, method, an estimate or None per column)}, and `groups`: a
    table per dataset, method and kind of group, judges down and groups across; `pulls`, a line per judge and attack."""
    suites = leaderboard.suite_tables(kind, panels(rows), differences)
    for suite in suites:
        mine = [row for row in rows if row["suite"] == suite["name"]]
        suite["further"] = [_table(title, methods, metrics, mine) for title, (methods, metrics) in TABLES.items()]
        suite["further"] = [table for table in suite["further"] if table["rows"]]
        suite["people"] = _people(mine)
        suite["groups"] = _groups(mine)
        suite["pulls"] = _pulls(mine)
    return suites


def _table(title, methods, metrics, rows):
    cells = {}
    for row in rows:
        if row["method"] in methods and not row["task"] and row["metric"] in metrics:
            line = cells.setdefault((row["model"], row["dataset"], row["method"]), {})
            line[row["metric"]] = estimate_of(row)
    of_method: dict[str, set[str]] = {}
    for _, dataset, method in cells:
        of_method.setdefault(method, set()).add(dataset)
    # Of one dataset the means say the same again.
    cells = {key: line for key, line in cells.items() if key[1] not in MEANS or len(of_method[key[2]]) > 3}
    shown = [name for name in metrics if any(name in line for line in cells.values())]
    lines = [
        {"judge": judge, "dataset": dataset, "method": method, "cells": [line.get(name) for name in shown]}
        for (judge, dataset, method), line in cells.items()
    ]
    return {"title": title, "columns": [metrics[name] for name in shown], "rows": lines}


def _people(rows):
    """What people agree among themselves is the same beside every judge: of each dataset once."""
    found = {}
    for row in rows:
        if row["metric"] in PEOPLE and row["dataset"] not in MEANS:
            found.setdefault(row["dataset"], {})[row["metric"]] = estimate_of(row)
    lines = [{"dataset": dataset, "cells": [line.get(name) for name in PEOPLE]} for dataset, line in found.items()]
    return {"columns": list(PEOPLE.values()), "rows": lines}


def _pulls(rows):
    """How far hidden instructions pull each judge: a line per judge and attack."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["method"] == "injected":
            attack = row["task"].partition(": ")[2]
            found.setdefault((row["model"], attack), {})[row["metric"]] = estimate_of(row)
    nothing = {"pull": None, "score_shift": None}
    return [{"judge": judge, "attack": attack} | nothing | cells for (judge, attack), cells in found.items()]


def _groups(rows):
    """Agreement by category, scenario and tag: judges down, groups across."""
    tables: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        if row["task"] and row["metric"] == "agreement":
            column, _, value = row["task"].partition(": ")
            table = tables.setdefault((row["dataset"], row["method"], column), {"groups": {}, "cells": {}})
            estimate = estimate_of(row)
            table["groups"].setdefault(value, estimate["n"])
            table["cells"].setdefault(row["model"], {})[value] = estimate
    return [
        {
            "dataset": dataset,
            "method": method,
            "column": column,
            "groups": list(table["groups"].items()),
            "rows": [
                (judge, [cells.get(value) for value in table["groups"]]) for judge, cells in table["cells"].items()
            ],
        }
        for (dataset, method, column), table in tables.items()
    ]


def samples(verdicts: Sequence[Any], root: Path) -> dict[str, Any]:
    """Return a suite's first verdicts that have feedback, and how many items had no rubric of their own category."""
    rows = [row for one in verdicts for row in read_jsonl(root / f"{one['key']}.jsonl") if row["feedback"]]
    default = verdicts[0]["recipe"]["rubric"] if verdicts else ""
    without = max((one["facts"]["rubrics"].get(default, 0) for one in verdicts), default=0)
    return {"samples": rows[:SAMPLES], "default_rubric": default, "without_rubric": without}
