"""How two judges of the same answers agree, against plain counts, scikit-learn and scipy."""

import random

import pytest
from moult.evaluation.consensus import SHOWN, consensus
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

RECIPE = {"models": ["m1", "m2", "m3"], "against": "base", "seed": 4}
ORDERS = ("original", "swapped")


def said(uid, order, winner, model="m1", status="ok", scores=None, repeat=0):
    place = {"uid": uid, "dataset": "q", "model": model, "against": "base", "order": order, "repeat": repeat}
    return place | {"status": status, "winner": winner, "scores": scores, "justification": f"{winner} it is"}


def at_random(seed, n=30, models=RECIPE["models"]):
    chance = random.Random(seed)
    return [
        said(f"q:{number}", order, chance.choices(["A", "B", "Tie"], [4 - place, 2, 1])[0], model)
        for place, model in enumerate(models)
        for number in range(n)
        for order in ORDERS
    ]


def compared(first, second, **recipe):
    found = consensus(RECIPE | recipe, {"one": first, "other": second})
    (pair,) = found["pairs"]
    return pair


def test_the_figures_are_those_of_others():
    first, second = at_random(1), at_random(2)
    pair = compared(first, second)
    ours, theirs = ([row["winner"] for row in rows] for rows in (first, second))
    assert pair["same_winner"]["value"] == pytest.approx(
        sum(one == other for one, other in zip(ours, theirs, strict=True)) / len(ours), abs=1e-6
    )
    assert pair["kappa"]["value"] == pytest.approx(cohen_kappa_score(ours, theirs), abs=1e-6)
    assert (pair["n"], pair["questions"], pair["kappa"]["n"]) == (90, 30, 180)
    shares = [[line["shares"][judge]["value"] for line in pair["shares"]] + [0.5] for judge in (0, 1)]
    worth = {"A": 1, "Tie": 0.5, "B": 0}
    assert shares[0][1] == pytest.approx(sum(worth[row["winner"]] for row in first if row["model"] == "m2") / 60)
    assert pair["ranks"]["value"] == pytest.approx(spearmanr(*shares).statistic, abs=1e-6)
    for name in ("same_winner", "kappa", "ranks"):
        assert pair[name]["low"] <= pair[name]["value"] <= pair[name]["high"]


def test_a_judge_agrees_with_itself_and_not_with_its_opposite():
    first = at_random(3)
    pair = compared(first, first)
    assert [pair[name]["value"] for name in ("same_winner", "kappa", "ranks")] == [1, 1, 1] and not pair["differing"]
    other = {"A": "B", "B": "A", "Tie": "Tie"}
    pair = compared(first, [row | {"winner": other[row["winner"]]} for row in first])
    assert pair["ranks"]["value"] == -1 and len(pair["differing"]) == SHOWN


def test_only_pairs_that_both_read_in_both_orders_count():
    first = [said("q:1", order, "A") for order in ORDERS] + [said("q:2", order, "A") for order in ORDERS]
    second = [said("q:1", "original", "A"), said("q:1", "swapped", None, status="unknown")]
    second += [said("q:2", order, "B") for order in ORDERS] + [said("q:2", "original", "A", repeat=1)]
    found = consensus(RECIPE | {"models": ["m1"]}, {"one": first, "other": second})
    (pair,) = found["pairs"]
    assert (pair["n"], pair["same_winner"]["value"], pair["kappa"]["value"]) == (1, 0, 0)
    assert [one["uid"] for one in pair["differing"]] == ["q:2"]
    assert [judge["parse_failure_rate"]["value"] for judge in found["judges"]] == [0, 0.2]


def test_nothing_in_common_is_no_figure():
    pair = compared([said("q:1", "original", None, status="error")], [said("q:1", order, "A") for order in ORDERS])
    assert (pair["n"], pair["same_winner"], pair["kappa"], pair["ranks"], pair["differing"]) == (
        0,
        None,
        None,
        None,
        [],
    )


def test_the_pairs_that_part_judges_most_come_first():
    def scored(ours, theirs):
        return {"A": {"overall": ours}, "B": {"overall": theirs}}

    told = {
        "apart": (("A", "A"), ("B", "B"), None, None),
        "further": (("A", "A"), ("B", "B"), scored(10, 1), scored(1, 10)),
        "half": (("A", "A"), ("A", "B"), None, None),
        "same": (("B", "B"), ("B", "B"), scored(1, 2), scored(1, 9)),
    }
    first, second = [], []
    for uid, (ours, theirs, one, other) in told.items():
        first += [said(uid, order, winner, scores=one) for order, winner in zip(ORDERS, ours, strict=True)]
        second += [said(uid, order, winner, scores=other) for order, winner in zip(ORDERS, theirs, strict=True)]
    found = compared(first, second, models=["m1"])["differing"]
    assert [one["uid"] for one in found] == ["further", "apart", "half"]
    assert [reply["winner"] for reply in found[2]["said"][1]] == ["A", "B"]


def test_of_three_judges_each_two_are_compared():
    judges = {name: at_random(seed, n=4) for seed, name in enumerate("abc")}
    found = consensus(RECIPE, judges)
    assert [pair["judges"] for pair in found["pairs"]] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert [judge["name"] for judge in found["judges"]] == ["a", "b", "c"]
