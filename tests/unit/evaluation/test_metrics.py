"""Metrics agree with scikit-learn to the last digit, intervals and tests with scipy, and few rows leave a width."""

import itertools
import os
import random

import pytest
from moult.evaluation import metrics

LABELS = ["a", "b", "c", "never"]


def predictions(seed, n=200):
    rng = random.Random(seed)
    gold = [rng.choice(LABELS[:3]) for _ in range(n)]
    pred = [rng.choice([truth, *LABELS[:3], None]) for truth in gold]
    return gold, pred


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    gold, pred = predictions(seed)
    found = metrics.label_metrics(gold, pred, LABELS, seed)
    filled = ["unread" if label is None else label for label in pred]
    assert found["accuracy"].value == pytest.approx(accuracy_score(gold, filled), abs=1e-12)
    for average in ("macro", "weighted"):
        expected = precision_recall_fscore_support(gold, filled, labels=LABELS, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert found[f"{average}_{name}"].value == pytest.approx(value, abs=1e-12)
    # Without labels= scikit-learn takes those that occur; an answer that was not read is none of them.
    occurring = sorted(set(gold) | set(pred) - {None})
    expected = precision_recall_fscore_support(gold, filled, labels=occurring, average="macro", zero_division=0)
    for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
        assert found[f"macro_{name}_occurring"].value == pytest.approx(value, abs=1e-12)


def test_a_label_that_no_row_has_lowers_the_one_macro_average_and_not_the_other():
    found = metrics.label_metrics(["a", "b", "c"], ["a", "b", "c"], LABELS, 0)
    assert found["macro_f1"].value == 0.75 and found["macro_f1_occurring"].value == 1
    # Predicted, it does occur.
    found = metrics.label_metrics(["a", "b", "c"], ["a", "b", "never"], LABELS, 0)
    assert found["macro_f1"].value == found["macro_f1_occurring"].value == 0.5


@pytest.mark.parametrize("name", ["right", "wrong", "one right", "one wrong", "unread", "mixed"])
def test_no_interval_of_few_rows_has_zero_width(name):
    chance = random.Random(name)
    for labels, n in itertools.product((LABELS[:2], LABELS, [str(i) for i in range(40)]), (1, 3, 18)):
        given = labels[:1] * n if name.startswith("one") else [labels[i % len(labels)] for i in range(n)]
        answers = {"wrong": [labels[labels.index(label) - 1] for label in given], "one wrong": [labels[1]] * n}
        answers |= {"unread": [None] * n, "mixed": [chance.choice(labels) for _ in given]}
        for metric, estimate in metrics.label_metrics(given, answers.get(name, given), labels, 0).items():
            row = estimate.as_row()
            assert row["ci_low"] <= row["value"] <= row["ci_high"], metric
            assert row["ci_low"] < row["ci_high"], metric


@pytest.mark.parametrize(("count", "n"), [(0, 18), (18, 18), (1, 3), (7, 40), (499, 1000), (0, 1)])
def test_shares_have_wilson_intervals(count, n):
    from scipy.stats import binomtest

    expected = binomtest(count, n).proportion_ci(method="wilson")
    right = [True] * count + [False] * (n - count)
    found = metrics.label_metrics(["a"] * n, ["a" if one else "b" for one in right], LABELS, 0)
    for estimate in (
        metrics.share(count, n),
        found["accuracy"],
        found["weighted_recall"],
        metrics.means({"x": right}, 0, (0, 1))["x"],
    ):
        assert estimate.value == pytest.approx(count / n)
        assert estimate.interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_intervals_of_many_rows_are_those_of_a_plain_bootstrap():
    import numpy as np
    from sklearn.metrics import f1_score

    gold, pred = predictions(3, 1500)
    place = {label: index for index, label in enumerate([*LABELS, None])}
    truth, guess = (np.array([place[label] for label in labels]) for labels in (gold, pred))
    rng, naive = np.random.default_rng(0), {"macro": [], "weighted": []}
    for _ in range(200):
        rows = rng.integers(len(gold), size=len(gold))
        for average, values in naive.items():
            score = f1_score(truth[rows], guess[rows], labels=range(4), average=average, zero_division=0)
            values.append(score)
    found = metrics.label_metrics(gold, pred, LABELS, 0)
    for average, values in naive.items():
        assert found[f"{average}_f1"].interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.008)


@pytest.mark.parametrize(("labels", "n", "skill"), [(3, 18, 0.5), (2, 20, 0.95), (4, 60, 0.8)])
def test_intervals_of_f1_hold_the_true_value(labels, n, skill, monkeypatch):
    """Simulated: at least 87% of samples hold it, where the plain bootstrap of 20 rows holds it in two of three."""
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    samples = 1000 if os.environ.get("MOULT_SOAK") else 60
    rng, names = random.Random(labels), [str(i) for i in range(labels)]

    def sample(size):
        gold = [rng.choice(names) for _ in range(size)]
        wrong = [names[(int(label) + rng.randrange(1, labels)) % labels] for label in gold]
        return gold, [label if rng.random() < skill else other for label, other in zip(gold, wrong, strict=True)]

    # Labels are equally frequent and mistakes equally likely, so that the true F1 of each is the skill.
    held = 0
    for seed in range(samples):
        low, high = metrics.label_metrics(*sample(n), names, seed)["macro_f1"].interval
        held += low <= skill <= high
    assert held >= 0.87 * samples


