"""One parser per answer format."""

import re
import unicodedata


def parse_label(text, labels):
    """Return (label, status) of a generated answer.

    A label counts where it stands as whole words, whatever its case; underscores are spaces. No label is `unknown`,
    more than one is `multi`; both are wrong, neither is a class. A label inside a longer label that stands there too
    ("inform" in "inform friend") is not a hit of its own. The rule of MMLA's evaluation, made exact.
    """
    folded = _folded(text)
    spans = []
    for label in labels:
        pattern = rf"(?<![a-z0-9]){re.escape(_folded(label))}(?![a-z0-9])"
        spans += [(found.start(), found.end(), label) for found in re.finditer(pattern, folded)]
    hits = {
        label
        for start, end, label in spans
        if not any(a <= start and end <= b and (a, b) != (start, end) for a, b, _ in spans)
    }
    if len(hits) == 1:
        return hits.pop(), "ok"
    return None, "multi" if hits else "unknown"


def _folded(text):
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", text).lower())
