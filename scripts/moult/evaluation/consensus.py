"""How judges of the same answers agree: the same winners, kappa, the ranks of models, and the pairs that part them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moult.base.files import read_jsonl, write_json
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.base.suite_rows import Judgement
from moult.data.questions import question_rows
from moult.evaluation import association, metrics
from moult.evaluation.judging import ORDERS, answers_of
from moult.evaluation.pairwise import TRUST, columns_of, counted, trust, whole_pairs
from moult.evaluation.verdict_items import SIGN

if TYPE_CHECKING:
    import numpy as np

# Raise when the same judgements would now be compared otherwise.
VERSION = 1
# Pairs on which two judges differ most, as the report shows them.
SHOWN = 10
LABELS = ("A", "B", "Tie")
# What the report shows of a reply.
OF_REPLY = ("order", "winner", "scores", "justification")


def consensus(recipe: Recipe, said: Mapping[str, Sequence[Judgement]]) -> dict[str, Any]:
    """Return how judges agree: `judges`, how far each can be trusted, and `pairs`, how each two of them agree.

    recipe: models, against, seed. said: judge → its judgements of all models, in the original order of each pair. All
    is over pairs of answers that both judges read in both orders.

    An entry of `pairs` has judges; n (pairs of answers) and questions; `same_winner`, the share of replies to the same
    order that name the same winner, each question counting the same, and `kappa`, Cohen's of these replies; `ranks`,
    Spearman's correlation of the win shares of all models, that which they are compared with at one half; `shares`
    (model, n, a win share per judge); and `differing` (see `_differing`). Intervals are of a bootstrap over questions.
    """
    whole = {judge: whole_pairs(rows) for judge, rows in said.items()}
    return {
        "judges": [{"name": judge} | _trusted(whole[judge], said[judge], recipe["seed"]) for judge in said],
        "pairs": [_agreement(recipe, two, *(whole[judge] for judge in two)) for two in itertools.combinations(said, 2)],
    }


def _trusted(whole, rows, seed):
    found = counted(columns_of(whole, "A", ["overall"]), seed)
    told = {metric: _told(n, estimate) for (_, metric), (n, estimate) in found.items()}
    return (
        dict.fromkeys(TRUST) | told | {metric: _told(of, metrics.share(count, of)) for metric, count, of in trust(rows)}
    )


def _told(n, estimate):
    if estimate is None:
        return None
    row = estimate.as_row()
    return {"value": row["value"], "low": row["ci_low"], "high": row["ci_high"], "n": n}


def _agreement(recipe, judges, first, second):
    import numpy as np

    both = [key for key in first if key in second]
    questions = list(dict.fromkeys(uid for _, uid in both))
    place = {uid: number for number, uid in enumerate(questions)}
    # Per question how often the first judge said one thing and the second another, in the same order.
    tables = np.zeros((len(questions), len(LABELS), len(LABELS)))
    for key in both:
        for order in ORDERS:
            said = (LABELS.index(pairs[key][order]["winner"]) for pairs in (first, second))
            tables[place[key[1]], *said] += 1
    shares = []
    for model in recipe["models"]:
        if mine := [key for key in both if key[0] == model]:
            of_each = [_win_share(mine, pairs, recipe["seed"]) for pairs in (first, second)]
            shares.append({"model": model, "n": len(mine), "shares": of_each})
    found = {"judges": list(judges), "n": len(both), "questions": len(questions), "shares": shares}
    found |= {"same_winner": None, "kappa": None, "ranks": None}
    if questions:
        n = len(questions)
        draws = np.random.default_rng(recipe["seed"]).multinomial(n, np.full(n, 1 / n), size=metrics.RESAMPLES)
        counts = np.vstack([np.ones(n), draws])
        drawn = (counts @ tables.reshape(n, -1)).reshape(-1, len(LABELS), len(LABELS))
        same = np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2))
        ranks = _rank_correlation(recipe["models"], both, place, counts, first, second)
        replies = int(tables.sum())
        found["same_winner"] = _told(replies, metrics.means({"same": same.tolist()}, recipe["seed"], (0, 1))["same"])
        found["kappa"] = _told(replies, _estimate(association.kappa(drawn)))
        found["ranks"] = _told(len(shares) + 1, _estimate(ranks))
    return found | {"differing": _differing(both, first, second)}


def _estimate(values: np.ndarray) -> metrics.Estimate | None:
    """Return an Estimate of [value, draws…], None where the value is undefined; an undefined draw counts as 0."""
    import numpy as np

    if not np.isfinite(values[0]):
        return None
    return association.from_draws(values[0], np.where(np.isfinite(values[1:]), values[1:], 0.0))


def _win_share(keys, pairs, seed):
    columns = columns_of({key: pairs[key] for key in keys}, "A", ["overall"])["overall", "win_share"]
    return _told(len(columns), metrics.means({"share": columns}, seed, (0, 1))["share"])


def _rank_correlation(models, both, place, counts, first, second):
    """Return per row of counts (draws, questions) Spearman's correlation of two judges' win shares over the models and
    what they are compared with; NaN where it is undefined."""
    import numpy as np

    shares = []
    for pairs in (first, second):
        by_model = [np.full(len(counts), 0.5)]
        for model in models:
            won, judged = np.zeros(len(place)), np.zeros(len(place))
            for key in both:
                if key[0] == model:
                    won[place[key[1]]] += 0.5 + 0.5 * leaning(pairs[key])
                    judged[place[key[1]]] += 1
            if judged.any():
                with np.errstate(invalid="ignore"):
                    by_model.append((counts @ won) / (counts @ judged))
        shares.append(np.stack(by_model, axis=1))
    ones = np.ones((1, shares[0].shape[1]))
    found = [association.spearman(x, y, ones)[0] for x, y in zip(*(np.round(one, 12) for one in shares), strict=True)]
    return np.array(found)


def leaning(orders: Mapping[str, Any]) -> float:
    """Return −1 to 1: how far a judge leans to A in both orders of a pair."""
    return sum(SIGN[orders[order]["winner"]] for order in ORDERS) / len(ORDERS)


def _lead(orders):
    """By how much A's overall score is above B's, in both orders together; 0 where a judge gives no scores."""
    scores = [orders[order]["scores"] or {} for order in ORDERS]
    sides = [[one.get(side, {}).get("overall") for side in "AB"] for one in scores]
    return math.fsum(ours - theirs for ours, theirs in sides if None not in (ours, theirs)) / len(ORDERS)


def _differing(both, first, second):
    """Return the pairs on which two judges differ most: by how far they lean apart, then by their overall scores.

    An entry has uid, model, against, and `said`: per judge a winner per order, and what it gave as its reason.
    """
    apart = {}
    for key in both:
        distance = abs(leaning(first[key]) - leaning(second[key]))
        if distance:
            apart[key] = (-distance, -abs(_lead(first[key]) - _lead(second[key])), key)
    found = []
    for key in sorted(apart, key=lambda key: apart[key])[:SHOWN]:
        one = first[key]["original"]
        said = [[{name: pairs[key][order][name] for name in OF_REPLY} for order in ORDERS] for pairs in (first, second)]
        found.append({name: one[name] for name in ("uid", "model", "against")} | {"said": said})
    return found


def run(job: Job) -> None:
    """Do the job of compare_judges."""
    recipe, inputs = job.recipe, job.inputs
    by_first, *further = recipe["judges"]
    files = {(by_first, model): path for model, path in zip(recipe["models"], inputs.judgements, strict=True)}
    others = ((judge, model) for model in recipe["models"] for judge in further)
    files |= dict(zip(others, inputs.opinions, strict=True))
    said = {
        judge: [row for model in recipe["models"] for row in read_jsonl(files[judge, model])]
        for judge in recipe["judges"]
    }
    found = consensus(recipe, said)
    names = [*recipe["models"], recipe["against"]]
    answers = {name: answers_of(read_jsonl(path)) for name, path in zip(names, inputs.answers, strict=True)}
    questions = {row["uid"]: row for folder in inputs.datasets for row in question_rows(folder, [recipe["split"]])}
    for one in (item for pair in found["pairs"] for item in pair["differing"]):
        asked = questions[one["uid"]]
        one["question"] = "\n\n".join(filter(None, (asked["title"], asked["question"])))
        one["answers"] = {side: answers[one[name]][one["uid"]][0] for side, name in (("A", "model"), ("B", "against"))}
    write_json(job.outputs.consensus, found)
    job.facts = {"pairs": [pair["n"] for pair in found["pairs"]]}
