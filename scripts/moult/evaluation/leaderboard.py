"""Standings: score tables as a reader wants them: models by datasets, who leads, and whether that is clear."""

from moult.evaluation.published import SOURCES

# What the rows of a suite end with: its means over the datasets.
MEANS = ("mean", "weighted_mean")
STATUSES = ("unknown", "multi", "error")
# What tells of a judge, not of the answers.
TRUST = (
    "order_consistency first_shown_share repeat_stability tie_rate parse_failure_rate error_rate unanswered_rate"
).split()


def _published(row):
    """Return what each source published instead, as source, value, and what ours is more."""
    return [(source, float(row[source]), float(row[f"{source}_delta"])) for source in SOURCES if row[source]]


def _estimate(row):
    """Return a row of summary.csv as numbers."""
    estimate = {"value": float(row["value"]), "low": float(row["ci_low"]), "high": float(row["ci_high"])}
    return estimate | {"n": int(row["n"]), "published": _published(row)}


def suite_tables(rows, differences):
    """Return for each suite of summary.csv and differences.csv its name, tables, differences, and published sources.

    A table has method, datasets, columns (a dataset or a mean: name, n, majority) and rows (model, a cell per column).
    A cell holds metric → estimate, `best` (see `_mark_best`) and `unread`, the rate of answers without one label.
    """
    found = {}
    for row in rows:
        estimate = _estimate(row)
        cells = found.setdefault(row["suite"], {}).setdefault(row["method"], {})
        cells.setdefault((row["model"], row["dataset"]), {})[row["metric"]] = estimate
    return [
        {
            "name": suite,
            "tables": [_score_table(method, cells) for method, cells in by_method.items()],
            "differences": _differences([row for row in differences if row["suite"] == suite]),
            "sources": [source for source in SOURCES if any(row[source] for row in rows if row["suite"] == suite)],
        }
        for suite, by_method in found.items()
    ]


def _score_table(method, cells):
    models, names = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    datasets = [name for name in names if name not in MEANS]
    columns = {}
    # The means first: of many datasets they are what is looked for.
    for name in [*MEANS, *datasets] if len(datasets) > 1 else datasets:
        column = [cells[model, name] for model in models if (model, name) in cells]
        majority = column[0].get("majority_accuracy")
        columns[name] = {"name": name, "n": column[0]["accuracy"]["n"], "majority": majority and majority["value"]}
        _mark_best(column)
        for cell in column:
            cell["unread"] = sum(cell[f"{status}_rate"]["value"] for status in STATUSES if f"{status}_rate" in cell)
    known = [(columns[name]["majority"], columns[name]["n"]) for name in datasets]
    if len(datasets) > 1 and all(majority is not None for majority, _ in known):
        columns["mean"]["majority"] = sum(majority for majority, _ in known) / len(known)
        columns["weighted_mean"]["majority"] = sum(majority * n for majority, n in known) / sum(n for _, n in known)
    rows = [{"model": model, "cells": [cells.get((model, name)) for name in columns]} for model in models]
    return {"method": method, "datasets": datasets, "columns": list(columns.values()), "rows": rows}


def _mark_best(column):
    """Mark the best cell of a column, if the runner-up's value lies outside of its interval."""
    ranked = sorted(column, key=lambda cell: -cell["accuracy"]["value"])
    for cell in column:
        cell["best"] = False
    if len(ranked) > 1:
        ranked[0]["best"] = ranked[0]["accuracy"]["low"] > ranked[1]["accuracy"]["value"]


def _differences(rows):
    numbers = ("difference", "ci_low", "ci_high", "p_mcnemar")
    lines = [row | {name: float(row[name]) for name in numbers} | {"n": int(row["n"])} for row in rows]
    widest = max([0.05, *(abs(line[end]) for line in lines for end in ("ci_low", "ci_high"))])
    for line in lines:
        line |= {"value": line["difference"], "low": line["ci_low"], "high": line["ci_high"]}
        # Where the mark stands on a scale from -widest to +widest, in percent.
        line["places"] = [50 + 50 * line[end] / widest for end in ("low", "value", "high")]
    return lines


