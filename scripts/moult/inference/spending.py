"""What answers cost, and the budget that all jobs of an experiment share."""

import contextlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from moult.base.errors import UserError
from moult.base.rows import Usage
from moult.inference.journal import Journal, journals, passing, reading, root_of
from moult.inference.requests import Answer, author
from moult.jobs.locks import only_writer

# Dollars: counts are written with nine digits.
LEAST = 1e-8
logger = logging.getLogger(__name__)


def cost_of(price: Mapping[str, float], prompt_tokens: float, completion_tokens: float) -> float:
    """Return US dollars; `price` is dollars per million tokens of input and of output."""
    return (prompt_tokens * price["input"] + completion_tokens * price["output"]) / 1e6


def summed_usage(values: Sequence[Any], settings: Mapping[str, Any]) -> Usage:
    """Return calls, tokens and cost of stored answers; cost is None where the price is unknown, 0 for a model of this
    build.

    `assumed`, where there are any: how many answers are counted at their worst case, for want of counts of tokens.
    """
    totals = {name: sum(value[name] for value in values) for name in ("prompt_tokens", "completion_tokens")}
    assumed = sum(bool(value.get("assumed")) for value in values)
    cost = None if settings.get("url") else 0.0
    if settings.get("price"):
        cost = round(cost_of(settings["price"], **totals), 6)
    usage: Usage = {
        "endpoint": settings["name"],
        "model": author(settings),
        "calls": len(values),
        "failed": sum(value["finish_reason"] == "error" for value in values),
        "prompt_tokens": totals["prompt_tokens"],
        "completion_tokens": totals["completion_tokens"],
        "cost_usd": cost,
    }
    if assumed:
        usage["assumed"] = assumed
    return usage


def recount(folder: str | Path, root: Path, but: Path | None = None) -> None:
    """Write anew the counts of an experiment's jobs that are missing, damaged, or less than their journals say.

    root: the folder of all journals. but: the journal of the job that is running, which counts for itself.
    """
    for path in journals(root, but):
        # One that is written to counts for itself, too.
        with passing(), reading(path) as journal:
            Budget(None, {"input": 0, "output": 0}, Path(folder, job_of(path)), journal)


def job_of(journal: Path) -> str:
    """Return the name of the file in which the job counts whose journal this is: `<rule>.<name>`."""
    return ".".join(journal.with_suffix("").parts[1:])


def counts_in(folder: str | Path) -> dict[str, float]:
    """Return file name → dollars that the job has spent or promised."""
    return {path.name: sum(_read(path)) for path in sorted(Path(folder).glob("[!.]*"))}


def spending_in(folder: str | Path) -> float:
    """Return the dollars that all jobs of an experiment have spent or promised; 0 where no job has begun."""
    total = 0.0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                total += sum(_read(entry.path))
    return total


def _read(path):
    """Return (calls, batches) of one job's file: dollars paid for chat requests, paid or promised for batches."""
    file = os.open(path, os.O_RDONLY)
    try:
        text = os.read(file, 100).decode()
    finally:
        os.close(file)
    try:
        calls, batches = map(float, text.split() or (0, 0))
        if not (0 <= calls < math.inf and 0 <= batches < math.inf):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{path}: does not hold two amounts of dollars ({text!r}); correct it (what chat requests cost, what "
            "batches cost), or delete it if its job has spent nothing."
        ) from None
    return calls, batches


class Budget:
    """What an experiment may cost over all its jobs, runs and machines, and what one of its jobs has spent.

    Each job writes its own total into a file of its own and reads those of the others before it asks: no lock, no
    server. What was written survives a kill. The files are opened anew each time, because only then a network disk
    shows them to other machines.
    """

    def __init__(
        self,
        limit: float | None = None,
        price: Mapping[str, float] | None = None,
        path: str | Path | None = None,
        journal: Journal | None = None,
    ) -> None:
        """limit: dollars, None for no limit. price: see `cost_of`; without one nothing is counted. path: of the
        job's file, None to count nothing. journal: the job's, which knows what the file should hold."""
        self.limit, self.price, self.journal = limit, price, journal
        self.path = Path(path) if path and price else None
        self.calls = self.batches = 0.0
        if self.path:
            with contextlib.suppress(FileNotFoundError):
                self.calls, self.batches = self._counted()
            self.settle()

    @classmethod
    def of(cls, client: Mapping[str, Any], journal: Journal) -> Self:
        """Return the budget of the job whose answers are kept in `journal`; client: see `recipes.client_of`."""
        folder, path = client.get("spending"), journal.path
        if folder and client.get("price"):
            recount(folder, root_of(path), path)
        return cls(client.get("budget"), client.get("price"), folder and Path(folder, job_of(path)), journal)

    def _counted(self):
        try:
            return _read(self.path)
        except UserError:
            if not self.journal:
                raise
            logger.warning("%s was damaged; counted anew by the journal", self.path)
            self.path.unlink()
            self._write()
            return 0.0, 0.0

    def settle(self) -> None:
        """Bring the file and the journal into agreement: what one of them has more was spent.

        The file has what was paid by older code, or was lost on the way into the journal.
        """
        if not (self.path and self.journal):
            return
        folder = str(self.path.parent)
        calls, batches = self.journal.spent(folder)
        if self.calls > calls + LEAST and not self.journal.only_reads:
            self.journal.keep((), [(folder, None, None, None, None, self.calls - calls)])
        if calls > self.calls + LEAST or batches > self.batches + LEAST:
            self.calls, self.batches = max(calls, self.calls), max(batches, self.batches)
            self._write()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return dollars, 0 without a price."""
        return cost_of(self.price, prompt_tokens, completion_tokens) if self.price else 0.0

    def spent(self) -> float:
        """Return the dollars of all jobs of the experiment."""
        return spending_in(self.path.parent) if self.path else 0.0

    def left(self) -> float:
        """Return the dollars that are left, infinity without a limit."""
        return float("inf") if self.limit is None else self.limit - self.spent()

    def check(self) -> None:
        """Raise UserError when nothing is left. Call it right before each request: then no worker passes the limit
        by more than the one answer that it waits for."""
        # Looking twice: a number that another job writes at this moment could be read half old, half new.
        if self.limit is not None and self.left() <= 0 and self.left() <= 0:
            raise self.exhausted("")

    def exhausted(self, why: str) -> UserError:
        """Return the UserError that says what was spent, what is kept, and how it goes on."""
        place = f" (counted in {self.path.parent}/)" if self.path else ""
        return UserError(
            f"the budget of ${self.limit:,.4f} is spent: ${self.spent():,.4f} is paid or promised to batches under "
            f"way{place}{why}. Every answer that was paid for is in journal/ and no row was rejected: raise `budget` "
            "in the config and run again, it goes on."
        )

    def add(self, answer: Answer) -> None:
        """Count an answer's tokens; the count survives a kill of the process once this has returned."""
        self.calls += self.cost(answer.prompt_tokens, answer.completion_tokens)
        self._write()

    def promise(self, dollars: float) -> None:
        """Set what this job's batches have cost, or may cost while they are under way."""
        self.batches = dollars
        self._write()

    def alone(self) -> AbstractContextManager[None]:
        """Keep other jobs of the experiment from submitting a batch while the block runs: what is left is left."""
        if not self.path or self.limit is None:
            return contextlib.nullcontext()
        return only_writer(self.path.parent / ".submitting.lock", logger.info)

    def _write(self):
        if not self.path:
            return
        # Of one width, so that a write in place leaves nothing of the last one behind.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(file, f"{self.calls:20.9f} {self.batches:20.9f}\n".encode(), 0)
        finally:
            os.close(file)
