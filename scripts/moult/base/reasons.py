"""Why rows were lost, counted by kind: what differs from row to row is no kind of its own."""

import re
from collections import Counter
from collections.abc import Iterable

# What differs within a kind: a whole number, a quoted name.
_DIFFERING = re.compile(r"(?<![\w.'`])(\d+)(?![\w'`]|\.\d)|('[^']*')")
# Quoted names that a kind lists, and kinds that a sentence does.
NAMES, KINDS = 3, 5


def kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Return reason → count, the most frequent first; reasons that differ in numbers or quoted names alone are one.

    "has 2 fields, the header has 3" and "has 5 fields, the header has 3" are "has 2 to 5 fields, the header has 3".
    """
    found: dict[str, Counter[str]] = {}
    for reason, count in Counter(reasons).items():
        found.setdefault(_DIFFERING.sub(lambda one: "\0" if one[1] else "\1", reason), Counter())[reason] += count
    summed = {_summary(variants): variants.total() for variants in found.values()}
    return dict(sorted(summed.items(), key=lambda one: (-one[1], one[0])))


def _summary(variants):
    """Return one reason for several that differ in numbers and names."""
    if len(variants) == 1:
        return next(iter(variants))
    # Of each place its values, the most frequent first.
    found = ([one[0] for one in _DIFFERING.finditer(reason)] for reason, _ in variants.most_common())
    told = iter([_together(list(dict.fromkeys(values))) for values in zip(*found, strict=True)])
    return _DIFFERING.sub(lambda _: next(told), next(iter(variants)))


def _together(values):
    if len(values) == 1:
        return values[0]
    if values[0][0] != "'":
        numbers = sorted(map(int, values))
        return f"{numbers[0]} to {numbers[-1]}"
    shown = values[:NAMES]
    if left := len(values) - len(shown):
        return f"{', '.join(shown)} or {left} other{'s' * (left > 1)}"
    return f"{', '.join(shown[:-1])} or {shown[-1]}"


def in_words(reasons: Iterable[str]) -> str:
    """Return reasons with their counts as one line: `17 duplicate id; 3 empty text`."""
    found = list(kinds(reasons).items())
    told = [f"{count:,} {reason}" for reason, count in found[:KINDS]]
    if rest := sum(count for _, count in found[KINDS:]):
        told.append(f"{rest:,} for {len(found) - KINDS} other reasons")
    return "; ".join(told)
