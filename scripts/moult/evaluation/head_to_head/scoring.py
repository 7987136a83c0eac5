"""Scores of battles: what a kind of head-to-head suite measures of a model, and how far two models differ."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from moult.base.files import read_jsonl, write_csv
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.base.suite_rows import Battle, Difference, Score
from moult.evaluation import metrics
from moult.evaluation.head_to_head.benchmarks import BENCHMARKS
from moult.evaluation.head_to_head.estimates import bridged, difference
from moult.evaluation.metrics import Estimate
from moult.evaluation.published import published_battles
from moult.evaluation.scores import COLUMNS

# Raise when the same battles would now be scored otherwise.
VERSION = 1
ASKED, PUBLISHED, BRIDGED = "asked", "published", "bridged"
# More categories than this are no groups that anybody reads.
MOST_PARTS = 20


def read_ones(battles: Sequence[Battle]) -> list[Battle]:
    """Return the battles that could be read."""
    return [row for row in battles if row["status"] == "ok"]


def method_of(kind: str, source: str) -> str:
    """Return the method of a score row: the kind, and whose judgements they are."""
    return f"{kind}_{source}"


def score_battles(
    recipe: Recipe, battles: Sequence[Battle], known: Mapping[str, Sequence[Battle]] | None = None
) -> list[Score]:
    """Return score rows (see COLUMNS) of one model: of what the judge that was asked said, of published judgements,
    and, where there are models that both have judged, of the first on the scale of the second.

    recipe: suite, model, kind, published (its name in wrpo.csv, or None), limit, seed. known: model → battles of those
    that were judged both ways (see `estimates.bridged`).
    """
    benchmark, lines = BENCHMARKS[recipe["kind"]], []
    for source in (ASKED, PUBLISHED):
        mine = [row for row in battles if row["source"] == source]
        if not mine:
            continue
        readable = read_ones(mine)
        rates = {
            f"{status}_rate": (len(mine), metrics.share(sum(row["status"] == status for row in mine), len(mine)))
            for status in ("unknown", "error", "unanswered")
        }
        if not readable:
            # As where nobody was asked: any value is as likely.
            nothing = Estimate(benchmark.bounds[0], benchmark.bounds)
            lines += _lines(recipe, source, {benchmark.headline.metric: (0, nothing)} | rates)
            continue
        lines += _lines(recipe, source, benchmark.measured(readable, recipe["seed"]) | rates)
        lines += _by_part(recipe, source, benchmark, readable)
        if source == ASKED and known:
            lines += _lines(recipe, BRIDGED, _bridged(benchmark, readable, known))
    return lines


def _lines(recipe, source, measured, task=""):
    shared = {"model": recipe["model"], "suite": recipe["suite"], "task": task}
    shared |= {"method": method_of(recipe["kind"], source), "limit": recipe["limit"]}
    # A set of questions is one dataset: its means are itself.
    datasets = [recipe["kind"]] if task else [recipe["kind"], "mean", "weighted_mean"]
    lines = []
    for dataset in datasets:
        for metric, (n, estimate) in measured.items():
            line = shared | {"dataset": dataset, "metric": metric, "n": n} | estimate.as_row()
            value = None if task or recipe["limit"] else published_battles(recipe["published"], recipe["kind"], metric)
            if value is not None:
                line |= {"paper": value, "paper_delta": round(line["value"] - value, 6)}
            lines.append(cast(Score, {column: line.get(column) for column in COLUMNS}))
    return lines


def _by_part(recipe, source, benchmark, battles):
    parts = dict.fromkeys(row["part"] for row in battles)
    if not 1 < len(parts) <= MOST_PARTS or None in parts:
        return []
    lines = []
    for part in parts:
        of_part = [row for row in battles if row["part"] == part]
        measured = benchmark.measured(of_part, recipe["seed"])
        chosen = {name: measured[name] for name in benchmark.by_part if name in measured}
        lines += _lines(recipe, source, chosen, f"category: {part}")
    return lines


def _bridged(benchmark, battles, known):
    pairs = []
    for rows in known.values():
        readable = read_ones(rows)
        sides = [[row for row in readable if row["source"] == source] for source in (ASKED, PUBLISHED)]
        both = set.intersection(*({_item(row) for row in side} for side in sides))
        if both:
            pairs.append([benchmark.linear([row for row in side if _item(row) in both]) for side in sides])
    n, found = len({row["uid"] for row in battles}), {}
    for name, ours in benchmark.linear(battles).items():
        if same := [(home[name], other[name]) for home, other in pairs if name in home and name in other]:
            found[name] = n, bridged(ours, same).estimate(benchmark.bounds)
    return found


def _item(row):
    """What two judges judge alike: a question, whatever the order, or one turn of it."""
    return row["uid"], row["game"] if row["game"].startswith("turn") else None


def differences(kind: str, recipe: Recipe, paths: Mapping[tuple[str, ...], Any]) -> list[Difference]:
    """Return the differences in the headline metric of a kind's pairs of models, over the questions that both were
    judged on, with the normal test over questions.

    recipe: `pairs`, of tabulate_scores. paths: (suite, name) → path of its battles.
    """
    benchmark, rows = BENCHMARKS[kind], []
    for suite, model, against in recipe["pairs"]:
        if not {(suite, model), (suite, against)} <= paths.keys():
            continue
        sides = [read_ones(read_jsonl(paths[suite, name])) for name in (model, against)]
        sides = [[row for row in side if row["kind"] == kind] for side in sides]
        for source in (ASKED, PUBLISHED):
            mine = [[row for row in side if row["source"] == source] for side in sides]
            both = {row["uid"] for row in mine[0]} & {row["uid"] for row in mine[1]}
            if not both:
                continue
            mine = [[row for row in side if row["uid"] in both] for side in mine]
            values = [benchmark.linear(side)[benchmark.headline.metric] for side in mine]
            if not all(value.influence for value in values):
                # A limit that a fit tends to has no error to test by.
                continue
            estimate, p = difference(values[0], values[1], len(both), benchmark.bounds)
            low, high = cast(tuple[float, float], estimate.interval)
            place = {"suite": suite, "model": model, "against": against, "dataset": kind}
            place |= {"method": method_of(kind, source), "difference": round(estimate.value, 6)}
            place |= {"ci_low": round(low, 6), "ci_high": round(high, 6), "p_mcnemar": round(p, 6), "n": len(both)}
            rows.append(cast(Difference, place))
    return rows


def run(job: Job) -> None:
    """Do the job of score_battles."""
    known = {str(path): read_jsonl(path) for path in job.inputs.get("known", [])}
    write_csv(job.outputs.scores, score_battles(job.recipe, list(read_jsonl(job.inputs.battles)), known), COLUMNS)
