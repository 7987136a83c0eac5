"""What every script does around its one function: log, check inputs, keep a scratch folder, write the manifest last."""

import contextlib
import logging
import os
import shutil
import sys
import time
from pathlib import Path

from moult.errors import UserError
from moult.files import digest
from moult.guard import die_with_scheduler, only_writer
from moult.manifest import artefact, check_manifest, installed_versions, write_manifest


class Job:
    """One run of a rule: its recipe, its place for checkpoints, its journal, and the facts for its manifest.

    `client` says how a remote endpoint is to be dealt with; it is no part of the recipe, since it changes no answer.
    """

    def __init__(self, rule, name, params, parents):
        self.rule, self.name, self.facts = rule, name, {}
        self.recipe, self.client = params.get("recipe", {}), params.get("client")
        self.parents = {path: check_manifest(path)["content"] for path in parents}

    def card(self, facts):
        """Return the facts of a model card with what this job knows: parents by content hash, and versions."""
        parents = [f"{artefact(path)}: {content}" for path, content in sorted(self.parents.items())]
        return facts | {"parents": parents, "versions": installed_versions()}

    @property
    def scratch(self):
        """A folder named by rule, name, and the digest of recipe and data: the same work resumes, other work never."""
        return Path("scratch", self.rule, self.name, digest([self.recipe, sorted(self.parents.values())])[:16])

    @property
    def journal(self):
        """Where this job's answers are kept, outside of what any rule or `make clean` removes."""
        return Path("journal", self.rule, f"{self.name}.sqlite")


@contextlib.contextmanager
def job(snakemake):
    """Run the body as one job of `snakemake.rule`; everything printed goes to the rule's log.

    A UserError becomes its sentence on the terminal and in the log, and exit status 1. Inputs that are manifests are
    checked against their files. Unless the body fails, the output `manifest` is written, after all other outputs.
    """
    begun = time.monotonic()
    die_with_scheduler()
    name = "/".join(snakemake.wildcards) or "all"
    terminal = _log_to(snakemake.log[0])
    logging.info("%s %s", snakemake.rule, name)

    def tell(sentence):
        logging.info("%s", sentence)
        print(f"{snakemake.rule} {name}: {sentence}", file=terminal, flush=True)

    try:
        with only_writer(Path("scratch", "locks", snakemake.rule, f"{name}.lock"), tell):
            parents = [path for path in snakemake.input if str(path).endswith(".manifest.json")]
            running = Job(snakemake.rule, name, snakemake.params, parents)
            yield running
            if "manifest" in snakemake.output.keys():
                others = [path for path in snakemake.output if path != snakemake.output.manifest]
                write_manifest(
                    snakemake.output.manifest,
                    rule=snakemake.rule,
                    outputs=others,
                    parents=parents,
                    recipe=running.recipe,
                    facts=running.facts,
                )
            shutil.rmtree(running.scratch, ignore_errors=True)
    except UserError as error:
        tell(error)
        sys.exit(1)
    logging.info("done in %.1f s", time.monotonic() - begun)


def _log_to(path):
    """Send logging, standard output and standard error of this process to a file; return the old standard error."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(2), "w")
    log = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - it stays open as this process's output
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    logging.basicConfig(stream=log, level=logging.INFO, force=True)
    logging.root.handlers[0].setFormatter(_SinceStart("%(asctime)s +%(since).1f s %(message)s", "%H:%M:%S"))
    return terminal


class _SinceStart(logging.Formatter):
    """Adds `since`: seconds since logging was imported, next to nothing after the process began."""

    def format(self, record):
        record.since = record.relativeCreated / 1000
        return super().format(record)
