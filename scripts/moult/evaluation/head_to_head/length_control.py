"""AlpacaEval's length-controlled win rate: the win rate that a logistic model expects of answers of equal length.

The model is that of Dubois et al. 2024 (arXiv 2404.04475): the log-odds of a preference are a multiple of the
difference in length, one of the instruction's difficulty, and the model's own constant. Here it is fitted without a
penalty, so that the optimum is the only one, has standard errors, and no random split decides it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from moult.base.files import sha256_file
from moult.base.paths import RESOURCES
from moult.evaluation.head_to_head.estimates import Linear

if TYPE_CHECKING:
    import numpy as np

TABLE = RESOURCES / "reference" / "alpaca_eval.csv"
# Answers of the baseline itself, asked to be verbose and to be concise, and the weight of each of their rows.
GAMED, GAMED_WEIGHT = ("verbose", "concise"), 0.1
# Newton's steps at most, and the step below which it stands still. A fit that has a finite optimum takes about six.
STEPS, STANDSTILL = 60, 1e-10


@dataclass(frozen=True)
class Known:
    """What is known of an instruction of AlpacaEval beside its text."""

    part: str
    difficulty: float
    baseline_chars: int
    # Variant → (characters, preference).
    gamed: dict[str, tuple[int, float]]


@cache
def known_instructions() -> dict[str, Known]:
    """Return SHA-256 of an instruction → what is known of it, in the order of the set."""
    with open(TABLE, encoding="utf-8", newline="") as handle:
        return {
            row["instruction_sha256"]: Known(
                row["part"],
                float(row["difficulty"]),
                int(row["baseline_chars"]),
                {name: (int(row[f"{name}_chars"]), float(row[f"{name}_surrogate"])) for name in GAMED},
            )
            for row in csv.DictReader(handle)
        }


@cache
def table_digest() -> str:
    """Return the SHA-256 of the table of difficulties, for recipes of what is computed with it."""
    return sha256_file(TABLE)


@dataclass(frozen=True)
class Preference:
    """One instruction: its name, characters of the baseline's and the model's answer, and the preference for the model,
    from 0 to 1."""

    question: str
    lengths: tuple[int, int]
    preference: float


def difficulties_of(rows: Sequence[Preference]) -> list[float] | None:
    """Return the difficulty of each instruction; None unless all are known, and the baseline is the one that they are
    known for, by the lengths of its answers."""
    known = [known_instructions().get(row.question) for row in rows]
    found = [
        one.difficulty for row, one in zip(rows, known, strict=True) if one and one.baseline_chars == row.lengths[0]
    ]
    return found if len(found) == len(rows) else None


def length_controlled(
    rows: Sequence[Preference], difficulties: Sequence[float] | None, gamed: bool = True
) -> tuple[Linear, bool]:
    """Return the length-controlled win rate (0 to 1), and whether the fit has a finite optimum.

    difficulties: one per row, None to leave the term out, and with it the gamed baselines, which share it. The
    influences are those of the sandwich (White 1982): of instructions drawn, with two unseen ones (see `metrics`), one
    won and one lost at equal lengths. Where no finite optimum exists, as where all rows are won, the value is the limit
    that the fit tends to, and no row has an influence. Where all answers are longer by as much, nothing tells length
    from the model: the value is that of a fit without the length, and no row has an influence either.
    """
    import numpy as np

    apart = {ours - theirs for theirs, ours in (row.lengths for row in rows)}
    own, preferences = _features(rows, difficulties), np.array([row.preference for row in rows])
    confounded = len(apart) == 1
    if confounded:
        own, gamed = own[:, 1:], False
    features, wanted, weights = own, preferences, np.ones(len(rows))
    if difficulties is not None and gamed:
        more, liked = _gamed()
        features, wanted = np.vstack([more, own]), np.append(liked, preferences)
        weights = np.append(np.full(len(liked), GAMED_WEIGHT), weights)
    found, curvature = fit_logistic(features, wanted, weights)
    at_equal_length = own if confounded else own * (np.arange(own.shape[1]) > 0)
    expected = _sigmoid(at_equal_length @ found)
    value = float(expected.mean())
    if curvature is None or (confounded and apart != {0}):
        return Linear(value, {}), False
    n = len(rows)
    slope = (at_equal_length * (expected * (1 - expected))[:, None]).mean(axis=0)
    middle = at_equal_length.mean(axis=0)
    scores = own * (preferences - _sigmoid(own @ found))[:, None]
    unseen = [middle * (won - _sigmoid(middle @ found)) for won in (0, 1)]
    moved = (np.vstack([scores, unseen]) @ np.linalg.solve(curvature, slope)) * np.sqrt(n / (n + 2))
    moved[:n] += (expected - value) / n
    return Linear(value, dict(zip([row.question for row in rows] + ["unseen 0", "unseen 1"], moved, strict=True))), True


def fit_logistic(features: np.ndarray, wanted: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (coefficients, curvature) of a logistic regression without a penalty, by Newton's method.

    features: (rows, columns); wanted: 0 to 1, where 0.3 is three of ten rows that are 1. curvature: minus the second
    derivative of the log-likelihood; None where the optimum is not finite.
    """
    import numpy as np

    found = np.zeros(features.shape[1])
    for _ in range(STEPS):
        expected = _sigmoid(features @ found)
        slope = features.T @ (weights * (wanted - expected))
        curvature = (features * (weights * expected * (1 - expected))[:, None]).T @ features
        if np.linalg.matrix_rank(curvature, hermitian=True) < len(found) or abs(found).max() > 25:
            return found, None
        step = np.linalg.solve(curvature, slope)
        # Far from the optimum a whole step may lead astray.
        found = found + step * min(1.0, 4 / max(abs(step).max(), 1e-12))
        if abs(step).max() < STANDSTILL:
            return found, curvature
    return found, None


def _features(rows, difficulties):
    import numpy as np

    columns = [_length_term([row.lengths for row in rows])]
    columns += [np.array(difficulties)] if difficulties is not None else []
    return np.column_stack([*columns, np.ones(len(rows))])


def _length_term(lengths):
    """Return tanh of the standardised differences in length; 0 where all are equal."""
    import numpy as np

    apart = np.array([ours - theirs for ours, theirs in lengths], dtype=float)
    spread = apart.std(ddof=1) if len(apart) > 1 else 0.0
    return np.tanh(apart / spread) if spread else np.zeros(len(apart))


@cache
def _gamed():
    """Return features and preferences of the gamed baselines: no constant, for they are the baseline itself."""
    import numpy as np

    known, features, liked = known_instructions().values(), [], []
    difficulty = np.array([one.difficulty for one in known])
    for name in GAMED:
        term = _length_term([(one.baseline_chars, one.gamed[name][0]) for one in known])
        features.append(np.column_stack([term, difficulty, np.zeros(len(term))]))
        liked += [one.gamed[name][1] - 1 for one in known]
    return np.vstack(features), np.array(liked)


def _sigmoid(x):
    import numpy as np

    return 0.5 * (1 + np.tanh(x / 2))
