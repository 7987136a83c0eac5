"""Metrics of labels and of other values, with 95% intervals that few or equal rows do not shrink to nothing.

A share of rows has Wilson's interval. Other metrics have bootstrap percentiles; each resample may hold rows that were
not seen (`UNSEEN`), so that rows which are all right, or all equal, leave a width. A mean over datasets combines the
intervals of its parts, and a paired difference has that of Agresti and Min.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 2000
# Rows that might have been at either end, though none was: right and wrong ones, or the least and the most that a value
# can be. One of each is Laplace's rule of succession; the tests simulate how often the intervals hold the true value.
UNSEEN = 1
# Values without bounds have no such ends: fewer of them than this say nothing of how far they may lie apart.
FEW = 10
# Numbers per label that are held in memory at once while resampling.
AT_ONCE = 200_000
Z = 1.959964
# Below this a paired test is called clear.
ALPHA = 0.05


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval (low, high); None where there are too few rows for one."""

    value: float
    interval: tuple[float, float] | None

    def as_row(self) -> dict[str, float | None]:
        """Return value, ci_low and ci_high, rounded to six digits; the last two are None without an interval."""
        low, high = self.interval or (None, None)
        ends = {"ci_low": low, "ci_high": high}
        return {"value": round(float(self.value), 6)} | {
            name: None if end is None else round(float(end), 6) for name, end in ends.items()
        }


# ---------------------------------------------------------------- labels


def label_metrics(
    gold: Sequence[str | None], pred: Sequence[str | None], labels: Sequence[str], seed: int
) -> dict[str, Estimate]:
    """Return metric name → Estimate. `pred` holds None where no label was read: wrong, and no class of its own.

    Macro means run over all of `labels`, precision and F1 of a label that never occurs are 0 (scikit-learn's `labels=`
    with `zero_division=0`). Those that end with `_occurring` run over the labels that occur in `gold` or `pred`, which
    is what scikit-learn does without `labels=`.

    Accuracy, and the weighted recall that equals it, have Wilson's interval. The others have percentiles of resampled
    tables less the bias of resampling (Efron and Tibshirani 1993, section 10.2); a label that a resample lacks counts
    there with its value among all rows.
    """
    import numpy as np

    place: dict[str | None, int] = {label: index for index, label in enumerate(labels)}
    size = len(labels)
    truth = np.array([place[label] for label in gold], dtype=np.int64)
    guess = np.array([place.get(label, size) for label in pred], dtype=np.int64)
    n = len(truth)
    cells, counts = np.unique(truth * (size + 1) + guess, return_counts=True)
    places = cells // (size + 1), cells % (size + 1)
    seen = _sums(*places, counts, size)
    occurring = (seen["support"] + seen["guessed"]) > 0
    by_label = _by_label(seen)
    point = _averages(by_label, seen, occurring)
    if n == 0:
        return {name: Estimate(0.0, None) for name in ("accuracy", *point)}
    # What a resample holds on average: the rows, and the unseen ones (see `_resampled`).
    given = seen["support"] / n
    other, exchanged = UNSEEN / 2 * (1 - given) / size, UNSEEN / 2 * given * (size - 1) / size
    expected = {
        "hits": seen["hits"] + UNSEEN * given,
        "support": seen["support"] + 2 * UNSEEN * given - exchanged + other,
        "guessed": seen["guessed"] + UNSEEN * given + exchanged + other,
    }
    middle = _averages(_by_label(expected), expected, occurring)
    drawn = _resampled(places, counts, size, seed)
    resamples = [_averages(_by_label(sums, by_label), sums, occurring) for sums in drawn]
    result = {}
    for name, value in point.items():
        value, draws = float(value), np.concatenate([one[name] for one in resamples])
        low, high = np.quantile(draws - draws.mean() + middle[name], [0.025, 0.975])
        result[name] = Estimate(value, (max(0.0, min(float(low), value)), min(1.0, max(float(high), value))))
    right = share(int(seen["hits"].sum()), n)
    return {"accuracy": right} | result | {"weighted_recall": right}


