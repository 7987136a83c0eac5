"""Correlations, kappas and errors against scipy and scikit-learn, on random grades and labels with ties."""

import numpy as np
import pytest
from moult.evaluation import association, metrics
from scipy import stats
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

SEEDS = range(12)


def grades(seed):
    """Return the grades of a judge and of people, in halves from 0 to 10, with many ties."""
    chance = np.random.default_rng(seed)
    human = chance.integers(0, 21, 40 + seed)
    given = np.clip(human + chance.integers(-6, 7, len(human)), 0, 20)
    return given / 2, human / 2


def once(measure, x, y):
    return float(measure(x, y, np.ones((1, len(x))))[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_grades(seed):
    x, y = grades(seed)
    wanted = {
        association.pearson: stats.pearsonr(x, y)[0],
        association.spearman: stats.spearmanr(x, y)[0],
        association.kendall: stats.kendalltau(x, y)[0],
        association.mean_absolute_error: abs(x - y).mean(),
        association.concordance: (1 + stats.somersd(y, x).statistic) / 2,
        association.quadratic_kappa: cohen_kappa_score(
            (2 * x).astype(int), (2 * y).astype(int), labels=range(21), weights="quadratic"
        ),
    }
    for measure, value in wanted.items():
        assert once(measure, x, y) == pytest.approx(value, abs=1e-12), measure.__name__


@pytest.mark.parametrize("seed", SEEDS)
def test_a_resample_is_what_it_is_of_rows_drawn_again(seed):
    x, y = grades(seed)
    counts = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), size=3)
    for measure in association.GRADES.values():
        again = [once(measure, np.repeat(x, row), np.repeat(y, row)) for row in counts]
        assert measure(x, y, counts) == pytest.approx(again, abs=1e-12), measure.__name__


@pytest.mark.parametrize("seed", SEEDS)
def test_labels(seed):
    chance = np.random.default_rng(seed)
    labels = ["A", "B", "Tie"][: 2 + seed % 2]
    truth, said = (list(chance.choice(labels, 50)) for _ in range(2))
    assert association.kappa_of(truth, said, 1).value == pytest.approx(cohen_kappa_score(truth, said), abs=1e-12)
    found = metrics.label_metrics(truth, said, labels, 1)
    for average in ("macro", "weighted"):
        told = precision_recall_fscore_support(truth, said, labels=labels, average=average, zero_division=0)[:3]
        ours = [found[f"{average}_{name}"].value for name in ("precision", "recall", "f1")]
        assert ours == pytest.approx(told, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partial_correlation_is_that_of_residuals_on_dummies(seed):
    chance = np.random.default_rng(seed)
    groups, x, y = chance.integers(0, 4, 60), chance.normal(size=60), chance.normal(size=60)
    dummies = np.eye(4)[groups]
    left = [one - dummies @ np.linalg.lstsq(dummies, one, rcond=None)[0] for one in (x, y)]
    found = association.partial_correlation(x, y, groups)
    assert found.value == pytest.approx(stats.pearsonr(*left)[0], abs=1e-12)
    assert found.interval[0] < found.value < found.interval[1]


def test_no_interval_has_zero_width():
    """What every resample says alike has no interval: six grades in perfect order, and two who never differ."""
    rising = [1.0, 2, 3, 4, 5, 6]
    for found in (
        association.grade_metrics(rising, rising, 1),
        {"kappa": association.kappa_of(["a", "b", "a"], ["a", "b", "a"], 1)},
    ):
        for name, estimate in found.items():
            assert estimate.interval is None or estimate.interval[0] < estimate.interval[1], name


def test_what_is_undefined_has_no_estimate():
    same, rising = [5.0] * 6, [1.0, 2, 3, 4, 5, 6]
    found = association.grade_metrics(same, rising, 1)
    assert set(found) == {"agreement", "mean_absolute_error", "quadratic_kappa"}
    assert found["agreement"].value == 0.5 and found["quadratic_kappa"].value == pytest.approx(0)
    assert set(association.grade_metrics(rising, same, 1)) == {"mean_absolute_error", "quadratic_kappa"}
    assert association.grade_metrics([], [], 1) == {}
    assert association.kappa_of(["A"] * 3, ["A"] * 3, 1) is None and association.kappa_of([], [], 1) is None
    assert association.partial_correlation(same, rising, "aaaaaa") is None
    assert association.partial_correlation(rising, rising, "abcdef") is None
    assert association.partial_correlation(rising, rising, "aaaaaa").value == pytest.approx(1)


def test_estimates_of_a_perfect_and_of_a_reversed_judge():
    rising = [float(n % 7) for n in range(60)]
    for sign in (1, -1):
        found = association.grade_metrics([sign * one for one in rising], rising, 1)
        for name in ("pearson", "spearman", "kendall_tau_b"):
            row = found[name].as_row()
            assert row == {"value": sign, "ci_low": None, "ci_high": None}
        assert found["agreement"].value == (1 + sign) / 2


def test_people_are_held_against_the_majority_of_the_others():
    rows = [["A", "A", "B"], ["A", "A", "A"], ["B", "Tie", "A"], ["B", "B", "B"]]
    found = association.between_people(rows, 1)
    # The first and second have one majority of others less: B against A, A against B.
    assert found["people_agreement"].value == pytest.approx(6 / 7)
    for one, other in ((1, 2), (1, 3), (2, 3)):
        wanted = cohen_kappa_score([row[one - 1] for row in rows], [row[other - 1] for row in rows])
        assert found[f"people_kappa_{one}_{other}"].value == pytest.approx(wanted, abs=1e-12)
    assert association.between_people([], 1) == {}


def test_a_thousand_grades_are_blockwise_what_they_are_at_once(monkeypatch):
    x, y = grades(3)
    whole = [once(measure, x, y) for measure in (association.kendall, association.concordance)]
    monkeypatch.setattr(association, "BLOCK", 7)
    assert [once(measure, x, y) for measure in (association.kendall, association.concordance)] == pytest.approx(whole)
