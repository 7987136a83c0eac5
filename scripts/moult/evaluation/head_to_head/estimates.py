"""Estimates over questions: means of what each question gave, and prediction-powered ones.

Whatever a judge says several times of one question (in two orders, of two turns, with a triple weight) is no further
evidence: questions are resampled, not verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moult.evaluation import metrics
from moult.evaluation.metrics import Estimate

if TYPE_CHECKING:
    import numpy as np

# Of one verdict: the question, the value, its weight.
Said = tuple[str, float, float]


@dataclass(frozen=True)
class Linear:
    """A value, and its influence function: question → how far its answer moved the value from what it estimates.

    The variance of the value is the sum of the squared influences (Huber 1981, section 1.5).
    """

    value: float
    influence: Mapping[str, float]

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(math.fsum(one * one for one in self.influence.values()))

    def plus(self, other: Linear, times: float = 1.0) -> Linear:
        """Return the sum with `times` another one; questions that both have move both."""
        both = {**self.influence}
        for question, moved in other.influence.items():
            both[question] = both.get(question, 0.0) + times * moved
        return Linear(self.value + times * other.value, both)

    def estimate(self, bounds: tuple[float, float] | None = None) -> Estimate:
        """Return the value with its normal 95% interval within bounds; without one where no question moved it."""
        if not self.error:
            return Estimate(self.value, None)
        low, high = self.value - metrics.Z * self.error, self.value + metrics.Z * self.error
        return Estimate(self.value, (low, high) if bounds is None else (max(bounds[0], low), min(bounds[1], high)))


def weighted_mean(said: Sequence[Said]) -> Linear:
    """Return the weighted mean of what was said."""
    sums, weights = _by_question(said)
    total = math.fsum(weights.values())
    value = math.fsum(sums.values()) / total
    return Linear(value, {question: (sums[question] - value * weights[question]) / total for question in sums})


def over_questions(said: Sequence[Said], seed: int, bounds: tuple[float, float]) -> Estimate:
    """Return the weighted mean with bootstrap percentiles over questions, some of which were not seen (see `metrics`).

    bounds: the least and the greatest value that there can be; an unseen question has one of them, and a mean weight.
    """
    import numpy as np

    by_question, weighed = _by_question(said)
    weights = np.array(list(weighed.values()))
    unseen = np.full(2 * metrics.UNSEEN, weights.mean())
    sums = np.append(list(by_question.values()), unseen * np.repeat(bounds, metrics.UNSEEN))
    value, weights = weighted_mean(said).value, np.append(weights, unseen)
    counts = np.random.default_rng(seed).multinomial(
        len(by_question), np.full(len(sums), 1 / len(sums)), size=metrics.RESAMPLES
    )
    return _percentiles(value, (counts @ sums) / (counts @ weights))


def over_battles(said: Sequence[Said], seed: int, draws: int = metrics.RESAMPLES) -> Estimate:
    """Return the weighted mean with the interval that Arena-Hard publishes: a verdict of weight 3 is three battles, and
    battles are resampled one by one, as if the copies and both orders of a question were independent."""
    import numpy as np

    values = np.repeat([value for _, value, _ in said], [round(weight) for *_, weight in said])
    kinds, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=draws)
    return _percentiles(float(values.mean()), drawn @ kinds / len(values))


def _percentiles(value: float, draws: np.ndarray) -> Estimate:
    import numpy as np

    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, (min(float(low), value), max(float(high), value)))


def _by_question(said):
    """Return question → weighted sum of its values, and question → sum of its weights."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for question, value, weight in said:
        sums[question] = sums.get(question, 0.0) + value * weight
        weights[question] = weights.get(question, 0.0) + weight
    return sums, weights


def bridged(ours: Linear, known: Sequence[tuple[Linear, Linear]]) -> Linear:
    """Return a home judge's value of a model on the scale of another judge, who cannot be asked: prediction-powered
    inference (Angelopoulos et al. 2023, Science 382, 669).

    ours: the home judge's value. known: for each model that both have judged, (home judge's value, the other's) over
    the same items. The value is moved by how far the other lies from the home judge there on average, and the error of
    that move is part of its interval. It takes for granted that the home judge errs on this model as it does on those.
    """
    for home, other in known:
        share = 1 / len(known)
        ours = ours.plus(other, share).plus(home, -share)
    return ours


def difference(one: Linear, other: Linear, n: int, bounds: tuple[float, float]) -> tuple[Estimate, float]:
    """Return how much more one value is than another over the same n questions, with its interval, and the two-sided p
    of the normal test that they are equal.

    bounds: of the values. As in Agresti and Min's interval (see `metrics.paired_difference`), two further questions,
    one at either end of what a difference can be, leave a width where all questions say the same.
    """
    apart, widest = one.plus(other, -1.0), bounds[1] - bounds[0]
    unseen = {f"unseen {end}": end * widest / n for end in (-1, 1)}
    wider = Linear(apart.value, {**apart.influence, **unseen})
    return wider.estimate((-widest, widest)), math.erfc(abs(wider.value) / wider.error / math.sqrt(2))
