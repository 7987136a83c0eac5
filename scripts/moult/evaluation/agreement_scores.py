"""Scores of judges: how far they agree with people, with themselves, and what moves them.

Verdicts are in the item's own order. A verdict that could not be read is in no score but in a rate; where somebody
published by another rule, that rule has a name of its own (docs/judges.md defines each metric).
"""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moult.base.files import read_jsonl, write_csv
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.base.suite_rows import Difference, Score, Verdict
from moult.evaluation import association, injections, metrics
from moult.evaluation.metrics import Estimate
from moult.evaluation.published import published_of_judge
from moult.evaluation.scores import COLUMNS
from moult.evaluation.verdict_items import SIGN, Item, items_of
from moult.evaluation.verdict_items import mean as average
from moult.inference.judge_requests import in_scale

# Raise when the same verdicts would now be scored otherwise.
VERSION = 1
COMPARE, GRADE, BY_GRADES = "compare", "grade", "by_grades"
# Columns of a verdict by which items are grouped.
GROUPS = ("category", "scenario", "tag")
# What is told of the grades of a group of items.
OF_GROUPS = ("agreement", "pearson")


def pair_metrics(items: Sequence[Item], seed: int, brief: bool = False) -> dict[str, tuple[int, Estimate]]:
    """Return metric → (n, Estimate) of pairs that a judge compared, without what is undefined; brief: the first few."""
    columns: dict[str, list[float]] = {}

    def mean(name, values):
        columns[name] = [float(value) for value in values]

    asked, whole = ([item for item in items if getattr(item, name)] for name in ("orders", "whole"))
    mean("agreement", (average(item.right()) for item in whole))
    both = [item for item in whole if len(item.orders) == 2]
    mean("agreement_both", (all(item.right()) for item in both))
    mean("consistency", (len(set(item.said.values())) == 1 for item in both))
    mean("vote", (item.vote() for item in asked))
    if brief:
        return metrics.counted_means(columns, seed, (0, 1))
    for order, name in (("original", "forward"), ("swapped", "swapped")):
        mean(f"agreement_{name}", (item.said[order] == item.human for item in items if order in item.said))
    mean("first_wins", (item.first_won() for item in whole))
    _published_rules(asked, mean)
    found = _lengths(whole, mean) | _rates(items) | _by_label(items, seed)
    found |= metrics.counted_means(columns, seed, (0, 1))
    people = [item.row["annotators"] for item in items]
    if people and all(people):
        between = association.between_people(cast(list[list[str]], people), seed)
        found |= {name: (len(people), estimate) for name, estimate in between.items()}
    return found


def _by_label(items, seed):
    """Precision, recall and F1 in the forward order; Cohen's kappa in each order and both.

    They are over the declared labels that people used: the same for all judges, and a perfect one has 1.
    """
    used = {item.human for item in items}
    labels = [label for label in ("A", "B", "Tie") if label in used]
    said = {order: [item for item in items if order in item.said] for order in ("original", "swapped")}
    found, forward = {}, said["original"]
    if forward:
        told = [item.said["original"] for item in forward]
        scored = metrics.label_metrics([item.human for item in forward], told, labels, seed)
        found |= {name: (len(forward), one) for name, one in scored.items() if name != "accuracy"}
    pooled = ([], [])
    for order, name in (("original", "kappa_forward"), ("swapped", "kappa_swapped")):
        truth, told = [item.human for item in said[order]], [item.said[order] for item in said[order]]
        found[name] = len(truth), association.kappa_of(truth, told, seed)
        pooled = pooled[0] + truth, pooled[1] + told
    found["kappa"] = len(pooled[0]), association.kappa_of(*pooled, seed)
    return {name: (n, estimate) for name, (n, estimate) in found.items() if estimate is not None}


def _published_rules(asked, mean):
    """LLMBar's rules: what was not read is wrong, and two that were not read are the same."""
    both = [item for item in asked if len(item.orders) == 2]
    mean("forward_of_all", (item.said.get("original") == item.human for item in asked))
    mean("swapped_of_all", (item.said.get("swapped") == item.human for item in both))
    mean("agreement_of_all", (sum(item.right()) / len(item.orders) for item in asked))
    mean("both_of_all", (sum(item.right()) == 2 for item in both))
    mean("consistency_of_all", (item.said.get("original") == item.said.get("swapped") for item in both))


