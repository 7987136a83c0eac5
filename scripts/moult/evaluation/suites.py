"""The kinds of suites. A new kind is a `SuiteKind` in a module of its own, and its name here."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from moult.base.files import read_csv, write_csv
from moult.base.rows import Difference
from moult.base.stage import Job
from moult.evaluation.agreement import AGREEMENT
from moult.evaluation.judge_suite import JUDGE
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.labels import LABELS
from moult.evaluation.scores import COLUMNS, DIFFERENCES

KINDS = (LABELS, JUDGE, AGREEMENT)


def kind_of(rows: Sequence[Mapping[str, str]], kinds: Iterable[SuiteKind]) -> SuiteKind | None:
    """Return the kind that rows of summary.csv are scores of, by the method of the first; None without rows."""
    return next((kind for kind in kinds if rows and rows[0]["method"] in kind.methods), None)


def run(job: Job) -> None:
    """Do the job of tabulate_scores: one long table of all scores, and paired differences."""
    rows = [row for path in job.inputs.scores for row in read_csv(path)]
    write_csv(job.outputs.summary, rows, COLUMNS)
    differences: list[Difference] = []
    for kind in KINDS:
        paths = {Path(path).with_suffix("").parts[-2:]: path for path in job.inputs[kind.measurement]}
        differences += kind.differences(job.recipe, paths)
    write_csv(job.outputs.differences, differences, DIFFERENCES)
