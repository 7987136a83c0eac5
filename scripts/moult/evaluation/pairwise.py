"""Scores of judged pairs: win shares with intervals, and how far the judge can be trusted."""

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moult.base.files import read_jsonl, write_csv
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.base.suite_rows import Difference, Judgement, Score
from moult.evaluation import metrics
from moult.evaluation.kinds import Baseline, Headline, SuiteKind
from moult.evaluation.leaderboard import MEANS, difference_lines, estimate_of
from moult.evaluation.published import REFERENCE, retired_sources
from moult.evaluation.scores import COLUMNS

# Raise when the same judgements would now be scored otherwise.
VERSION = 2
METHOD = "judged"
logger = logging.getLogger(__name__)
HEADLINE = Headline("win_share", "win share", "win shares")
BASELINE = Baseline("one half", value=0.5)
# What the published table calls our metrics.
PUBLISHED_AS = {"win_share": "win_share", "score_1_to_10": "score"}
# What tells of a judge, not of the answers.
TRUST = (
    "order_consistency first_shown_share repeat_stability tie_rate parse_failure_rate error_rate unanswered_rate"
).split()


def outcome(said: Mapping[str, Any], mine: str, theirs: str, criterion: str) -> float:
    """Return 1 where `mine` (A or B) has the higher score of a criterion, or, of `overall`, is the winner; 0 where it
    is `theirs`, 0.5 for a tie. said: a Judgement that has such scores."""
    if criterion == "overall":
        return {mine: 1.0, theirs: 0.0}.get(said["winner"], 0.5)
    difference = said["scores"][mine][criterion] - said["scores"][theirs][criterion]
    return 0.5 + 0.5 * ((difference > 0) - (difference < 0))


