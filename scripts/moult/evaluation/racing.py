"""Races: the best of many by few rows, which are spent where they decide.

All candidates are scored on some rows, in an order drawn by the seed; at each look those go that cannot be the best,
and the others are scored on more. Bounds hold at all looks together: against a candidate that is as good as the leader,
one bets row by row on the difference of their scores, and the capital exceeds 1/delta with a chance of delta at most,
whenever one looks (Ville's inequality; Waudby-Smith and Ramdas 2020, arXiv 2006.04347, section 5, for rows drawn
without replacement from a table of known length; bets as in their 2023 paper, arXiv 2010.09686, section B.3). Where
that leaves more than the budget lasts for, the worst go without proof: at each look as many as rows grow, so that all
looks but the first cost about the same. Of the ways to spend a budget that were tried this lost the best least often.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moult.base.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# From one look to the next there are at most so many times as many rows; the first is at this share of them, or earlier
# where the budget asks for it.
GROWTH, FIRST = 1.65, 0.1
# Share of the capital that a bet risks at most.
RISK = 0.75


@dataclass
class Race:
    """A race that has been run.

    best: the candidate that won. judgements: how many scores were asked for, and `of` how many there are. means: of
    each candidate over the rows that it was scored on, rows: how many these are. dropped: candidate → why it went:
    `bound` (it is worse than the leader), `budget` (it is behind). settled: whether the winner is proved to be at most
    the margin below the best of those that did not go for the budget.
    """

    best: int
    judgements: int
    of: int
    means: list[float]
    rows: list[int]
    dropped: dict[int, str] = field(default_factory=dict)
    settled: bool = False


def race(
    score: Callable[[Sequence[int], Sequence[int]], "np.ndarray"],
    candidates: int,
    rows: int,
    *,
    share: float,
    margin: float,
    alpha: float,
    seed: int,
) -> Race:
    """Return how the best of some candidates was found, with at most a share of all scores.

    score(candidates, rows): scores from 0 to 1, [rows, candidates]. margin: how far below the best the winner may be,
    alpha: the chance that a bound is wrong anywhere in the race. Of equal means the first candidate leads.
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(rows)
    looks = looks_of(candidates, rows, share)
    table = np.full((rows, candidates), np.nan)
    alive, spent, seen, dropped = list(range(candidates)), 0, 0, {}
    enough = math.log(2 * max(1, candidates - 1) / alpha)
    settled = False
    for number, upto in enumerate(looks):
        table[seen:upto, alive] = score(alive, order[seen:upto].tolist())
        spent, seen = spent + len(alive) * (upto - seen), upto
        means = table[:seen, alive].mean(axis=0)
        leader = alive[int(means.argmax())]
        behind = table[:seen, alive] - table[:seen, [leader]]
        worse = evidence(behind, rows) >= enough
        dropped |= {one: "bound" for one, gone in zip(alive, worse, strict=True) if gone}
        near = worse | (evidence(behind, rows, margin) >= enough) | (np.array(alive) == leader)
        kept = [(mean, one) for mean, one, gone in zip(means, alive, worse, strict=True) if not gone]
        settled = seen == rows or bool(near.all())
        if settled or len(kept) == 1:
            settled = True
            break
        left = math.floor(share * rows * candidates) - spent
        most = next((many for many in range(len(kept), 1, -1) if _cost(many, looks[number:]) <= left), 1)
        kept.sort(key=lambda pair: -pair[0])
        dropped |= {one: "budget" for _, one in kept[most:]}
        alive = sorted(one for _, one in kept[:most])
        if len(alive) == 1:
            break
    counts = (~np.isnan(table)).sum(axis=0)
    means = np.nansum(table, axis=0) / np.maximum(counts, 1)
    return Race(leader, spent, rows * candidates, means.tolist(), counts.tolist(), dropped, settled)


def looks_of(candidates: int, rows: int, share: float) -> list[int]:
    """Return after how many rows a race looks: the first time as late as the budget lasts for, then ever less often.

    UserError where the budget does not last for a row of each candidate.
    """
    budget, first = math.floor(share * rows * candidates), max(1, math.floor(FIRST * rows))
    while _cost(candidates, [0, *(looks := _looks(first, rows))]) > budget:
        if first == 1:
            raise UserError(
                f"a race of {candidates} models over {rows} rows with {share:g} of all judgements is too short to tell "
                "them apart; raise `share`, or measure them on more rows."
            )
        first -= max(1, first // 100)
    return looks


def _looks(first, rows):
    """Return counts of rows from the first to all, each about as many times the one before."""
    steps = math.ceil(math.log(rows / first, GROWTH))
    return sorted({round(first * (rows / first) ** (step / max(1, steps))) for step in range(steps)} | {rows})


def _cost(candidates, looks):
    """Return what a race costs from the first of these looks on, if at each further one as many go as rows grow."""
    total = 0
    for before, after in zip(looks, looks[1:], strict=False):
        alive = candidates * looks[1] // after
        # One alone has won.
        total += alive * (after - before) if alive > 1 else 0
    return total


def evidence(differences: "np.ndarray", total: int, at: float = 0.0) -> "np.ndarray":
    """Return the log of the largest capital that was won against "the mean over all rows is `at` or more", [columns].

    differences: [rows, columns] from -1 to 1, of rows that were drawn without replacement from `total` ones.
    """
    import numpy as np

    rows, columns = differences.shape
    before = np.vstack([np.zeros((1, columns)), differences.cumsum(axis=0)[:-1]])
    drawn = np.arange(rows)[:, None]
    # What the mean of the rows to come would be.
    due = (total * at - before) / (total - drawn)
    gains = np.clip(due, -1, 1) - differences
    # Mean and variance of the gains so far, as if there had been one of 0 with a variance of a quarter.
    seen = drawn + 1
    mean = np.vstack([np.zeros((1, columns)), gains.cumsum(axis=0)[:-1]]) / seen
    variance = (0.25 + np.vstack([np.zeros((1, columns)), (gains**2).cumsum(axis=0)[:-1]])) / seen - mean**2
    bet = mean / (np.maximum(variance, 1e-12) + mean**2)
    bet = np.clip(bet, 0, RISK / np.maximum(1 - np.clip(due, -1, 1), 1e-12))
    capital = np.log1p(bet * gains).cumsum(axis=0)
    # No rows to come could make up for those that were seen.
    capital[due > 1] = np.inf
    return capital.max(axis=0)
