"""Texts that nearly equal others: candidates by an inverted index of rare words, and an exact check of each.

Words share n-grams, so that what is looked up is a unit: the n-grams of one word that no commoner word has. By one
order of the units, the rarest first, the beginning of a text up to where the rest is too short for the threshold holds
the rarest unit that it shares with any text that reaches it (prefix filtering: Bayardo et al. 2007, "Scaling up all
pairs similarity search"). Of texts that no single unit makes alike, somewhat more of the beginning holds two such
units. There are so many more pairs of units than units that few texts have the same pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

# A text of more units in its beginning than this is looked up by each of them: pairs would be too many. It is then
# looked up by more of its units, by this share of its length, squared: fewer pairs of texts are left to check.
UNITS, BEYOND = 24, 0.12
# Look-ups of a block, pairs that are checked at a time, and pairs that are multiplied at a time: they bound the memory.
LOOKUPS, PAIRS, PRODUCT = 3_000_000, 50_000, 500
# Parts that the units of a text are folded into, which bound a cosine.
FOLDS = 64
# Sums in another order differ by less.
ROUNDING = 1e-9


class Texts:
    """Texts as unit vectors of their character 5-grams, equal texts once."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        # Text → the last place where it stands: of equal rows, that one is named.
        self.last = {text: place for place, text in enumerate(texts)}
        self.places = sorted(self.last.values())

    @property
    def vectors(self) -> Any:
        """A sparse matrix, a row for each of `places`; what HashingVectorizer makes of the whole texts."""
        return self._read[0]

    @property
    def unit_of(self) -> Any:
        """[n-grams], the commonest word that has an n-gram; -1 of those that none has."""
        return self._read[1]

    @cached_property
    def _read(self):
        """The vectors and the units; 5-grams do not cross blanks, so that those of each word are counted once."""
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
        unit_of = np.full(vectorizer.n_features, -1, np.int32)
        if known:
            # Of several that are written to one place, the last stays: the commonest.
            order = np.argsort(np.bincount(held, minlength=len(known)), kind="stable").astype(np.int32)
            ranked = grams[order]
            unit_of[ranked.indices] = np.repeat(order, np.diff(ranked.indptr))
        return normalize(counts, copy=False), unit_of