def _sums(truth, guess, counts, size):
    """Return hits, support and guessed, each [labels], of cells: places of their two labels, and rows; all [cells].

    A guess of `size` is none.
    """
    import numpy as np

    return {
        "hits": np.bincount(truth, counts * (truth == guess), size),
        "support": np.bincount(truth, counts, size),
        "guessed": np.bincount(guess, counts, size + 1)[:size],
    }


def _resampled(places, counts, size, seed):
    """Yield the sums (see `_sums`) of RESAMPLES resamples of rows, [resamples, labels], some at a time.

    A row that was not seen has the label of one that was. It is right; or another label, or none, is read; or it has
    that other label, and its own is read.
    """
    import numpy as np

    random, n = np.random.default_rng(seed), int(counts.sum())
    # A draw per row is faster than one per cell for cells of few rows: those stand last, and are drawn as one first.
    order = np.argsort(-counts, kind="stable")
    (truth, guess), counts = (place[order] for place in places), counts[order]
    many = int((counts >= 10).sum())
    few = np.repeat(np.arange(len(counts) - many), counts[many:])
    chances = np.append(counts[:many], len(few)) / n
    given = np.bincount(truth, counts, size) / n
    at_once = max(1, AT_ONCE // size)
    for begun in range(0, RESAMPLES, at_once):
        sums = []
        for unseen in random.binomial(n, 2 * UNSEEN / (n + 2 * UNSEEN), size=min(at_once, RESAMPLES - begun)):
            drawn = random.multinomial(n - unseen, chances)
            rows = few[random.integers(max(1, len(few)), size=drawn[-1])]
            drawn = np.append(drawn[:-1], np.bincount(rows, minlength=len(counts) - many))
            labels = random.choice(size, unseen, p=given)
            others = (labels + 1 + random.integers(size, size=unseen)) % (size + 1)
            others = np.where(random.random(unseen) < 0.5, labels, others)
            exchanged = (random.random(unseen) < 0.5) & (others < size)
            labels, others = np.where(exchanged, others, labels), np.where(exchanged, labels, others)
            cells = np.append(truth, labels), np.append(guess, others), np.append(drawn, np.ones(unseen))
            sums.append(_sums(*cells, size))
        yield {name: np.stack([one[name] for one in sums]) for name in sums[0]}


def _by_label(sums, otherwise=None):
    """Return precision, recall and F1, each [..., labels]; where nothing is divided by, 0 or what `otherwise` has."""
    import numpy as np

    hits, support, guessed = sums["hits"], sums["support"], sums["guessed"]
    parts = {"precision": (hits, guessed), "recall": (hits, support), "f1": (2 * hits, guessed + support)}
    result = {}
    for name, (above, below) in parts.items():
        default = np.zeros(below.shape) if otherwise is None else np.broadcast_to(otherwise[name], below.shape).copy()
        result[name] = np.divide(above, below, out=default, where=below != 0)
    return result


def _averages(by_label, sums, occurring):
    """Return metric name → [...], of [..., labels]; occurring: which labels occur, [labels]."""
    import numpy as np

    support = sums["support"]
    weights = support / np.maximum(support.sum(axis=-1, keepdims=True), 1)
    result = {}
    for name, values in by_label.items():
        result[f"macro_{name}"] = values.mean(axis=-1)
        result[f"weighted_{name}"] = (values * weights).sum(axis=-1)
        result[f"macro_{name}_occurring"] = (values * occurring).sum(axis=-1) / max(1, occurring.sum())
    return result


# ---------------------------------------------------------------- shares, means, differences


def share(count: int, n: int) -> Estimate:
    """Return a proportion as an Estimate with its Wilson 95% interval (Wilson 1927)."""
    if n == 0:
        return Estimate(0.0, (0.0, 1.0))
    p = count / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return Estimate(p, (max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))))


