"""Metrics agree with scikit-learn to the last digit, and intervals behave."""

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


def test_interval_covers_the_value_and_narrows_with_n():
    widths = []
    for n in (50, 5000):
        row = metrics.label_metrics(*predictions(1, n), LABELS, 0)["accuracy"].as_row()
        assert row["ci_low"] < row["value"] < row["ci_high"]
        widths.append(row["ci_high"] - row["ci_low"])
    assert widths[0] > 5 * widths[1]


def test_interval_agrees_with_resampling_rows():
    import numpy as np

    gold, pred = predictions(3)
    right = np.array([a == b for a, b in zip(gold, pred, strict=True)])
    rng = np.random.default_rng(0)
    naive = np.quantile([rng.choice(right, len(right)).mean() for _ in range(4000)], [0.025, 0.975])
    row = metrics.label_metrics(gold, pred, LABELS, 0)["accuracy"].as_row()
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(naive, abs=0.012)


def test_means_plain_and_weighted():
    results = [
        metrics.label_metrics(["a"] * 10, ["a"] * 10, LABELS, 0),
        metrics.label_metrics(["a"] * 30, ["b"] * 30, LABELS, 0),
    ]
    assert metrics.mean_of(results)["accuracy"].value == 0.5
    assert metrics.mean_of(results, [10, 30])["accuracy"].value == 0.25


def test_paired_difference():
    better = [(True, False)] * 30 + [(True, True)] * 60 + [(False, False)] * 10
    found = metrics.paired_difference(better, 0)
    assert found["difference"] == 0.3
    assert found["ci_low"] > 0.2
    assert found["p_mcnemar"] == pytest.approx(2 / 2**30, abs=1e-6)
    same = metrics.paired_difference([(True, True)] * 50, 0)
    assert (same["difference"], same["ci_low"], same["ci_high"], same["p_mcnemar"]) == (0, 0, 0, 1)


def test_wilson_interval_at_the_edges():
    assert metrics.share(0, 20).as_row() == {"value": 0, "ci_low": 0, "ci_high": pytest.approx(0.1611, abs=1e-4)}
    assert metrics.share(20, 20).as_row()["ci_low"] == pytest.approx(0.8389, abs=1e-4)
