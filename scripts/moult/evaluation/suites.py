"""The kinds of suites. A new kind is a `SuiteKind` in a module of its own, and its name here."""

from moult.evaluation.judge_suite import JUDGE
from moult.evaluation.labels import LABELS

KINDS = (LABELS, JUDGE)


def kind_of(rows, kinds):
    """Return the kind that rows of summary.csv are scores of, by the method of the first; None without rows."""
    return next((kind for kind in kinds if rows and rows[0]["method"] in kind.methods), None)