def _rates(items):
    found = {}
    asked = sum(len(item.orders) for item in items)
    read = sum(len(item.said) for item in items)
    ties = sum(winner == "Tie" for item in items for winner in item.said.values())
    found["tie_rate"] = read, metrics.share(ties, read)
    found["tie_true_rate"] = len(items), metrics.share(sum(item.human == "Tie" for item in items), len(items))
    for status, name in (("unknown", "unread_rate"), ("error", "error_rate")):
        found[name] = asked, metrics.share(sum(item.status[status] for item in items), asked)
    found["unanswered_rate"] = len(items), metrics.share(sum(not item.orders for item in items), len(items))
    return found


def _lengths(whole, mean):
    """Agreement where the right answer is the longer and where it is the shorter one, in characters; the correlation of
    the verdict with the difference of lengths at equal human verdicts."""
    sized = [(item, item.row["lengths"][0] - item.row["lengths"][1]) for item in whole]
    for name, sign in (("agreement_longer", 1), ("agreement_shorter", -1)):
        mean(name, (average(item.right()) for item, longer in sized if SIGN[item.human] * longer * sign > 0))
    leanings, longer = [item.leaning() for item, _ in sized], [length for _, length in sized]
    correlation = association.partial_correlation(leanings, longer, [item.human for item in whole])
    return {"length_correlation": (len(sized), correlation)} if correlation else {}


def grade_metrics(rows: Sequence[Verdict], seed: int) -> dict[str, tuple[int, Estimate]]:
    """Return metric → (n, Estimate) of answers that a judge graded."""
    read = [row for row in rows if row["status"] == "ok"]
    given, human = [row["grade"] for row in read], [in_scale(row["human"], row["scale"]) for row in read]
    found = association.grade_metrics(cast(list[float], given), human, seed)
    if not all(0 <= cast(float, grade) <= 10 for grade in given):
        # The scores of a reward model are on no scale that people have.
        found = {name: one for name, one in found.items() if name not in ("mean_absolute_error", "quadratic_kappa")}
    told = {name: (len(read), estimate) for name, estimate in found.items()}
    asked = [row for row in rows if row["order"]]
    for status, name in (("unknown", "unread_rate"), ("error", "error_rate")):
        told[name] = len(asked), metrics.share(sum(row["status"] == status for row in asked), len(asked))
    told["unanswered_rate"] = len(rows), metrics.share(len(rows) - len(asked), len(rows))
    lengths = [row["lengths"][0] for row in read]
    if correlation := association.partial_correlation(cast(list[float], given), lengths, human):
        told["length_correlation"] = len(read), correlation
    return told


def score_verdicts(recipe: Recipe, verdicts: Sequence[Verdict]) -> list[Score]:
    """Return score rows (see scores.COLUMNS) of a judge: per dataset and method, of all items (task empty) and of each
    category, scenario and tag; then the plain and the weighted mean over the datasets.

    recipe: suite, model (the judge), datasets, published (dataset → its name in the table of published values, and the
    judge's), limit, seed. n is the number of items, or of verdicts where a rate is one of verdicts.
    """
    rows: list[dict[str, Any]] = []
    for method in (COMPARE, BY_GRADES, GRADE):
        scored = []
        for name in recipe["datasets"]:
            mine = [row for row in verdicts if row["dataset"] == name and row["method"] == method]
            if not mine:
                continue
            found = measured(method, mine, recipe["seed"])
            scored.append(found)
            rows += _long(name, "", method, found, recipe)
            for task, some in _grouped(mine):
                told = measured(method, some, recipe["seed"], brief=True)
                rows += _long(name, task, method, told, recipe)
        if scored:
            counts = [found["agreement"][0] for found in scored]
            results = [{metric: estimate for metric, (_, estimate) in found.items()} for found in scored]
            for mean, weights in (("mean", None), ("weighted_mean", counts if sum(counts) else None)):
                means = metrics.mean_of(results, weights)
                told = {metric: (sum(counts), estimate) for metric, estimate in means.items()}
                rows += _long(mean, "", method, told, recipe)
    if any(row["method"] == injections.METHOD for row in verdicts):
        for attack, found in injections.pulls(recipe, verdicts):
            rows += _long(injections.DATASET, f"attack: {attack}", injections.METHOD, found, recipe)
    shared = {"model": recipe["model"], "suite": recipe["suite"], "limit": recipe["limit"]}
    return cast(list[Score], [{column: (shared | row).get(column) for column in COLUMNS} for row in rows])