def means(
    columns: Mapping[Any, Sequence[float]], seed: int, bounds: tuple[float, float] | None = None
) -> dict[Any, Estimate]:
    """Return name → Estimate of the mean of each column; all have a value per row, and rows are resampled together.

    bounds: the least and the greatest value that there can be. Zeros and ones between 0 and 1 are a share. Values
    without bounds have no interval where they are fewer than FEW, or all equal.
    """
    import numpy as np

    table = np.array(list(columns.values()), dtype=float)
    rows = table.shape[1]
    seen = np.column_stack([table, *(np.full((len(table), UNSEEN), end) for end in bounds or ())])
    random, size = np.random.default_rng(seed), seen.shape[1]
    draws = [seen @ np.bincount(random.integers(size, size=rows), minlength=size) / rows for _ in range(RESAMPLES)]
    ends = np.quantile(draws, [0.025, 0.975], axis=0).T
    result = {}
    for name, values, (low, high) in zip(columns, table, ends, strict=True):
        value = float(values.mean())
        if bounds == (0, 1) and np.isin(values, (0, 1)).all():
            result[name] = share(int(values.sum()), rows)
        elif bounds is None and (rows < FEW or np.ptp(values) == 0):
            result[name] = Estimate(value, None)
        else:
            result[name] = Estimate(value, (min(float(low), value), max(float(high), value)))
    return result


def counted_means(
    columns: Mapping[Any, Sequence[float]], seed: int, bounds: tuple[float, float] | None = None
) -> dict[Any, tuple[int, Estimate]]:
    """Return name → (n, Estimate) of the mean of each column that has values, as `means` does; columns of one length
    are resampled together."""
    found = {}
    for n in {len(values) for values in columns.values() if values}:
        same = {name: values for name, values in columns.items() if len(values) == n}
        found |= {name: (n, estimate) for name, estimate in means(same, seed, bounds).items()}
    return {name: found[name] for name in columns if name in found}


def mean_of(results: Sequence[Mapping[Any, Estimate]], weights: Sequence[int] | None = None) -> dict[Any, Estimate]:
    """Return the mean over data sets of every metric that all of them have; plain, or weighted.

    Distances from the mean to the ends of its interval are the roots of the summed squares of those of its parts (Zou
    and Donner 2008, Statistics in Medicine 27, equation 2).
    """
    import numpy as np

    shares = np.ones(len(results)) if weights is None else np.asarray(weights, dtype=float)
    shares = shares / shares.sum()
    combined = {}
    for name in (name for name in results[0] if all(name in one for one in results)):
        parts = [one[name] for one in results]
        value = float(shares @ [part.value for part in parts])
        intervals = [part.interval for part in parts if part.interval is not None]
        interval = None
        if len(intervals) == len(parts):
            below = [part.value - low for part, (low, _) in zip(parts, intervals, strict=True)]
            above = [high - part.value for part, (_, high) in zip(parts, intervals, strict=True)]
            interval = (value - math.hypot(*(shares * below)), value + math.hypot(*(shares * above)))
        combined[name] = Estimate(value, interval)
    return combined


def paired_difference(wins: int, losses: int, n: int) -> dict[str, float]:
    """Return how much more often the first of two is right on the same n rows, its interval, and McNemar's p.

    wins, losses: rows on which the first alone, the second alone is right. The interval is Agresti and Min's, Wald's
    with half a row more in each of the four cells (2005, Statistics in Medicine 24, section 3), so that rows on which
    both are equal leave a width. p is the exact two-sided binomial on wins and losses (McNemar 1947).
    """
    from scipy.special import bdtr

    more = n + 2
    middle = (wins - losses) / more
    half = Z * math.sqrt((wins + losses + 1) / more - middle**2) / math.sqrt(more)
    difference = (wins - losses) / n
    tail = float(bdtr(min(wins, losses), wins + losses, 0.5))
    return {
        "difference": round(difference, 6),
        "ci_low": round(max(-1.0, min(difference, middle - half)), 6),
        "ci_high": round(min(1.0, max(difference, middle + half)), 6),
        "p_mcnemar": round(min(1.0, 2 * tail), 6),
    }
