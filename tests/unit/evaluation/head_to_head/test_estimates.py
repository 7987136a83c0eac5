"""Prediction-powered values on a retired judge's scale, and lengths that a judge likes, in simulations."""

import numpy as np
import pytest
from moult.evaluation.head_to_head.estimates import Linear, bridged, difference, over_questions, weighted_mean
from moult.evaluation.head_to_head.length_control import Preference, length_controlled

TRUTH = 0.4


def one_judge(seed, known=300, new=800):
    """Return (the home judge's value of a new model, [(its value, the retired judge's)] of a known one), of a judge who
    agrees with the retired one on 70 to 95% of items and is lenient where it does not."""
    random = np.random.default_rng(seed)
    agreement, leniency = random.uniform(0.70, 0.95), random.uniform(0.6, 1.0)

    def judged(count, prefix):
        retired = random.random(count) < TRUTH
        # Of the items on which the two differ, most are wins by the home judge.
        differs = random.random(count) < (1 - agreement) * np.where(retired, 2 * (1 - leniency), 2 * leniency)
        home = np.where(differs, ~retired, retired)
        names = [f"{prefix}{at}" for at in range(count)]
        return tuple(
            weighted_mean(list(zip(names, side.astype(float), np.ones(count), strict=True))) for side in (home, retired)
        )

    return judged(new, "new")[0], [judged(known, "known")]


def covered(seeds):
    """Return how often the 95% intervals hold the truth: of bridged values, and of the home judge's own."""
    held = np.zeros(2)
    for seed in seeds:
        ours, known = one_judge(seed)
        for at, value in enumerate((bridged(ours, known), ours)):
            low, high = value.estimate((0, 1)).interval
            held[at] += low <= TRUTH <= high
    return held / len(seeds)


def test_a_bridged_interval_covers_and_the_plain_one_does_not():
    by_bridge, plain = covered(range(100))
    assert by_bridge >= 0.90 and plain < 0.5


@pytest.mark.soak
def test_a_bridged_interval_covers_in_a_thousand_simulated_judges():
    by_bridge, plain = covered(range(1000))
    assert 0.93 <= by_bridge <= 0.97 and plain < 0.5


def test_a_bridge_is_prediction_powered_inference_of_a_mean():
    """Angelopoulos et al. 2023: the mean of N predictions plus the mean error on n, variances added."""
    random = np.random.default_rng(0)
    f, home, retired = (random.random(n) for n in (50, 20, 20))
    named = lambda values, prefix: weighted_mean([(f"{prefix}{at}", one, 1.0) for at, one in enumerate(values)])  # noqa: E731
    found = bridged(named(f, "new"), [(named(home, "old"), named(retired, "old"))])
    assert found.value == pytest.approx(f.mean() + (retired - home).mean())
    assert found.error == pytest.approx(np.sqrt(f.var() / 50 + (retired - home).var() / 20))


def test_questions_of_both_sets_are_one_draw():
    """Where the same questions are judged, errors that cancel are no width."""
    same = weighted_mean([("a", 0.0, 1.0), ("b", 1.0, 1.0)])
    opposite = weighted_mean([("a", 1.0, 1.0), ("b", 0.0, 1.0)])
    assert bridged(same, [(weighted_mean([("a", 1.0, 1.0), ("b", 1.0, 1.0)]), opposite)]).error == pytest.approx(0)
    assert difference(same, same, 2, (0, 1))[1] == 1
    apart, p = difference(Linear(0.8, {"a": 0.01}), Linear(0.2, {"b": 0.01}), 400, (0, 1))
    assert apart.value == pytest.approx(0.6) and 0.55 < apart.interval[0] < 0.6 and p < 1e-6


def test_few_questions_that_say_the_same_are_no_clear_difference():
    always, never = (weighted_mean([(str(at), one, 1.0) for at in range(4)]) for one in (1.0, 0.5))
    assert difference(always, never, 4, (0, 1))[1] > 0.05


def test_equal_answers_leave_a_width():
    estimate = over_questions([(str(at), 1.0, 1.0) for at in range(12)], 1, (0, 1))
    assert estimate.value == 1 and 0.7 < estimate.interval[0] < 1


# ---------------------------------------------------------------- a planted length bias


def judged_by_length(seed, better, n=400):
    """Return rows of a judge that likes length: the model's answers are longer, and `better` logits better."""
    random = np.random.default_rng(seed)
    baseline = random.integers(200, 2000, n)
    own = baseline + np.round(random.normal(300, 500, n)).astype(int).clip(-baseline + 20)
    apart = baseline - own
    leaning = better - 1.5 * np.tanh(apart / apart.std(ddof=1)) + random.normal(0, 0.3, n)
    won = random.random(n) < 1 / (1 + np.exp(-leaning))
    return [
        Preference(str(at), (int(theirs), int(ours)), float(one))
        for at, (theirs, ours, one) in enumerate(zip(baseline, own, won, strict=True))
    ]


def half_is_within(seeds, better):
    """Return how often 50% is in the interval: of the controlled rate, and of the plain one."""
    held = np.zeros(2)
    for seed in seeds:
        rows = judged_by_length(seed, better)
        controlled, _ = length_controlled(rows, None)
        plain = weighted_mean([(row.question, row.preference, 1.0) for row in rows])
        for at, value in enumerate((controlled, plain)):
            low, high = value.estimate((0, 1)).interval
            held[at] += low <= 0.5 <= high
    return held / len(seeds)


def test_a_liking_for_length_is_taken_out_and_a_real_difference_is_not():
    controlled, plain = half_is_within(range(200), better=0.0)
    assert 0.90 <= controlled <= 0.98 and plain < 0.1
    controlled, _ = half_is_within(range(50), better=0.8)
    assert controlled < 0.1


def test_answers_of_one_length_leave_nothing_to_control():
    won = [0.9, 0.7, 0.4, 0.8]
    same = [Preference(str(at), (10, 10), one) for at, one in enumerate(won)]
    value, finite = length_controlled(same, None)
    assert finite and value.value == pytest.approx(0.7) and value.estimate((0, 1)).interval
    longer = [Preference(str(at), (10, 40), one) for at, one in enumerate(won)]
    value, finite = length_controlled(longer, None)
    assert not finite and value.value == pytest.approx(0.7) and not value.influence