def test_the_same_rows_in_any_number_take_either_way_of_drawing(monkeypatch):
    """Few rows per cell are drawn row by row, many cell by cell: the intervals agree."""
    gold, pred = predictions(5, 119)
    few = metrics.label_metrics(gold, pred, LABELS, 0)
    assert len(set(zip(gold, pred, strict=True))) * 10 > len(gold)
    gold, pred = predictions(5, 400)
    assert len(set(zip(gold, pred, strict=True))) * 10 < len(gold)
    many = metrics.label_metrics(gold, pred, LABELS, 0)
    widths = [found["macro_f1"].interval[1] - found["macro_f1"].interval[0] for found in (few, many)]
    assert widths[0] / widths[1] == pytest.approx((400 / 119) ** 0.5, rel=0.15)


def test_means_have_intervals_within_bounds_or_too_few_rows_for_one():
    import numpy as np

    ties = metrics.means({"win": [0.5] * 3}, 0, (0, 1))["win"]
    assert ties.value == 0.5 and ties.interval[0] < 0.3 and ties.interval[1] > 0.7
    best = metrics.means({"score": [10] * 5}, 0, (1, 10))["score"]
    assert best.interval[1] == 10 and best.interval[0] < 9.5
    for values in ([3.0, 5.0], [12.0] * 500):
        row = metrics.means({"words": values}, 0)["words"].as_row()
        assert row["ci_low"] is row["ci_high"] is None and row["value"] == values[0] / 2 + values[-1] / 2
    rng = np.random.default_rng(1)
    values = rng.normal(50, 10, 2000)
    low, high = metrics.means({"words": values}, 0)["words"].interval
    half = 1.96 * values.std() / len(values) ** 0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06)


def test_means_over_datasets_plain_and_weighted():
    results = [
        metrics.label_metrics(["a"] * 10, ["a"] * 10, LABELS, 0),
        metrics.label_metrics(["a"] * 30, ["b"] * 30, LABELS, 0),
    ]
    assert metrics.mean_of(results)["accuracy"].value == 0.5
    assert metrics.mean_of(results, [10, 30])["accuracy"].value == 0.25
    # One part is its own mean, and the mean of many is narrower than any.
    assert metrics.mean_of(results[:1]) == results[0]
    alike = [{"x": metrics.share(8, 20)}] * 4
    (low, high), (one_low, one_high) = metrics.mean_of(alike)["x"].interval, alike[0]["x"].interval
    assert high - low == pytest.approx((one_high - one_low) / 2)
    assert metrics.mean_of([{"x": metrics.Estimate(1.0, None)}, *alike])["x"].interval is None


def test_intervals_of_means_over_datasets_hold_the_true_value():
    rng, skills = random.Random(0), (0.3, 0.8, 0.95)
    held = 0
    for _ in range(2000):
        parts = [{"x": metrics.share(sum(rng.random() < skill for _ in range(15)), 15)} for skill in skills]
        low, high = metrics.mean_of(parts)["x"].interval
        held += low <= sum(skills) / 3 <= high
    assert 0.93 < held / 2000 < 0.99


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (0, 5), (6, 1), (40, 25), (300, 260), (30000, 34000)])
def test_p_is_the_exact_binomial_of_scipy(wins, losses):
    from scipy.stats import binomtest

    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1
    found = metrics.paired_difference(wins, losses, 2 * (wins + losses) + 3)
    assert found["p_mcnemar"] == pytest.approx(expected, abs=1e-6)


def test_paired_difference():
    found = metrics.paired_difference(30, 0, 100)
    assert found["difference"] == 0.3 and found["ci_low"] > 0.2
    # By hand: 30.5 and 0.5 of 102 rows.
    spread = (31 / 102 - (30 / 102) ** 2) ** 0.5 / 102**0.5
    assert found["ci_high"] == pytest.approx(30 / 102 + 1.959964 * spread, abs=1e-6)
    same = metrics.paired_difference(0, 0, 50)
    assert (same["difference"], same["p_mcnemar"]) == (0, 1)
    assert same["ci_low"] == -same["ci_high"] < -0.02
    assert metrics.paired_difference(3, 0, 3)["ci_high"] == 1 and metrics.paired_difference(3, 0, 3)["ci_low"] < 0.3


def test_intervals_of_differences_hold_the_true_value():
    rng = random.Random(0)
    for n, win, loss in ((10, 0.1, 0.1), (20, 0.3, 0.05), (60, 0.05, 0.02)):
        held = 0
        for _ in range(1000):
            drawn = rng.choices("wl=", (win, loss, 1 - win - loss), k=n)
            found = metrics.paired_difference(drawn.count("w"), drawn.count("l"), n)
            held += found["ci_low"] <= win - loss <= found["ci_high"]
        assert held >= 930


def test_no_rows_have_no_interval():
    assert {estimate.interval for estimate in metrics.label_metrics([], [], LABELS, 0).values()} == {None}
    assert metrics.share(0, 0).as_row() == {"value": 0, "ci_low": 0, "ci_high": 1}
