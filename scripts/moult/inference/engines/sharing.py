"""Which continuations are scored in one row, behind one context that they share."""

from collections.abc import Sequence

from moult.base.files import digest
from moult.inference.requests import ContinuationRequest

# Tokens of continuations behind one context: each sees the context and itself, but the mask has a place for all pairs.
MOST = 1024


def shared_rows(requests: Sequence[ContinuationRequest]) -> list[list[int]]:
    """Return rows of indices of requests with equal contexts, the longest first, equals by their digests.

    A row holds at most MOST tokens of continuations. One that is longer than its context stands alone: nothing would
    be saved. The order of the requests decides nothing.
    """
    rows: list[list[int]] = []
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
    first = requests[row[0]]
    width = len(first.context) + sum(len(requests[index].continuation) for index in row)
    return -width, digest([requests[index].as_dict() for index in row])
