"""Texts that nearly equal others: candidates by an inverted index of rare n-grams, and an exact check of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

# A share of a text's length, squared, beyond what the threshold asks for, by which its rare n-grams are looked up: more
# look-ups, fewer pairs to check.
BEYOND = 0.12
# Look-ups of a block, pairs that are checked at a time, and pairs that are multiplied at a time: they bound the memory.
LOOKUPS, PAIRS, PRODUCT = 10_000_000, 50_000, 500
# Sums in another order differ by less.
ROUNDING = 1e-9


class Texts:
    """Texts as unit vectors of their character 5-grams, equal texts once."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        # Text → the last place where it stands: of equal rows, that one is named.
        self.last = {text: place for place, text in enumerate(texts)}
        self.places = sorted(self.last.values())

    @cached_property
    def vectors(self) -> Any:
        """A sparse matrix, a row for each of `places`; what HashingVectorizer makes of the whole texts.

        Its 5-grams do not cross blanks, so that those of each word are counted once.
        """
        import numpy as np
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.preprocessing import normalize

        known: defaultdict[str, int] = defaultdict()
        known.default_factory = known.__len__
        words, ends = [], [0]
        for place in self.places:
            words.append(np.fromiter(map(known.__getitem__, self.texts[place].split()), dtype=np.int32))
            ends.append(ends[-1] + len(words[-1]))
        vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(5, 5), alternate_sign=False, norm=None)
        grams = vectorizer.transform(known) if known else csr_matrix((0, vectorizer.n_features))
        held = np.concatenate(words) if words else np.zeros(0, np.int32)
        counts = csr_matrix((np.ones(len(held)), held, ends), shape=(len(words), len(known))) @ grams
        counts.sort_indices()
        return normalize(counts, copy=False)


def closest(earlier: Texts, later: Texts, near: float) -> Iterator[tuple[int, int, float]]:
    """Yield (place in `later`, place in `earlier`, cosine) of each later text and the earlier one closest to it.

    All are there whose cosine, rounded to four digits, is at least `near`. Where two share no n-gram among their rarest
    ones the cosine is too small (prefix filtering: Bayardo et al. 2007, "Scaling up all pairs similarity search"): in
    one order of the n-grams, the rarest first, the beginning of a text, up to where the rest is shorter than the
    threshold, holds the rarest n-gram of any pair that reaches it.

    Of the same Texts twice, a text is compared with those before it.
    """
    import numpy as np

    if not any(earlier.last) or not any(later.last):
        return
    alone = earlier is later
    a, b = earlier.vectors, later.vectors
    # The threshold is that of the rounded cosine; a text that equals an earlier one is looked for among such alone.
    least = np.full(b.shape[0], max(near - 1e-4, 0.0))
    if not alone:
        least[[later.texts[place] in earlier.last for place in later.places]] = 1 - 1e-6
    order = np.argsort(np.argsort(np.bincount(a.indices, minlength=a.shape[1]), kind="stable"))
    rare_a, rest_a = _rarest(a, order, np.full(a.shape[0], least.min()))
    rare_b, rest_b = _rarest(b, order, least)
    index = rare_a.T.tocsr()
    lookups = np.diff(index.indptr)
    cost = np.asarray((rare_b != 0).astype(np.int64) @ lookups).ravel()
    found: dict[int, tuple[int, float]] = {}
    for first, last in _blocks(cost, LOOKUPS):
        shared = (rare_b[first:last] @ index).tocoo()
        rows, columns = shared.row + first, shared.col
        may = shared.data + np.maximum(rest_a[columns], rest_b[rows]) >= least[rows] - ROUNDING
        may &= columns < rows if alone else True
        for row, best, value in _checked(a, b, rows[may], columns[may], least, alone):
            found[row] = best, value
    place_of = dict(zip(later.places, range(len(later.places)), strict=True))
    for place, text in enumerate(later.texts):
        row = place_of[later.last[text]]
        if row in found:
            best, value = found[row]
            yield place, earlier.places[best], value


def _rarest(vectors, order, least):
    """Return the rarest n-grams of each row, columns in `order`, and the length of what is left out of each row."""
    import numpy as np
    from scipy.sparse import csr_matrix

    columns = order[vectors.indices].astype(np.int32)
    ranked = csr_matrix((vectors.data.copy(), columns, vectors.indptr), shape=vectors.shape)
    ranked.sort_indices()
    row_of = np.repeat(np.arange(ranked.shape[0]), np.diff(ranked.indptr))
    upto = np.cumsum(ranked.data**2)
    before = upto - ranked.data**2
    starts = before[np.minimum(ranked.indptr[:-1], len(before) - 1)]
    kept = before - starts[row_of] <= (1 - least**2 + BEYOND)[row_of]
    left = np.bincount(row_of[~kept], ranked.data[~kept] ** 2, minlength=ranked.shape[0])
    ends = np.concatenate([[0], np.cumsum(np.bincount(row_of[kept], minlength=ranked.shape[0]))])
    return csr_matrix((ranked.data[kept], ranked.indices[kept], ends), shape=ranked.shape), np.sqrt(left)


def _blocks(cost, most):
    """Yield (first, last) of rows whose costs are together at most `most`, a row at least."""
    import numpy as np

    upto, first = np.cumsum(cost), 0
    while first < len(cost):
        done = upto[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(upto, done + most, side="right")))
        yield first, last
        first = last


def _checked(a, b, rows, columns, least, alone=False):
    """Yield (row, column, cosine) of the best column of each row, out of pairs that may reach `least`; alone: of the
    columns before the row."""
    import numpy as np

    about = np.concatenate(
        [np.zeros(0)]
        + [
            np.asarray(b[rows[at : at + PAIRS]].multiply(a[columns[at : at + PAIRS]]).sum(axis=1)).ravel()
            for at in range(0, len(rows), PAIRS)
        ]
    )
    best = np.maximum(_best(rows, about, b.shape[0])[rows], least[rows])
    rows, columns = rows[about >= best - ROUNDING], columns[about >= best - ROUNDING]
    order = np.argsort(rows, kind="stable")
    rows, columns = rows[order], columns[order]
    wanted_rows, counts = np.unique(rows, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    for first, last in _blocks(counts, PRODUCT):
        wanted, among = wanted_rows[first:last], np.unique(columns[ends[first] : ends[last]])
        # The last bits, and which of equal ones is named, are those of the whole product.
        scores = b[wanted] @ a[among].T.tocsr()
        for place, row in enumerate(wanted):
            own = slice(*scores.indptr[place : place + 2])
            found, values = among[scores.indices[own]], scores.data[own]
            top = np.where(found < row, values, -1).argmax() if alone else values.argmax()
            yield int(row), int(found[top]), float(values[top])


def _best(rows, values, count):
    import numpy as np

    best = np.zeros(count)
    np.maximum.at(best, rows, values)
    return best
