"""A judge's verdicts on one pair, in the item's own order."""

from collections import Counter
from collections.abc import Iterable, Sequence

from moult.base.suite_rows import Verdict

SIGN = {"A": 1, "B": -1, "Tie": 0}


class Item:
    """The verdicts of a judge on one pair: `said`, a winner per order that could be read; `orders`, those asked."""

    def __init__(self, rows: Sequence[Verdict]) -> None:
        self.row = rows[0]
        self.human = rows[0]["human"]
        self.orders = [row["order"] for row in rows if row["order"]]
        self.said = {str(row["order"]): str(row["winner"]) for row in rows if row["status"] == "ok"}
        self.status = Counter(row["status"] for row in rows)
        self.scores = {str(row["order"]): row["scores"]["A"] for row in rows if row["scores"]}

    @property
    def whole(self) -> bool:
        """Whether what was asked was read: with one order alone a liking for the first answer would count as skill."""
        return bool(self.orders) and len(self.said) == len(self.orders)

    def right(self) -> list[bool]:
        return [winner == self.human for winner in self.said.values()]

    def vote(self) -> bool:
        """JudgeBench's rule: each order counts 1 if right, −1 if wrong, 0 for a tie or none; right above 0."""
        return sum((one == self.human) - (one != self.human and one != "Tie") for one in self.said.values()) > 0

    def first_won(self) -> float:
        """How often whichever stood first won, ties half."""
        shown = {"original": 1, "swapped": -1}
        return mean(0.5 + 0.5 * SIGN[winner] * shown[order] for order, winner in self.said.items())

    def leaning(self) -> float:
        """−1 to 1: how far the verdicts lean to A."""
        return mean(SIGN[winner] for winner in self.said.values())


def items_of(rows: Iterable[Verdict]) -> list[Item]:
    """Return the pairs of verdict rows, in their order."""
    found: dict[tuple[str, ...], list[Verdict]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["method"], row["uid"]), []).append(row)
    return [Item(several) for several in found.values()]


def mean(values: Iterable[float]) -> float:
    """Return the mean of some values, of which there is one at least."""
    values = list(values)
    return sum(values) / len(values)
