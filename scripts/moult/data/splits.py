"""Rows drawn out of train for a split that has no file."""

from collections.abc import Mapping, Sequence
from typing import Any

from moult.base.files import digest
from moult.data.leakage import wording

# Raise when other rows would now be drawn from the same ones; a recipe of a dataset from which some are has it.
VERSION = 2


def drawn(rows: Sequence[Mapping[str, Any]], fraction: float, seed: int) -> set[str]:
    """Return the uids of about `fraction` of the rows, one at least, drawn by the seed; none where all texts are equal.

    Rows with equal wordings stay together, so that no split has a text of another one; each label has its share, as far
    as whole rows allow, and keeps a text in train. Which rows are drawn depends on uids, texts and labels, not on their
    order.
    """
    chance = {row["uid"]: digest([seed, row["uid"]]) for row in rows}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(wording(row.get("title"), row["text"]) or row["text"], []).append(row)
    if len(groups) < 2:
        return set()
    whole = sorted((sorted(group, key=lambda row: chance[row["uid"]]) for group in groups.values()), key=_by(chance))
    strata: dict[Any, list[Any]] = {}
    for group in whole:
        strata.setdefault(group[0].get("label"), []).append(group)
    count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    taken: list[Any] = []
    for stratum, share in zip(strata.values(), _shares(list(strata.values()), count, len(rows)), strict=True):
        taken += _fitting(stratum[:-1], share)
    # What groups that did not fit have left.
    names = {row["uid"] for group in taken for row in group}
    left = [group for group in whole if group[0]["uid"] not in names]
    taken += _fitting(left[:-1], count - len(names))
    return {row["uid"] for group in taken or [min(whole, key=len)] for row in group}


def _by(chance):
    return lambda group: chance[group[0]["uid"]]


def _shares(strata, count, total):
    """Return how many rows each stratum gives: in proportion, the largest remainders rounded up; a lone text stays."""
    exact = [count * sum(map(len, stratum)) / total if len(stratum) > 1 else 0 for stratum in strata]
    shares = [int(share) for share in exact]
    order = sorted(range(len(strata)), key=lambda place: shares[place] - exact[place])
    for place in order[: max(0, count - sum(shares))]:
        shares[place] += exact[place] > shares[place]
    return shares


def _fitting(groups, room):
    """Return the groups, in their order, by which the room is filled more nearly."""
    taken, left = [], room
    for group in groups:
        if len(group) / 2 <= left:
            taken.append(group)
            left -= len(group)
    return taken
