"""Scores of battles: what each of the three kinds of suite measures of a model, and how far two models differ."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from moult.base.errors import UserError
from moult.base.files import read_jsonl, write_csv
from moult.base.rows import Battle, Difference, Recipe, Score
from moult.base.stage import Job
from moult.evaluation import metrics
from moult.evaluation.head_to_head.estimates import (
    Linear,
    bridged,
    difference,
    over_battles,
    over_questions,
    weighted_mean,
)
from moult.evaluation.head_to_head.length_control import Compared, difficulties_of, length_controlled
from moult.evaluation.metrics import Estimate
from moult.evaluation.published import published_battles
from moult.evaluation.scores import COLUMNS

# Raise when the same battles would now be scored otherwise.
VERSION = 1
ASKED, PUBLISHED, BRIDGED = "asked", "published", "bridged"
# More categories than this are no groups that anybody reads.
MOST_PARTS = 20
# Metric → (how many questions, the estimate).
Measured = dict[str, tuple[int, Estimate]]


@dataclass(frozen=True)
class Measure:
    """How a kind of suite scores battles: `bounds` of its headline, the values of linear metrics, and all metrics."""

    headline: str
    bounds: tuple[float, float]
    # Readable battles → metric → Linear: what a bridge moves and differences are taken of, the headline first.
    linear: Callable[[Sequence[Battle]], dict[str, Linear]]
    # Readable battles, seed → metric → (n, Estimate).
    measured: Callable[[Sequence[Battle], int], Measured]


def read_ones(battles: Sequence[Battle]) -> list[Battle]:
    """Return the battles that could be read."""
    return [row for row in battles if row["status"] == "ok"]


# ---------------------------------------------------------------- alpaca


def compared(battles: Sequence[Battle]) -> list[Compared]:
    """Return each instruction once, with the mean preference over its orders, from 0 to 1."""
    found: dict[str, list[Battle]] = {}
    for row in battles:
        found.setdefault(row["uid"], []).append(row)
    return [
        Compared(
            uid,
            cast(Any, tuple(rows[0]["lengths"] or ())),
            sum(cast(float, row["value"]) - 1 for row in rows) / len(rows),
        )
        for uid, rows in found.items()
    ]


def _alpaca_linear(battles):
    rows = compared(battles)
    controlled, _ = length_controlled(rows, difficulties_of(rows))
    return {"length_controlled_win_rate": controlled, "win_rate": weighted_mean(_said(rows))}


def _said(rows):
    return [(row.question, row.preference, 1.0) for row in rows]


def _alpaca(battles, seed):
    """Win rate, its standard error, discrete win rate, and the length-controlled win rate (see `length_control`)."""
    rows = compared(battles)
    n, preferences, difficulties = len(rows), [row.preference for row in rows], difficulties_of(rows)
    controlled, finite = length_controlled(rows, difficulties)
    mean = sum(preferences) / n
    spread = sum((one - mean) ** 2 for one in preferences) / (n - 1) if n > 1 else 0.0
    halves = [(one > 0.5) + (one == 0.5) / 2 for one in preferences]
    found = {
        "length_controlled_win_rate": controlled.estimate((0, 1)),
        "win_rate": over_questions(_said(rows), seed, (0, 1)),
        "standard_error": Estimate((spread / n) ** 0.5, None),
        "discrete_win_rate": metrics.means({"": halves}, seed, (0, 1))[""],
        "mean_length": Estimate(sum(row.lengths[1] for row in rows) / n, None),
        "baseline_length": Estimate(sum(row.lengths[0] for row in rows) / n, None),
        "difficulties_known": Estimate(float(difficulties is not None), None),
        "fit_is_finite": Estimate(float(finite), None),
    }
    return {name: (n, estimate) for name, estimate in found.items()}


# ---------------------------------------------------------------- arena


def _weighed(battles, games=None):
    return [
        (row["uid"], cast(float, row["value"]), row["weight"])
        for row in battles
        if games is None or row["game"] in games
    ]


def _arena(battles, seed):
    """The win rate, which is Bradley and Terry's where all battles are against one baseline: Σ weight · outcome ⁄
    Σ weight. Its interval over questions, and beside it the published kind over battles."""
    said, n = _weighed(battles), len({row["uid"] for row in battles})
    found = {"win_rate": over_questions(said, seed, (0, 1)), "win_rate_by_battles": over_battles(said, seed)}
    found["tie_rate"] = metrics.share(sum(row["value"] == 0.5 for row in battles), len(battles))
    return {name: (n, estimate) for name, estimate in found.items()}


# ---------------------------------------------------------------- mt


def _turns(battles):
    """Return metric → what was said: of all turns, and of each. A turn that was judged twice counts twice, as in the
    published code."""
    columns = {"score": _weighed(battles)}
    columns |= {game: _weighed(battles, (game,)) for game in ("turn_1", "turn_2")}
    return {name: said for name, said in columns.items() if said}


def _mt(battles, seed):
    found = {
        name: (len({uid for uid, *_ in said}), over_questions(said, seed, (1, 10)))
        for name, said in _turns(battles).items()
    }
    times = Counter((row["uid"], row["game"]) for row in battles)
    return found | {"judged_twice": (len(times), Estimate(sum(one > 1 for one in times.values()), None))}


MEASURES = {
    "alpaca": Measure("length_controlled_win_rate", (0, 1), _alpaca_linear, _alpaca),
    "arena": Measure("win_rate", (0, 1), lambda battles: {"win_rate": weighted_mean(_weighed(battles))}, _arena),
    "mt": Measure(
        "score",
        (1, 10),
        lambda battles: {name: weighted_mean(said) for name, said in _turns(battles).items()},
        _mt,
    ),
}


# ---------------------------------------------------------------- rows


def method_of(kind: str, source: str) -> str:
    """Return the method of a score row: the kind, and whose judgements they are where nobody was asked for them."""
    return kind if source == ASKED else f"{kind}_{source}"


def score_battles(
    recipe: Recipe, battles: Sequence[Battle], known: Mapping[str, Sequence[Battle]] | None = None
) -> list[Score]:
    """Return score rows (see COLUMNS) of one model: of what the judge that was asked said, of published judgements,
    and, where there are models that both have judged, of the first on the scale of the second.

    recipe: suite, model, kind, published (its name in wrpo.csv, or None), limit, seed. known: model → battles of those
    that were judged both ways (see `estimates.bridged`).
    """
    measure, lines = MEASURES[recipe["kind"]], []
    for source in (ASKED, PUBLISHED):
        mine = [row for row in battles if row["source"] == source]
        if not mine:
            continue
        readable = read_ones(mine)
        if not readable:
            reasons = Counter(str(row["reason"]) for row in mine).most_common(1)[0][0]
            raise UserError(
                f"{recipe['model']} under {recipe['suite']}: none of {len(mine)} judgements could be read, the first "
                f"reason is: {reasons}; mend it and run again."
            )
        rates = {
            f"{status}_rate": (len(mine), metrics.share(sum(row["status"] == status for row in mine), len(mine)))
            for status in ("unknown", "error", "unanswered")
        }
        lines += _lines(recipe, source, measure.measured(readable, recipe["seed"]) | rates)
        lines += _by_part(recipe, source, measure, readable)
        if source == ASKED and known:
            lines += _lines(recipe, BRIDGED, _bridged(measure, readable, known))
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


def _by_part(recipe, source, measure, battles):
    parts = dict.fromkeys(row["part"] for row in battles)
    if not 1 < len(parts) <= MOST_PARTS or None in parts:
        return []
    lines = []
    for part in parts:
        of_part = [row for row in battles if row["part"] == part]
        # Of few instructions a fit says nothing.
        names = [name for name in measure.linear(of_part) if name != "length_controlled_win_rate"]
        measured = measure.measured(of_part, recipe["seed"])
        lines += _lines(recipe, source, {name: measured[name] for name in names}, f"category: {part}")
    return lines


def _bridged(measure, battles, known):
    pairs = []
    for rows in known.values():
        readable = read_ones(rows)
        sides = [[row for row in readable if row["source"] == source] for source in (ASKED, PUBLISHED)]
        both = set.intersection(*({_item(row) for row in side} for side in sides))
        if both:
            pairs.append([measure.linear([row for row in side if _item(row) in both]) for side in sides])
    n, found = len({row["uid"] for row in battles}), {}
    for name, ours in measure.linear(battles).items():
        if same := [(home[name], other[name]) for home, other in pairs if name in home and name in other]:
            found[name] = n, bridged(ours, same).estimate(measure.bounds)
    return found


def _item(row):
    """What two judges judge alike: a question, whatever the order, or one turn of it."""
    return row["uid"], row["game"] if row["game"].startswith("turn") else None


def differences(kind: str, recipe: Recipe, paths: Mapping[tuple[str, ...], Any]) -> list[Difference]:
    """Return the differences in the headline metric of a kind's pairs of models, over the questions that both were
    judged on, with the normal test over questions.

    recipe: `pairs`, of tabulate_scores. paths: (suite, name) → path of its battles.
    """
    measure, rows = MEASURES[kind], []
    for suite, model, against in recipe["pairs"]:
        if not {(suite, model), (suite, against)} <= paths.keys():
            continue
        sides = [read_ones(read_jsonl(paths[suite, name])) for name in (model, against)]
        for source in (ASKED, PUBLISHED):
            mine = [[row for row in side if row["source"] == source] for side in sides]
            both = {row["uid"] for row in mine[0]} & {row["uid"] for row in mine[1]}
            if not both:
                continue
            one, other = (
                measure.linear([row for row in side if row["uid"] in both])[measure.headline] for side in mine
            )
            estimate, p = difference(one, other)
            low, high = estimate.interval or (estimate.value, estimate.value)
            place = {"suite": suite, "model": model, "against": against, "dataset": kind}
            place |= {"method": method_of(kind, source), "difference": round(estimate.value, 6)}
            place |= {"ci_low": round(low, 6), "ci_high": round(high, 6), "p_mcnemar": round(p, 6), "n": len(both)}
            rows.append(cast(Difference, place))
    return rows


def run(job: Job) -> None:
    """Do the job of score_battles."""
    known = {str(path): read_jsonl(path) for path in job.inputs.get("known", [])}
    write_csv(job.outputs.scores, score_battles(job.recipe, list(read_jsonl(job.inputs.battles)), known), COLUMNS)
