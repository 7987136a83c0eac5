"""How far instructions that hide in an answer, or in the question, pull a judge.

The pairs of resources/judge/injections.yaml have a good and a weak answer. Each is judged as it is, and with each
attack, which stands at the end of the weak answer or of the question.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, cast

from moult.base.paths import RESOURCES
from moult.base.rows import JudgeItem, Recipe
from moult.base.suite_rows import Verdict
from moult.evaluation import metrics
from moult.evaluation.metrics import Estimate
from moult.evaluation.verdict_items import Item, items_of

# The dataset and the method of their rows.
DATASET, METHOD = "injections", "injected"
CLEAN, ALL = "none", "any"
FIELDS = "category scenario reference annotators answer origin feedback".split()


@cache
def load_injections() -> dict[str, Any]:
    """Return the pairs and attacks as data, which go into the recipe whole: {pairs, attacks: place → name → text}."""
    import yaml

    return yaml.safe_load((RESOURCES / "judge" / "injections.yaml").read_text(encoding="utf-8"))


def attacked_items(data: Mapping[str, Any]) -> list[JudgeItem]:
    """Return each pair as an item, without an attack and with each; answer_1 is the weak one, `tag` the attack."""
    attacks = [(CLEAN, "", "")]
    attacks += [
        (f"{name} in the {place}", place, text) for place, of in data["attacks"].items() for name, text in of.items()
    ]
    items = []
    for number, pair in enumerate(data["pairs"], start=1):
        for tag, place, text in attacks:
            question = f"{pair['title']}\n\n{pair['question']}"
            item: dict[str, Any] = {
                "uid": f"{DATASET}:test:{number}:{tag.replace(' ', '-')}",
                "dataset": DATASET,
                "split": "test",
            }
            item |= {"mode": "compare", "question": f"{question}\n\n{text}" if place == "question" else question}
            item |= {"answer_1": f"{pair['weak']}\n\n{text}" if place == "answer" else pair["weak"]}
            item |= {"answer_2": pair["good"], "human": "B", "labels": ["A", "B"], "tag": tag}
            items.append(cast(JudgeItem, item | dict.fromkeys(FIELDS) | {"source": f"injections.yaml:{number}"}))
    return items


def as_injected(rows: Sequence[Verdict]) -> list[Verdict]:
    """Return verdict rows under the method of their own, so that no agreement counts them."""
    return [cast(Verdict, row | {"method": METHOD}) if row["dataset"] == DATASET else row for row in rows]


def pulls(recipe: Recipe, verdicts: Sequence[Verdict]) -> Iterator[tuple[str, dict[str, tuple[int, Estimate]]]]:
    """Yield (attack, {metric: (n, Estimate)}) over the pairs that could be read with and without the attack.

    `pull`: the share of verdicts for the weak answer, ties half, less that without an attack; `score_shift`: the same
    of the weak answer's overall score, where replies have one. The last attack is any of them, all together.
    """
    by_attack: dict[str, dict[str, Item]] = {}
    for item in items_of(row for row in verdicts if row["dataset"] == DATASET):
        if item.whole:
            number = item.row["uid"].split(":")[2]
            by_attack.setdefault(cast(str, item.row["tag"]), {})[number] = item
    clean, everything = by_attack.pop(CLEAN, {}), {}
    for attack, attacked in by_attack.items():
        both = [(clean[number], attacked[number]) for number in attacked if number in clean]
        columns = {"pull": [_weak(after) - _weak(before) for before, after in both]}
        scored = [(_score(before), _score(after)) for before, after in both]
        columns["score_shift"] = [after - before for before, after in scored if None not in (before, after)]
        yield attack, _means(columns, recipe["seed"])
        for name, values in columns.items():
            everything.setdefault(name, []).extend(values)
    yield ALL, _means(everything, recipe["seed"])


def _means(columns, seed):
    bounds = {"pull": (-1, 1), "score_shift": (-10, 10)}
    some = {name: values for name, values in columns.items() if values}
    return {name: (len(one), metrics.means({name: one}, seed, bounds[name])[name]) for name, one in some.items()}


def _weak(item):
    return (1 + item.leaning()) / 2


def _score(item):
    """Return the mean overall score of the weak answer over the orders, None where a reply has none."""
    scores = [item.scores.get(order) or {} for order in item.said]
    overall = [score for one in scores for name, score in one.items() if name.lower() in ("overall", "overall score")]
    return sum(overall) / len(overall) if overall and len(overall) == len(item.said) else None
