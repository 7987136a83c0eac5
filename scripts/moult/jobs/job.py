"""What happens around the function of every job: log, check of inputs, scratch folder, manifest at the end."""

import contextlib
import io
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moult.base import stage
from moult.base.errors import UserError
from moult.base.failures import explain
from moult.base.files import digest
from moult.base.legible import legible
from moult.base.rows import Facts
from moult.base.secrets import redacted, variables_in
from moult.jobs.gpus import check_cuda, leased
from moult.jobs.locks import die_with_scheduler, only_writer
from moult.jobs.manifest import artefact, check_manifest, installed_versions, manifest_beside, write_manifest
from moult.jobs.slurm import allocation


class Job:
    """One run of a rule: its recipe, its place for checkpoints, its journal, and the facts for its manifest.

    `client` holds rate limits, price, budget and the like of a remote endpoint; it is not in the recipe, since it
    changes no answer.
    """

    def __init__(
        self,
        rule: str,
        name: str,
        params: Any,
        parents: Iterable[str],
        inputs: Any = None,
        outputs: Any = None,
        threads: int = 1,
    ) -> None:
        """inputs, outputs: the files of Snakemake's job, by name."""
        self.rule, self.name, self.params = rule, name, params
        self.facts: Facts = {}
        self.used: dict[str, Sequence[str]] = {}
        self.inputs, self.outputs, self.threads = inputs, outputs, threads
        self.recipe, self.client = params.get("recipe", {}), params.get("client")
        read = {str(path) for path in inputs or ()}
        self.parents = {path: check_manifest(path, artefact(path) in read)["content"] for path in parents}

    def card(self, facts: Facts) -> Facts:
        """Return the contents of a model card: what planning knows, `facts`, the parents' content hashes, package
        versions."""
        parents = [f"{artefact(path)}: {content}" for path, content in sorted(self.parents.items())]
        return self.params["card"] | {"parents": parents, "versions": installed_versions()} | facts

    @property
    def scratch(self) -> Path:
        """The folder of checkpoints, named by rule, name, and the digest of recipe and data: only the same work resumes
        in it."""
        return Path("scratch", self.rule, self.name, digest([self.recipe, sorted(self.parents.values())])[:16])

    @property
    def journal(self) -> Path:
        """Where this job's answers are kept, outside of what any rule or `make clean` removes."""
        return Path("journal", self.rule, f"{self.name}.sqlite")


@contextlib.contextmanager
def job(snakemake: Any) -> Iterator[stage.Job]:
    """Run the body as one job of the rule that `snakemake.params.rule` names; what is printed goes to the rule's log.

    Whatever the body raises becomes one sentence on the terminal and in the log, and exit status 1; unless it was a
    UserError, the log has the traceback too. Inputs that are manifests are checked against their files. Unless the
    body fails, a manifest is written after all outputs: the output `manifest`, or one beside them.
    """
    begun, since = time.monotonic(), time.time_ns()
    die_with_scheduler()
    rule, name = snakemake.params.rule, "/".join(snakemake.wildcards) or "all"
    terminal = os.fdopen(os.dup(2), "w")

    variables = list(variables_in(dict(snakemake.params.items())))

    def show(sentence):
        print(legible(redacted(f"{rule} {name}: {sentence}", *variables)), file=terminal, flush=True)

    def tell(sentence, traceback=False):
        # Where the log's own disk is full, the terminal has the sentence still.
        with contextlib.suppress(OSError):
            logging.info("%s", sentence, exc_info=traceback)
        show(sentence)

    try:
        _log_to(snakemake.log[0], variables)
        logging.root.addHandler(_Warnings(show))
        logging.info("%s %s%s", rule, name, f" ({allocation()})" if allocation() else "")
        lock = Path("scratch", "locks", rule, f"{name}.lock")
        gpus = snakemake.resources.get("gpu", 0)
        with only_writer(lock, tell), leased(gpus, tell) as held:
            given = held or ([os.environ.get("CUDA_VISIBLE_DEVICES") or "by Slurm"] if gpus and allocation() else [])
            if given:
                logging.info("GPU %s", ",".join(given))
                check_cuda(given)
            parents = [path for path in snakemake.input if str(path).endswith(".manifest.json")]
            declared = "manifest" in snakemake.output.keys()
            manifest = snakemake.output.manifest if declared else manifest_beside(snakemake.output[0])
            if not declared:
                # Snakemake removes what it knows of.
                Path(manifest).unlink(missing_ok=True)
            beside = [path for path in _beside(snakemake.input, manifest) if path not in parents]
            for path in beside:
                check_manifest(path)
            files = snakemake.input, snakemake.output
            running = Job(rule, name, snakemake.params, parents, *files, snakemake.threads)
            yield running
            write_manifest(
                manifest,
                rule=rule,
                outputs=[path for path in snakemake.output if path != manifest],
                parents=parents if declared else [*parents, *beside],
                recipe=running.recipe,
                facts=running.facts,
                used=running.used,
                since=since,
            )
            shutil.rmtree(running.scratch, ignore_errors=True)
        logging.info("done in %.1f s", time.monotonic() - begun)
    except Exception as error:
        places = [*snakemake.output, Path("scratch"), Path("journal"), snakemake.log[0]]
        tell(explain(error, snakemake.log[0], places), traceback=not isinstance(error, UserError))
        sys.exit(1)


def _beside(inputs, manifest):
    """Return the manifests beside inputs that are results, as `manifest` is. Tables of before have none."""
    ours = [path for path in inputs if Path(path).parts[0] == Path(manifest).parts[0]]
    return sorted({str(path) for path in map(manifest_beside, ours) if path.exists()})


def _log_to(path, variables):
    """Send logging, standard output and standard error of this process to a file; redact the values of variables."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    log = _Legible(open(path, "wb"), encoding="utf-8", line_buffering=True)  # noqa: SIM115 - this process's output
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    # What is printed in Python passes the same place.
    sys.stdout = sys.stderr = log
    logging.basicConfig(handlers=[_Strict(log)], level=logging.INFO, force=True)
    logging.root.handlers[0].setFormatter(_Line(variables))


class _Legible(io.TextIOWrapper):
    """A text file in which nothing acts on the terminal that shows it."""

    def write(self, text: str, /) -> int:
        return super().write(legible(text))


class _Strict(logging.StreamHandler):
    """Raises where a line cannot be written, as on a full disk; logging itself would ignore it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exception(), OSError):
            raise
        super().handleError(record)


class _Warnings(logging.Handler):
    """Shows the warnings of our own modules on the terminal too: what a user should know without opening a log."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(logging.Filter("moult"))
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        self.show(record.getMessage())


class _Line(logging.Formatter):
    """Formats time, seconds since logging was imported (about the start of the process), and the redacted message."""

    def __init__(self, variables: list[str]) -> None:
        super().__init__("%(asctime)s +%(since).1f s %(message)s", "%H:%M:%S")
        self.variables = variables

    def format(self, record: logging.LogRecord) -> str:
        record.since = record.relativeCreated / 1000
        return redacted(super().format(record), *self.variables)
