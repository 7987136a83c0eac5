"""Which continuations are scored in one row, behind one context, and which rows behind one beginning of contexts."""

import itertools
from collections.abc import Iterator, Sequence

from moult.base.files import digest
from moult.inference.requests import ContinuationRequest

# Tokens of continuations behind one context: each sees the context and itself, but the mask has a place for all pairs.
MOST = 1024
# Tokens of a beginning that is read by itself: below that a further pass of the model costs what it saves.
LEAST = 32

Rows = list[list[int]]


def shared_batches(requests: Sequence[ContinuationRequest], size: int) -> Iterator[tuple[int, Rows]]:
    """Yield (tokens that all contexts of a batch begin with and that are read once, rows of the batch).

    Batches of one beginning follow each other. A beginning is shared where that leaves at most half of its rows' tokens
    to be read, as with shots that all documents of a task have: otherwise batches are of the longest rows first. The
    order of the requests decides nothing, and neither does who is asked for.
    """
    rows = shared_rows(requests)
    ranks = {row[0]: rank for rank, row in enumerate(rows)}
    groups = [
        (beginning, sorted(members, key=lambda row: ranks[row[0]]))
        for beginning, members in _beginnings(requests, rows)
    ]
    # Longest first: what needs too much memory fails at once.
    for beginning, members in sorted(groups, key=lambda group: ranks[group[1][0][0]]):
        for start in range(0, len(members), size):
            yield beginning, members[start : start + size]


def shared_rows(requests: Sequence[ContinuationRequest]) -> Rows:
    """Return rows of indices of requests with equal contexts, the longest first, equals by their digests.

    A row holds at most MOST tokens of continuations. One that is longer than its context stands alone: nothing would
    be saved. The order of the requests decides nothing.
    """
    rows: Rows = []
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        if len(request.continuation) > len(request.context):
            rows.append([index])
        else:
            by_context.setdefault(request.context, []).append(index)
    for context, members in by_context.items():
        members.sort(key=lambda index: (len(requests[index].continuation), requests[index].continuation))
        room = 0
        for index in members:
            used = len(requests[index].continuation)
            if room < used:
                rows.append([])
                room = max(MOST, len(context))
            rows[-1].append(index)
            room -= used
    # Longest first: what needs too much memory fails at once.
    return sorted(rows, key=lambda row: _place(requests, row))


def _place(requests, row):
    return -_width(requests, row), digest([requests[index].as_dict() for index in row])


def _width(requests, row):
    return len(requests[row[0]].context) + sum(len(requests[index].continuation) for index in row)


def _beginnings(requests, rows):
    """Return (tokens, rows whose contexts begin with the same so many), by which most tokens are saved; 0 of the rest.

    In the order of their contexts rows that share a beginning stand together, and what two rows share is the least of
    what neighbours between them do: one walk over the neighbours meets each beginning when its last row is behind it.
    """
    ordered = sorted(rows, key=lambda row: requests[row[0]].context)
    contexts = [requests[row[0]].context for row in ordered]
    read = [0, *itertools.accumulate(_width(requests, row) for row in ordered)]
    # Beginnings that are open: tokens, the first row, what is saved by those within, and these.
    open_ones: list[tuple[int, int, int, list[tuple[int, int, int]]]] = [(0, 0, 0, [])]
    for end in range(1, len(ordered) + 1):
        common = _common(contexts[end - 1], contexts[end]) if end < len(ordered) else 0
        first, saved, within = end - 1, 0, []
        while open_ones[-1][0] > common:
            tokens, first, inside, parts = open_ones.pop()
            saved, within = saved + inside, parts + within
            own = tokens * (end - first - 1)
            if tokens >= LEAST and own >= saved and 2 * own >= read[end] - read[first]:
                saved, within = own, [(tokens, first, end)]
        if open_ones[-1][0] == common:
            tokens, first, inside, parts = open_ones.pop()
            saved, within = saved + inside, parts + within
        open_ones.append((common, first, saved, within))
    shared = open_ones[-1][3]
    apart = set(range(len(ordered))).difference(*(range(first, end) for _, first, end in shared))
    groups = [(tokens, ordered[first:end]) for tokens, first, end in shared]
    return groups + ([(0, [ordered[place] for place in sorted(apart)])] if apart else [])


def _common(one, other):
    """Return how many tokens two contexts begin with alike, but for their last ones, behind which something stands."""
    most = min(len(one), len(other)) - 1
    return next((place for place in range(most) if one[place] != other[place]), max(0, most))