def whole_pairs(judgements: Sequence[Judgement]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (model, uid) → {order: Judgement} of the pairs that could be read in both orders; repeats left out.

    With one order alone, a judge's preference for the first answer would count as skill.
    """
    pairs = {}
    for row in judgements:
        if row["status"] == "ok" and row["repeat"] == 0:
            pairs.setdefault((row["model"], row["uid"]), {})[row["order"]] = row
    return {key: orders for key, orders in pairs.items() if len(orders) == 2}


def score_judgements(recipe: Recipe, judgements: Sequence[Judgement]) -> list[Score]:
    """Return score rows (see scores.COLUMNS) of a model, or of the model that all others are compared with.

    The winner decides who wins overall; in a reply by a form without scores, or whose scores could not be read, it is
    all there is, and the metrics of scores are over fewer questions. `task` is the criterion, or overall. Per dataset,
    then as the plain mean over datasets and weighted by n: `score` (1 to 10, mean of both orders), `win_share` (ties
    count half, each order half), `tie_rate`, `order_consistency` (the same winner in both orders), and of the overall
    score alone `first_shown_share` (how often whichever stood first won), all over questions whose pair could be read
    in both orders, with intervals of `metrics.means`. Then, with Wilson intervals: `parse_failure_rate` and
    `error_rate` of all judgements, `unanswered_rate` of questions, and `repeat_stability`, how often the winner of a
    repeated pair is that of the first time.
    """
    published = {} if recipe["limit"] else published_values(recipe)
    if recipe["limit"] and recipe["reference"]:
        logger.warning("limit is %d: the published values of `reference` stand beside nothing", recipe["limit"])
    side = "B" if recipe["model"] == recipe["against"] else "A"
    scored, rows = [], []
    for name in recipe["datasets"]:
        mine = [row for row in judgements if row["dataset"] == name]
        columns = columns_of(whole_pairs(mine), side, [*recipe["criteria"], "overall"])
        result = counted(columns, recipe["seed"])
        rows += _long(name, result, published if len(recipe["datasets"]) == 1 else {})
        for metric, count, of in trust(mine):
            rows += _long(name, {("overall", metric): (of, metrics.share(count, of))}, {})
        if result:
            scored.append(result)
    if scored:
        rows += _long("mean", _mean_over(scored, weighted=False), {})
        rows += _long("weighted_mean", _mean_over(scored, weighted=True), published)
    shared = {"model": recipe["model"], "suite": recipe["suite"], "method": METHOD, "limit": recipe["limit"]}
    return cast(list[Score], [{column: (shared | row).get(column) for column in COLUMNS} for row in rows])


def counted(
    columns: Mapping[tuple[str, str], Sequence[float]], seed: int
) -> dict[tuple[str, str], tuple[int, metrics.Estimate]]:
    """Return (n, estimate) of columns that have values: scores lie between 1 and 10, all others between 0 and 1."""
    scores = {key: values for key, values in columns.items() if key[1] == "score"}
    shares = {key: values for key, values in columns.items() if key not in scores}
    found = metrics.counted_means(scores, seed, (1, 10)) | metrics.counted_means(shares, seed, (0, 1))
    return {key: found[key] for key in columns if key in found}


def _mean_over(results, weighted):
    """Return metric → (n, Estimate), the mean over datasets of what all of them have."""
    found = {}
    for key in [key for key in results[0] if all(key in one for one in results)]:
        ns = [one[key][0] for one in results]
        mean = metrics.mean_of([{key: one[key][1]} for one in results], ns if weighted else None)
        found |= {name: (sum(ns), estimate) for name, estimate in mean.items()}
    return found


def columns_of(
    pairs: Mapping[tuple[str, str], Mapping[str, Any]], side: str, criteria: Sequence[str]
) -> dict[tuple[str, str], list[float]]:
    """Return (criterion, metric) → a value per question that has one; that of several models is their mean.

    pairs: see `whole_pairs`. side: A or B, whose metrics they are.
    """
    other = "AB".replace(side, "")
    by_question = {}
    for (_, uid), orders in pairs.items():
        by_question.setdefault(uid, []).append([orders["original"], orders["swapped"]])
    columns: dict[tuple[str, str], list[float]] = {}
    for criterion in criteria:
        names = ["score", "win_share", "tie_rate", "order_consistency"]
        names += ["first_shown_share"] if criterion == "overall" else []
        for name in names:
            columns[criterion, name] = []
        for everything in by_question.values():
            rated = [orders for orders in everything if all(_rates(said, criterion) for said in orders)]
            if rated:
                scores = [said["scores"][side][criterion] for orders in rated for said in orders]
                columns[criterion, "score"].append(_mean(scores))
            several = everything if criterion == "overall" else rated
            if not several:
                continue
            found = [[outcome(said, side, other, criterion) for said in orders] for orders in several]
            values = {
                "win_share": _mean(one for two in found for one in two),
                "tie_rate": _mean(one == 0.5 for two in found for one in two),
                "order_consistency": _mean(first == second for first, second in found),
                # A stood first in the original order, B in the swapped one.
                "first_shown_share": _mean(
                    outcome(said, shown[0], shown[1], criterion)
                    for orders in several
                    for said, shown in zip(orders, ("AB", "BA"), strict=True)
                ),
            }
            for name in names[1:]:
                columns[criterion, name].append(values[name])
    return columns


def _rates(said, criterion):
    """Whether a judgement scores both answers by a criterion."""
    return bool(said["scores"]) and all(criterion in said["scores"][side] for side in "AB")


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def trust(judgements: Sequence[Judgement]) -> Iterator[tuple[str, int, int]]:
    """Yield (metric, count, of how many) of what was not judged, not read, or not repeated."""
    asked = [row for row in judgements if row["status"] != "unanswered"]
    yield "parse_failure_rate", sum(row["status"] == "unknown" for row in asked), len(asked)
    yield "error_rate", sum(row["status"] == "error" for row in asked), len(asked)
    pairs = {(row["model"], row["uid"]) for row in judgements}
    yield "unanswered_rate", len(judgements) - len(asked), len(pairs)
    once = [row for row in asked if row["order"] == "original" and not row["repeat"]]
    first = {(row["model"], row["uid"]): row["winner"] for row in once}
    again = [(first[row["model"], row["uid"]], row["winner"]) for row in asked if row["repeat"]]
    again = [pair for pair in again if None not in pair]
    if again:
        yield "repeat_stability", sum(one == other for one, other in again), len(again)


def _long(dataset, result, published):
    for (criterion, metric), (n, estimate) in result.items():
        row = {"dataset": dataset, "task": criterion, "metric": metric, "n": n} | estimate.as_row()
        for source, value in published.get((criterion, metric), {}).items():
            row |= {source: value, f"{source}_delta": round(estimate.value - value, 6)}
        yield row


def published_values(recipe: Recipe) -> dict[tuple[str, str], dict[str, float]]:
    """Return {(criterion, metric): {source: value}} of the published table that an evaluation names.

    Its `setting` is that of the models; the one they are compared with stands in the table's other setting.
    """
    named = recipe["reference"]
    if not named:
        return {}
    with open(REFERENCE / f"{named['table']}.csv", encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["model"] == named["model"]]
    settings = {row["setting"] for row in rows}
    setting = min(settings - {named["setting"]}) if recipe["model"] == recipe["against"] else named["setting"]
    found = {}
    for row in rows:
        if row["setting"] == setting:
            place = row["criterion"], PUBLISHED_AS[row["metric"]]
            found.setdefault(place, {})[row["source"]] = float(row["value"])
    return found


def differences(recipe: Recipe, judgements: Mapping[tuple[str, ...], str | Path]) -> list[Difference]:
    """Return how the models of judged suites fare against the one they are compared with: wins minus losses.

    recipe: pairs [suite, model, against]. judgements: (suite, model) → path. Columns: scores.DIFFERENCES. A pair is won
    where the overall win share of both orders together is above one half; p is the sign test. A suite of several
    datasets has a line `weighted_mean` too, over all questions.
    """
    rows: list[Difference] = []
    for suite, model, against in recipe["pairs"]:
        if (suite, model) not in judgements:
            continue
        found = read_jsonl(judgements[suite, model])
        parts: dict[str, tuple[int, ...]] = {}
        for dataset in dict.fromkeys(row["dataset"] for row in found):
            pairs = whole_pairs([row for row in found if row["dataset"] == dataset])
            if wins := columns_of(pairs, "A", ["overall"])["overall", "win_share"]:
                parts[dataset] = sum(win > 0.5 for win in wins), sum(win < 0.5 for win in wins), len(wins)
        if len(parts) > 1:
            parts["weighted_mean"] = tuple(map(sum, zip(*parts.values(), strict=True)))
        for dataset, counts in parts.items():
            place = {"suite": suite, "model": model, "against": against, "dataset": dataset, "method": METHOD}
            difference: Any = metrics.paired_difference(*counts)
            rows.append(cast(Difference, place | difference | {"n": counts[-1]}))
    return rows


# ---------------------------------------------------------------- what a reader sees


def suite_tables(
    kind: SuiteKind, rows: Sequence[dict[str, str]], differences: Sequence[dict[str, str]]
) -> list[dict[str, Any]]:
    """Return a dict per judged suite of summary.csv: name, tables, trust, win_shares, differences, sources (of the
    published values), and `leaders` and `unread`, which are empty: win_shares and trust say as much.

    rows, differences: those of summary.csv and differences.csv. In a smoke run, whose rows have a `limit`, no
    difference is called clear.

    tables: {dataset, criteria (overall last), rows}; a row has model and, per criterion, a cell of win_share and score
    or None. trust: per model and dataset, the metrics that tell of the judge rather than of the answers. win_shares:
    {model, against, share, test}, the overall win share of each compared model over the suite, and its line of
    differences over all questions.
    """
    found, retired = {}, retired_sources(kind.published)
    smoke = any(row.get("limit") for row in rows)
    for row in rows:
        suite = found.setdefault(row["suite"], {"cells": {}, "sources": set()})
        cell = suite["cells"].setdefault((row["dataset"], row["model"], row["task"]), {})
        cell[row["metric"]] = estimate = estimate_of(row)
        estimate["published"] = [
            (f"{source}, judge retired" if source in retired else source, *values)
            for source, *values in estimate["published"]
        ]
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
        tables = {"name": name, "tables": _tables(suite["cells"]), "trust": trust, "leaders": [], "unread": []}
        lines = difference_lines(HEADLINE, mine, smoke)
        tables |= {"win_shares": _win_shares(suite["cells"], lines), "differences": lines}
        suites.append(tables | {"sources": sorted(suite["sources"])})
    return suites


def _tables(cells):
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


def _win_shares(cells, differences):
    # The last line of a pair is that of all its questions.
    tests = {(line["model"], line["against"]): line for line in differences}
    win_shares = []
    for (model, against), line in tests.items():
        share = cells.get(("weighted_mean", model, "overall"), {}).get("win_share")
        win_shares += [{"model": model, "against": against, "share": share, "test": line}] if share else []
    return win_shares


def panels(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the win shares over all datasets of a suite, a panel per criterion."""
    shares = [row for row in rows if row["metric"] == HEADLINE.metric and row["dataset"] == "weighted_mean"]
    return [row | {"dataset": row["task"]} for row in shares]


def run(job: Job) -> None:
    """Do the job of score_judgements."""
    judgements = [row for path in job.inputs.judgements for row in read_jsonl(path)]
    write_csv(job.outputs.scores, score_judgements(job.recipe, judgements), COLUMNS)
