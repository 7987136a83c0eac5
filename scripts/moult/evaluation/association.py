"""How far two gradings of the same things agree: correlations, kappas, errors, with bootstrap intervals over things.

numpy only, checked against scipy and scikit-learn in the tests. Functions of `counts` take how often each thing was
drawn, (draws, things), and return a value per draw; NaN where it is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from moult.evaluation import metrics
from moult.evaluation.metrics import Estimate

if TYPE_CHECKING:
    import numpy as np

# Columns of a matrix of all pairs that are in memory at once.
BLOCK = 512


def pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation (Pearson 1895)."""
    return _correlation(x[None], y[None], counts)


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation, ties at their mean rank (Spearman 1904)."""
    return _correlation(_ranks(x, counts), _ranks(y, counts), counts)


def kendall(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b (Kendall 1945)."""
    import numpy as np

    both, mine, theirs = _pair_sums(x, y, counts)
    return _ratio(both, np.sqrt(mine * theirs))


def concordance(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of pairs of things, different by y, that x orders as y does; equals by x count half.

    It is (1 + d) / 2 of Somers' d (Somers 1962): 1/2 for x without information, 1 for the order of y.
    """
    both, _, theirs = _pair_sums(x, y, counts)
    return (1 + _ratio(both, theirs)) / 2


def mean_absolute_error(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of |x − y|."""
    return _ratio(counts @ abs(x - y), counts.sum(axis=1))


def quadratic_kappa(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa weighted by squared differences (Cohen 1968), of grades as numbers."""
    n = counts.sum(axis=1)
    observed = counts @ (x - y) ** 2 / n
    by_chance = counts @ x**2 / n + counts @ y**2 / n - 2 * (counts @ x) * (counts @ y) / n**2
    return 1 - _ratio(observed, by_chance)


GRADES: dict[str, Callable[..., Any]] = {
    "agreement": concordance,
    "pearson": pearson,
    "spearman": spearman,
    "kendall_tau_b": kendall,
    "mean_absolute_error": mean_absolute_error,
    "quadratic_kappa": quadratic_kappa,
}


def grade_metrics(given: Sequence[float], human: Sequence[float], seed: int) -> dict[str, Estimate]:
    """Return metric name → Estimate of grades that a judge gave against those of people, without the undefined ones.

    A resample in which a correlation is undefined counts as one without any.
    """
    import numpy as np

    x, y = np.array(given, dtype=float), np.array(human, dtype=float)
    n, found = len(x), {}
    if not n:
        return found
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=metrics.RESAMPLES)
    counts = np.vstack([np.ones(n), draws])
    for name, measure in GRADES.items():
        values = measure(x, y, counts)
        if np.isfinite(values[0]):
            nothing = 0.5 if measure is concordance else 0.0
            found[name] = from_draws(values[0], np.where(np.isfinite(values[1:]), values[1:], nothing))
    return found


def from_draws(value: float, draws: np.ndarray) -> Estimate:
    """Return a value with the percentiles of its resamples, itself within them; without, where all are equal: the
    things are too few, or too alike, for resampling to say anything."""
    import numpy as np

    low, high = np.quantile(draws, [0.025, 0.975])
    ends = (min(float(low), float(value)), max(float(high), float(value)))
    return Estimate(float(value), ends if ends[1] - ends[0] > 1e-12 else None)


def _correlation(x, y, counts):
    """Return the correlation of rows x, y (draws or 1, things), weighted by counts."""
    import numpy as np

    n = counts.sum(axis=1, keepdims=True)
    x = x - (counts * x).sum(axis=1, keepdims=True) / n
    y = y - (counts * y).sum(axis=1, keepdims=True) / n
    x, y = (np.where(abs(one) < 1e-12 * abs(one).max(initial=1), 0, one) for one in (x, y))
    return _ratio((counts * x * y).sum(axis=1), np.sqrt((counts * x * x).sum(axis=1) * (counts * y * y).sum(axis=1)))


def _ranks(x, counts):
    """Return the mean rank of each thing among what was drawn, (draws, things)."""
    import numpy as np

    values, place = np.unique(x, return_inverse=True)
    drawn = np.zeros((len(counts), len(values)))
    for index in range(len(x)):
        drawn[:, place[index]] += counts[:, index]
    below = np.cumsum(drawn, axis=1) - drawn
    return (below + (drawn + 1) / 2)[:, place]


def _pair_sums(x, y, counts):
    """Return per draw the sums over all pairs of things of sign x · sign y, of (sign x)² and of (sign y)²."""
    import numpy as np

    counts = counts.astype(float)
    sums = np.zeros((3, len(counts)))
    for start in range(0, len(x), BLOCK):
        block = slice(start, start + BLOCK)
        mine, theirs = (np.sign(one[:, None] - one[None, block]) for one in (x, y))
        for row, signs in enumerate((mine * theirs, mine**2, theirs**2)):
            sums[row] += ((counts @ signs) * counts[:, block]).sum(axis=1)
    return sums


def _ratio(a, b):
    import numpy as np

    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b != 0)


def kappa(table: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa of confusion tables (…, labels, labels) (Cohen 1960); NaN where chance agrees always."""
    import numpy as np

    n = table.sum(axis=(-2, -1))
    seen = _ratio(np.trace(table, axis1=-2, axis2=-1), n)
    by_chance = _ratio((table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1), n**2)
    return _ratio(seen - by_chance, 1 - by_chance)


def kappa_of(first: Sequence[str], second: Sequence[str], seed: int) -> Estimate | None:
    """Return Cohen's kappa of two who labelled the same things, None where it is undefined."""
    import numpy as np

    labels = sorted({*first, *second})
    place = {label: index for index, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    for one, other in zip(first, second, strict=True):
        table[place[one], place[other]] += 1
    value = kappa(table) if len(first) else np.nan
    if not np.isfinite(value):
        return None
    n = int(table.sum())
    draws = np.random.default_rng(seed).multinomial(n, table.ravel() / n, size=metrics.RESAMPLES)
    drawn = kappa(draws.reshape(metrics.RESAMPLES, *table.shape).astype(float))
    return from_draws(value, np.where(np.isfinite(drawn), drawn, 0.0))


def partial_correlation(x: Sequence[float], y: Sequence[float], groups: Sequence[Any]) -> Estimate | None:
    """Return the correlation of x and y within groups of equal things: of what is left without each group's means.

    Its interval is Fisher's (1924), of atanh r with 1 / (n − groups − 2) as its variance: each group beyond the first
    is a variable held fixed. None where it is undefined or has no interval.
    """
    import numpy as np

    values, place = np.unique([str(group) for group in groups], return_inverse=True)
    free = len(x) - len(values) - 2
    if free < 1:
        return None
    sizes = np.bincount(place)
    left = []
    for one in (np.array(x, dtype=float), np.array(y, dtype=float)):
        left.append(one - (np.bincount(place, weights=one) / sizes)[place])
    (value,) = _correlation(left[0][None], left[1][None], np.ones((1, len(x))))
    if not np.isfinite(value):
        return None
    middle, half = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12)), 1.959964 / math.sqrt(free)
    return Estimate(float(value), interval=(math.tanh(middle - half), math.tanh(middle + half)))


def between_people(rows: Sequence[Sequence[str]], seed: int) -> dict[str, Estimate]:
    """Return how far people agree who labelled the same things: of each two of them `people_kappa_<i>_<j>`; of each
    against the majority of the others, all together, `people_agreement` and `people_kappa`, where the others have one.

    rows: a label per person, of each thing as many as the first has.
    """
    people = range(len(rows[0])) if rows else range(0)
    found: dict[str, Estimate | None] = {}
    for one in people:
        for other in range(one + 1, len(people)):
            name = f"people_kappa_{one + 1}_{other + 1}"
            found[name] = kappa_of([row[one] for row in rows], [row[other] for row in rows], seed)
    against = []
    for row in rows:
        for one in people:
            others = [label for other, label in enumerate(row) if other != one]
            most = max(others, key=others.count)
            if 2 * others.count(most) > len(others):
                against.append((row[one], most))
    if against:
        found |= metrics.means({"people_agreement": [one == most for one, most in against]}, seed, (0, 1))
        found["people_kappa"] = kappa_of([one for one, _ in against], [most for _, most in against], seed)
    return {name: estimate for name, estimate in found.items() if estimate is not None}