def measured(method: str, rows: Sequence[Verdict], seed: int, brief: bool = False) -> dict[str, tuple[int, Estimate]]:
    """Return metric → (n, Estimate) of a judge's verdicts on some items; brief: of a group of them. Where nothing was
    read, `agreement` may be any."""
    any_agreement = {"agreement": (0, Estimate(0.5, (0.0, 1.0)))}
    if method != GRADE:
        return any_agreement | pair_metrics(items_of(rows), seed, brief)
    found = grade_metrics(rows, seed)
    return any_agreement | {name: one for name, one in found.items() if not brief or name in OF_GROUPS}


def _grouped(rows):
    """Yield (name, rows) of each category, scenario and tag; none where there is but one."""
    for column in GROUPS:
        values = dict.fromkeys(row[column] for row in rows if row[column])
        for value in sorted(values):
            some = [row for row in rows if row[column] == value]
            if len(some) < len(rows):
                yield f"{column}: {value}", some


def _long(dataset, task, method, found, recipe):
    for metric, (n, estimate) in found.items():
        row = {"dataset": dataset, "task": task, "method": method, "metric": metric, "n": n} | estimate.as_row()
        published = published_of_judge(recipe["published"], dataset, task, metric, n)
        if published is not None and not recipe["limit"]:
            row |= {"paper": published, "paper_delta": round(estimate.value - published, 6)}
        yield row


def differences(recipe: Recipe, verdicts: Mapping[tuple[str, ...], str | Path]) -> list[Difference]:
    """Return how judges fare against the one that their evaluation names, by item: right in all that was asked, or, of
    grades, nearer to people's.

    recipe: pairs [suite, judge, against]. verdicts: (suite, judge) → path. Items that one of the two did not answer are
    left out. A suite of several datasets has a line `weighted_mean` too, over all items.
    """
    rows: list[Difference] = []
    for suite, judge, against in recipe["pairs"]:
        if (suite, judge) not in verdicts or (suite, against) not in verdicts:
            continue
        ours, theirs = (_outcomes(read_jsonl(verdicts[suite, name])) for name in (judge, against))
        both = [key for key in ours if key in theirs]
        for method in dict.fromkeys(key[2] for key in both):
            of_method = [key for key in both if key[2] == method]
            names = dict.fromkeys(key[1] for key in of_method)
            parts = {name: [key for key in of_method if key[1] == name] for name in names}
            if len(parts) > 1:
                parts["weighted_mean"] = of_method
            for dataset, keys in parts.items():
                # The smaller error wins; of verdicts that is the right one.
                wins, losses = (sum(one(ours[key], theirs[key]) for key in keys) for one in (operator.lt, operator.gt))
                place = {"suite": suite, "model": judge, "against": against, "dataset": dataset, "method": method}
                told: Any = metrics.paired_difference(wins, losses, len(keys))
                rows.append(cast(Difference, place | told | {"n": len(keys)}))
    return rows


def _outcomes(rows):
    """Return (uid, dataset, method) → how wrong a judge was: 0 or 1 of a pair, the absolute error of a grade."""
    rows, found = list(rows), {}
    for item in items_of(row for row in rows if row["method"] in (COMPARE, BY_GRADES)):
        if item.whole:
            found[item.row["uid"], item.row["dataset"], item.row["method"]] = float(not all(item.right()))
    for row in rows:
        if row["method"] == GRADE and row["status"] == "ok":
            error = abs(row["grade"] - in_scale(row["human"], row["scale"]))
            found[row["uid"], row["dataset"], GRADE] = error
    return found


def run(job: Job) -> None:
    """Do the job of score_judges."""
    write_csv(job.outputs.scores, score_verdicts(job.recipe, list(read_jsonl(job.inputs.verdicts))), COLUMNS)