def verdict(suite, table):
    """Return who leads a table by its mean (or its one dataset), and whether that is clear, as parts of a sentence."""
    majority = table["columns"][0]["majority"]
    ranked = [(row["model"], row["cells"][0]["accuracy"]) for row in table["rows"] if row["cells"][0]]
    ranked.sort(key=lambda one: -one[1]["value"])
    best, first = ranked[0]
    rivals = ranked[1:2]
    return {
        "suite": suite,
        "method": table["method"],
        "datasets": table["datasets"],
        "best": best,
        "first": first,
        "rival": rivals[0] if rivals else None,
        "tied": [model for model, one in ranked if one["value"] == first["value"]],
        "ahead": all(first["low"] > one["value"] for _, one in rivals),
        "majority": majority,
        "beats": majority is not None and first["low"] > majority,
    }


def unread_answers(suite):
    """Return how many answers held no label, two, or an error, per model and method, where there are any."""
    lines = []
    for table in suite["tables"]:
        for row in table["rows"]:
            cells = [cell for cell in row["cells"] if cell and "unknown_rate" in cell]
            sizes = [cell["accuracy"]["n"] for cell in cells]
            counts = {
                status: sum(round(cell[f"{status}_rate"]["value"] * n) for cell, n in zip(cells, sizes, strict=True))
                for status in STATUSES
            }
            if any(counts.values()):
                names = {"suite": suite["name"], "model": row["model"], "method": table["method"]}
                lines.append(names | counts | {"n": sum(sizes)})
    return lines


# ---------------------------------------------------------------- judged suites


def judged_suites(rows, differences):
    """Return for each judged suite of summary.csv its name, tables, trust, verdicts, differences and published sources.

    A table has dataset, criteria (overall last) and rows (model, per criterion a cell of win_share and score, or None).
    trust: per model and dataset, the metrics that tell of the judge rather than of the answers. verdicts: of each model
    that was set against another, its overall win share over the suite.
    """
    found = {}
    for row in rows:
        suite = found.setdefault(row["suite"], {"cells": {}, "sources": set()})
        cell = suite["cells"].setdefault((row["dataset"], row["model"], row["task"]), {})
        cell[row["metric"]] = _estimate(row)
        suite["sources"] |= {source for source, *_ in cell[row["metric"]]["published"]}
    suites = []
    for name, suite in found.items():
        mine = [row for row in differences if row["suite"] == name]
        # Its judgements are those of the others.
        compared_with = {row["against"] for row in mine}
        trust = [
            {"model": model, "dataset": dataset} | dict.fromkeys(TRUST) | cell
            for (dataset, model, criterion), cell in suite["cells"].items()
            if criterion == "overall" and dataset not in MEANS and model not in compared_with
        ]
        tables = {"name": name, "tables": _judged_tables(suite["cells"]), "trust": trust}
        tables |= {"verdicts": _judged_verdicts(suite["cells"], mine), "differences": _differences(mine)}
        suites.append(tables | {"sources": sorted(suite["sources"])})
    return suites


def _judged_tables(cells):
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in cells if dataset not in MEANS))
    criteria = list(dict.fromkeys(criterion for _, _, criterion in cells if criterion != "overall"))
    models = list(dict.fromkeys(model for _, model, _ in cells))
    tables = []
    # The means first: of many datasets they are what is looked for.
    for dataset in [*MEANS, *datasets] if len(datasets) > 1 else datasets:
        found = [
            [cells.get((dataset, model, criterion), {}) for criterion in (*criteria, "overall")] for model in models
        ]
        rows = [
            {"model": model, "cells": [cell if "win_share" in cell else None for cell in line]}
            for model, line in zip(models, found, strict=True)
        ]
        tables.append({"dataset": dataset, "criteria": [*criteria, "overall"], "rows": rows})
    return tables


def _judged_verdicts(cells, differences):
    verdicts = []
    for model, against in dict.fromkeys((row["model"], row["against"]) for row in differences):
        share = cells.get(("weighted_mean", model, "overall"), {}).get("win_share")
        verdicts += [{"model": model, "against": against, "share": share}] if share else []
    return verdicts
