"""Metrics of label predictions with bootstrap intervals; numpy only, checked against scikit-learn in the tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap draws, (RESAMPLES,); a rate without draws has its interval (low, high) instead."""

    value: float
    draws: Any = None
    interval: tuple[float, float] | None = None

    def as_row(self) -> dict[str, float]:
        """Return value, ci_low and ci_high, rounded to six digits."""
        import numpy as np

        low, high = np.quantile(self.draws, [0.025, 0.975]) if self.interval is None else self.interval
        return {
            "value": round(float(self.value), 6),
            "ci_low": round(float(low), 6),
            "ci_high": round(float(high), 6),
        }


def label_metrics(
    gold: Sequence[str | None], pred: Sequence[str | None], labels: Sequence[str], seed: int
) -> dict[str, Estimate]:
    """Return metric name → Estimate. `pred` holds None where no label was read: wrong, and no class of its own.

    Macro means run over all of `labels`, precision and F1 of a label that never occurs are 0 (scikit-learn's
    `labels=` with `zero_division=0`). Resampling rows with replacement is resampling the cells of the confusion table.
    """
    import numpy as np

    table = confusion(gold, pred, labels)
    draws = np.random.default_rng(seed).multinomial(table.sum(), table.ravel() / table.sum(), size=RESAMPLES)
    point = _from_tables(table[None])
    resampled = _from_tables(draws.reshape(RESAMPLES, *table.shape))
    return {name: Estimate(float(point[name][0]), resampled[name]) for name in point}


def confusion(gold: Sequence[Any], pred: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
    """Return counts [labels, labels + 1]: rows gold, columns predicted, the last one for answers without a label."""
    import numpy as np

    place = {label: index for index, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for truth, guess in zip(gold, pred, strict=True):
        table[place[truth], place.get(guess, len(labels))] += 1
    return table


def _from_tables(tables):
    """Return metric name → array [B] from confusion tables [B, labels, labels + 1] (rows gold; last column: none)."""
    import numpy as np

    def ratio(a, b):
        return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b != 0)

    classes = tables.shape[1]
    hits = np.einsum("bii->bi", tables[:, :, :classes]).astype(float)
    support = tables.sum(axis=2).astype(float)
    guessed = tables[:, :, :classes].sum(axis=1).astype(float)
    total = support.sum(axis=1)
    by_label = {
        "precision": ratio(hits, guessed),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, guessed + support),
    }
    result = {"accuracy": ratio(hits.sum(axis=1), total)}
    for name, values in by_label.items():
        result[f"macro_{name}"] = values.mean(axis=1)
        result[f"weighted_{name}"] = ratio((values * support).sum(axis=1), total)
    return result


def share(count: int, n: int) -> Estimate:
    """Return a proportion as an Estimate with its Wilson 95% interval (Wilson 1927)."""
    if n == 0:
        return Estimate(0.0, interval=(0.0, 1.0))
    z, p = 1.959964, count / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(p, interval=(max(0.0, centre - half), min(1.0, centre + half)))


def means(columns: Mapping[Any, Sequence[float]], seed: int) -> dict[Any, Estimate]:
    """Return name → Estimate of the mean of each column; all have a value per row, and rows are resampled together."""
    import numpy as np

    table = np.array(list(columns.values()), dtype=float)
    rows = table.shape[1]
    draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    return dict(zip(columns, map(Estimate, table.mean(axis=1), table @ draws.T / rows), strict=True))


def counted_means(columns: Mapping[Any, Sequence[float]], seed: int) -> dict[Any, tuple[int, Estimate]]:
    """Return name → (n, Estimate) of the mean of each column that has values; columns of one length are resampled
    together."""
    found = {}
    for n in {len(values) for values in columns.values() if values}:
        same = {name: values for name, values in columns.items() if len(values) == n}
        found |= {name: (n, estimate) for name, estimate in means(same, seed).items()}
    return {name: found[name] for name in columns if name in found}


def mean_of(results: Sequence[Mapping[Any, Estimate]], weights: Sequence[int] | None = None) -> dict[Any, Estimate]:
    """Return the mean over data sets of every metric that all of them have bootstrap draws of; plain, or weighted."""
    import numpy as np

    shared = [name for name in results[0] if all(name in one and one[name].draws is not None for one in results)]
    return {
        name: Estimate(
            float(np.average([one[name].value for one in results], weights=weights)),
            np.average([one[name].draws for one in results], axis=0, weights=weights),
        )
        for name in shared
    }


def paired_difference(pairs: Sequence[tuple[bool, bool]], seed: int) -> dict[str, float]:
    """Return the accuracy difference of two models on the same rows, its paired bootstrap interval, and McNemar's p.

    pairs: (first correct, second correct) per row. p is the exact two-sided binomial on discordant rows (McNemar 1947).
    """
    import numpy as np

    n = len(pairs)
    wins = sum(a and not b for a, b in pairs)
    losses = sum(b and not a for a, b in pairs)
    draws = np.random.default_rng(seed).multinomial(n, [wins / n, losses / n, 1 - (wins + losses) / n], size=RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    discordant = wins + losses
    tail = sum(math.comb(discordant, k) for k in range(min(wins, losses) + 1)) / 2**discordant
    return {
        "difference": round((wins - losses) / n, 6),
        "ci_low": round(float(low), 6),
        "ci_high": round(float(high), 6),
        "p_mcnemar": round(min(1.0, 2 * tail), 6),
    }