def closest(earlier: Texts, later: Texts, near: float) -> Iterator[tuple[int, int, float]]:
    """Yield (place in `later`, place in `earlier`, cosine) of each later text and the earlier one closest to it.

    All are there whose cosine, rounded to four digits, is at least `near`. Of the same Texts twice, a text is compared
    with those before it.
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
    found: dict[int, tuple[int, float]] = {}
    for rows, columns in _candidates(a, b, earlier.unit_of, least):
        if alone:
            rows, columns = rows[columns < rows], columns[columns < rows]
        for row, best, value in _checked(a, b, rows, columns, least, alone):
            found[row] = best, value
    place_of = dict(zip(later.places, range(len(later.places)), strict=True))
    for place, text in enumerate(later.texts):
        row = place_of[later.last[text]]
        if row in found:
            best, value = found[row]
            yield place, earlier.places[best], value


def _candidates(a, b, unit_of, least):
    """Yield arrays (rows of b, rows of a) of pairs, all that may reach `least`, those of a row together."""
    import numpy as np
    from scipy.sparse import csr_matrix

    # The rarest unit of a is the first one; n-grams that a does not have are of none.
    used = np.bincount(unit_of[a.indices], minlength=1)
    rank = np.empty(len(used), np.int64)
    rank[np.argsort(used, kind="stable")] = np.arange(len(used))
    grams = np.flatnonzero(unit_of >= 0)
    units = csr_matrix((np.ones(len(grams)), (grams, rank[unit_of[grams]])), shape=(len(unit_of), len(used)))
    begun_a = _Beginnings(a, units, np.full(a.shape[0], least.min()))
    begun_b = begun_a if b is a else _Beginnings(b, units, least)
    joins = [
        tuple(_of_pairs(begun_b, begun_a)),
        (begun_b.units(begun_b.plain), begun_a.units()),
        (begun_b.units(~begun_b.plain), begun_a.units(begun_a.plain)),
    ]
    joins = [(one, other.T.tocsr()) for one, other in joins]
    cost = sum(np.asarray((one != 0).astype(np.int64) @ np.diff(index.indptr)).ravel() for one, index in joins)
    for first, last in _blocks(cost, LOOKUPS):
        met = []
        for number, (one, index) in enumerate(joins):
            shared = (one[first:last] @ index).tocoo()
            rows, columns = shared.row + first, shared.col
            if number:
                # What both have of units is at most the product of their lengths.
                may = shared.data + np.maximum(begun_a.rest[columns], begun_b.rest[rows]) >= least[rows] - ROUNDING
                rows, columns = rows[may], columns[may]
            may = _at_most(begun_b.folded, begun_a.folded, rows, columns) >= least[rows]
            met.append((rows[may], columns[may]))
        yield tuple(map(np.concatenate, zip(*met, strict=True)))


def _at_most(b, a, rows, columns):
    """Return the most that the cosine of each pair can be, from the lengths of few parts of its texts."""
    import numpy as np

    found = np.empty(len(rows))
    for at in range(0, len(rows), PAIRS):
        one = slice(at, at + PAIRS)
        found[one] = np.einsum("ij,ij->i", b[rows[one]], a[columns[one]])
    # In float32.
    return found + 1e-4


class _Beginnings:
    """The beginnings of texts: their rarest units, and the share that each has of the text's squared length."""

    def __init__(self, vectors: Any, units: Any, least: Any) -> None:
        """units: [n-grams, units], 1 where an n-gram is of a unit; least: [texts], the threshold of each."""
        import numpy as np
        from scipy.sparse import csr_matrix

        shares = csr_matrix((vectors.data**2, vectors.indices, vectors.indptr), shape=vectors.shape) @ units
        shares.sort_indices()
        self.shape, sizes = shares.shape, np.diff(shares.indptr)
        text = np.repeat(np.arange(self.shape[0]), sizes)
        upto = np.concatenate([[0.0], np.cumsum(shares.data)])
        # What a unit and those behind it are of the text.
        left = upto[shares.indptr[1:]][text] - upto[:-1]
        enough = least**2 - 1e-6
        first = left >= enough[text]
        # The largest unit that may be the first one shared, of those before a unit of the same text.
        running = np.maximum.accumulate(np.where(first, shares.data, 0) + 2 * text) if len(text) else shares.data
        before = np.maximum(np.concatenate([[0.0], running])[: len(text)] - 2 * text, 0)
        second, wide = left + before >= enough[text], left >= enough[text] - BEYOND
        kept = second | wide
        self.text, self.unit, self.share = text[kept], shares.indices[kept].astype(np.int64), shares.data[kept]
        # first: whether a unit may be the first one shared; lacks: how large that must be for a unit to be the second;
        # wide: whether a text is looked up by a unit alone, if it is at all.
        self.first, self.wide, self.lacks = first[kept], wide[kept], (enough[text] - left)[kept]
        largest, beginning = np.zeros(self.shape[0]), np.zeros(self.shape[0])
        np.maximum.at(largest, text[first], shares.data[first])
        np.add.at(beginning, text[wide], shares.data[wide])
        # Texts that a single unit may make alike, and those that have too many pairs.
        self.plain = (largest >= enough) | (np.bincount(text[second], minlength=self.shape[0]) > UNITS)
        lengths = np.bincount(text, shares.data, self.shape[0])
        parts = csr_matrix((shares.data, shares.indices % FOLDS, shares.indptr), shape=(self.shape[0], FOLDS))
        self.folded = np.sqrt(parts.toarray().astype(np.float32))
        self.rest = np.sqrt(np.maximum(lengths - beginning, 0.0))

    def units(self, of: Any = None) -> Any:
        """Return the lengths of the units that texts are looked up by, [texts, units]; of: [texts], which have any."""
        import numpy as np
        from scipy.sparse import csr_matrix

        kept = self.wide if of is None else self.wide & of[self.text]
        return csr_matrix((np.sqrt(self.share[kept]), (self.text[kept], self.unit[kept])), shape=self.shape)

    def pairs(self) -> tuple[Any, Any]:
        """Return texts and keys of the pairs of units that may be the first two shared, of texts that are not plain."""
        import numpy as np

        texts, keys = [], []
        for further in range(1, UNITS):
            one, two = slice(0, max(0, len(self.text) - further)), slice(further, None)
            both = self.first[one] & (self.text[one] == self.text[two]) & ~self.plain[self.text[one]]
            both &= self.share[one] >= self.lacks[two]
            texts.append(self.text[one][both])
            keys.append(self.unit[one][both] * self.shape[1] + self.unit[two][both])
        return np.concatenate(texts), np.concatenate(keys)


def _of_pairs(b, a):
    """Return for either side a matrix [texts, pairs of units], of the pairs that b has."""
    import numpy as np
    from scipy.sparse import csr_matrix

    told = b.pairs()
    known = np.sort(told[1])
    known = known[np.concatenate([[True], known[1:] != known[:-1]])] if len(known) else np.full(1, -1)
    for side in (b, a):
        texts, keys = told if side is b else side.pairs()
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        kept = known[places] == keys
        entries = np.ones(kept.sum(), np.float32), (texts[kept], places[kept])
        yield csr_matrix(entries, shape=(side.shape[0], len(known)))


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
