"""The kinds of suites. A new kind is a `SuiteKind` in a module of its own, and its name here."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from moult.base.files import read_csv, write_csv
from moult.base.stage import Job
from moult.base.suite_rows import Difference
from moult.evaluation.agreement import AGREEMENT
from moult.evaluation.head_to_head.suite import HEAD_TO_HEAD
from moult.evaluation.judge_suite import JUDGE
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.labels import LABELS
from moult.evaluation.leaderboard import leading_pairs
from moult.evaluation.lm_eval_suite import LM_EVAL
from moult.evaluation.probing.suite import PROBING
from moult.evaluation.scores import COLUMNS, DIFFERENCES

KINDS = (LABELS, JUDGE, AGREEMENT, *HEAD_TO_HEAD, LM_EVAL, PROBING)


def kind_of(rows: Sequence[Mapping[str, str]], kinds: Iterable[SuiteKind]) -> SuiteKind | None:
    """Return the kind that rows of summary.csv are scores of, by the method of the first; None without rows."""
    return next((kind for kind in kinds if rows and rows[0]["method"] in kind.methods), None)


def run(job: Job) -> None:
    """Do the job of tabulate_scores: one long table of all scores, and paired differences.

    Beside the pairs that the config asks for, the best is compared with the runner-up: no lead is called clear without
    a paired test.
    """
    rows = [row for path in job.inputs.scores for row in read_csv(path)]
    write_csv(job.outputs.summary, rows, _columns(COLUMNS, rows))
    differences: list[Difference] = []
    measured = {(suite, name) for suite, name, _ in job.recipe["measured"]}
    for kind in KINDS:
        leading = [pair for pair in leading_pairs(kind, rows) if kind.leads or (pair[0], pair[1]) in measured]
        known = {(suite, frozenset(names)) for suite, *names in job.recipe["pairs"]}
        leading = [pair for pair in leading if (pair[0], frozenset(pair[1:])) not in known]
        recipe = job.recipe | {"pairs": [*job.recipe["pairs"], *leading]}
        paths = {Path(path).with_suffix("").parts[-2:]: path for path in job.inputs[kind.measurement]}
        differences += kind.differences(recipe, paths)
    write_csv(job.outputs.differences, differences, _columns(DIFFERENCES, differences))


def _columns(all_have, rows):
    """Return the columns that all kinds have, and behind them those that some have."""
    return list(dict.fromkeys([*all_have, *(column for row in rows for column in row)]))
