"""What ends a plan, in one sentence: ours in place of Snakemake's lines around it."""

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from moult.base.errors import UserError
from moult.base.outside import one_line

_NO_RULE = re.compile(r"No rule to produce (.*) \(if you use input functions")
_MANY = "Target rules may not contain wildcards"


class OneSentence(logging.Filter):
    """A filter of Snakemake's logger. The last record of a plan that fails says the sentence of the UserError that
    ended it, or, of a target that nothing makes, what there is; without Snakemake's files, lines and rules."""

    def __init__(self, targets: Callable[[], Iterable[str]]) -> None:
        """targets: returns the names of target rules and the paths of all artefacts."""
        super().__init__()
        self.targets, self.said = targets, ""

    def ends(self, error: UserError) -> str:
        """Remember the sentence that a plan ends with, and return it."""
        self.said = str(error)
        return self.said

    def filter(self, record: logging.LogRecord) -> bool:
        """Put the sentence into the record of an exception; keep every record."""
        if getattr(record, "exception", None) is None:
            return True
        text = record.getMessage()
        if self.said:
            record.msg, record.args = self.said, ()
        elif found := _NO_RULE.search(text):
            record.msg, record.args = unknown_target(found[1], self.targets()), ()
        elif _MANY in text:
            rules = ", ".join(name for name in self.targets() if "/" not in name)
            told = f"a rule that makes many files is no target; name one of its files, or one of {rules}."
            record.msg, record.args = told, ()
        return True


def unknown_target(target: str, known: Iterable[str]) -> str:
    """Return the sentence for a target that nothing makes: the nearest that there is, or all target rules."""
    import difflib

    known = list(known)
    rules = [name for name in known if "/" not in name]
    # A name alone, such as that of a model, or the end of a path.
    near = [path for path in known if path.rsplit("/", 1)[-1].partition(".")[0] == target and path not in rules][:3]
    near = near or difflib.get_close_matches(target, known, n=3, cutoff=0.6)
    told = (
        f"; did you mean {' or '.join(near)}?"
        if near
        else f"; there is {', '.join(rules)}, and each path that `snakemake --summary` lists."
    )
    return f"target {one_line(target, 200)!r}: nothing makes it{told}"


def said_by(sentence: OneSentence, error: type[Exception]) -> Callable[..., Any]:
    """Return a function that calls another, and ends the plan by Snakemake's `error` where that raises a UserError."""

    def or_stop(check, *arguments):
        try:
            return check(*arguments)
        except UserError as raised:
            raise error(sentence.ends(raised)) from None

    return or_stop
