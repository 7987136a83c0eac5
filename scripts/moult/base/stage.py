"""The stage: one rule, what it makes out of what, by which recipe, and the function that does it.

Rule files, needs, partitions, estimate and report read everything that they know about a rule from its stage. Stages
are plain values in a plain tuple, `moult.stages.STAGES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from moult.base.rows import Facts, Recipe

# How an artefact's name ends where it is no file of rows: folders have no ending.
ENDINGS = dict.fromkeys(("raw", "videos", "datasets", "models", "students", "sweeps", "adapters", "exports"), "")
ENDINGS |= dict.fromkeys(("taskdata", "encodings", "relations"), "")
ENDINGS |= {"scores": ".csv", "leakage": ".csv", "plots": ".svg", "consensus": ".json", "published": ".json"}
ENDINGS |= {"probe_tables": ".json"}


class Experiment(Protocol):
    """What a checked config (`moult.config.experiment.Config`) answers to packages that may not import it.

    Its entries are the sections of `moult.config.entries`, and look the same to everyone.
    """

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def budget(self) -> float | None: ...
    @property
    def evaluations(self) -> Sequence[Any]: ...
    @property
    def evaluation_of(self) -> Mapping[tuple[str, str], Any]: ...
    @property
    def measured(self) -> Mapping[tuple[str, str], dict[str, str]]: ...
    @property
    def judged(self) -> Mapping[tuple[str, str], str]: ...
    @property
    def answered(self) -> list[tuple[str, str]]: ...
    @property
    def predicted(self) -> Mapping[tuple[str, str], list[str]]: ...
    def find(self, kind: str, name: str) -> Any: ...
    def names(self, kind: str) -> list[str]: ...
    def under(self, kind: str) -> list[Any]: ...
    def compute_of(self, name: str) -> Any: ...
    def lineage(self, name: str) -> list[Any]: ...
    def corpus_dataset(self, name: str) -> Any: ...


class Job(Protocol):
    """What the function of a stage is given: one run of its rule (`moult.jobs.job.Job`).

    inputs, outputs, params: those of Snakemake's job, by name. client: how endpoints are dealt with, which decides no
    byte. facts: to be set to what the job counted, for its manifest. used: file or folder of the user's → the names of
    the files in it that the job read or looked for (`.` for a file): their digests go into the manifest.
    """

    facts: Facts
    used: dict[str, Sequence[str]]

    @property
    def name(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def params(self) -> Any: ...
    @property
    def inputs(self) -> Any: ...
    @property
    def outputs(self) -> Any: ...
    @property
    def client(self) -> Any: ...
    @property
    def threads(self) -> int: ...
    @property
    def scratch(self) -> Path: ...
    @property
    def journal(self) -> Path: ...
    def card(self, facts: Facts) -> Facts: ...


@dataclass(frozen=True)
class Ref:
    """A reference to an artefact: its kind, its name (`suite/name` under a suite), and how a job depends on it.

    form: `artefact`, the usual: the job gets the artefact and its manifest, and reruns when the manifest changes;
    `settled`: both, and it reruns for neither; `unwatched`: the artefact alone, and it does not rerun for it;
    `shared`: the same, and it is made for those alone of its users that lack; `file`: the file alone, and it reruns
    when the file changes; `manifest`: the manifest alone.
    """

    kind: str
    name: str
    form: Literal["artefact", "settled", "unwatched", "shared", "file", "manifest"] = "artefact"

    @property
    def path(self) -> str:
        """The artefact's path below the results."""
        return f"{self.kind}/{self.name}{ENDINGS.get(self.kind.split('/')[0], '.jsonl')}"

    @property
    def manifest(self) -> str:
        """The path of its manifest below the results."""
        return f"{self.kind}/{self.name}.manifest.json"


@dataclass(frozen=True)
class Local:
    """A file or a folder of the user's own, relative to the working directory.

    used: the names of those files of a folder that a job would read. Without it they are what the last job read.
    """

    path: str
    used: Callable[[str], list[str]] | None = None


def nothing(*_: Any) -> dict:
    """Return no inputs, and nothing that a job's needs depend on."""
    return {}


def no_words(recipe: dict, facts: dict) -> tuple[str, str]:
    """Return nothing to be said of an artefact, neither shortly nor at length."""
    return "", ""


def none(*_: Any) -> None:
    """Return no client, or no model."""


@dataclass(frozen=True)
class Stage:
    """What there is to know of a rule. All callables take the config first, then what the job is named by.

    rule: its name, that of its folder of logs and of its journal. makes: the kind of artefact. doing: what a job does,
    for the terminal; it may name wildcards. run: `module:function`, imported by the job alone; it takes the job.
    wildcards: what a job is named by. names: the names that there are, as tuples in the order of the wildcards.
    wanted: those that a whole build makes, where they are fewer. recipe: what decides the bytes; compared by
    Snakemake. params: further ones that are compared, by name. client: how it is run; never compared. inputs: key → a
    reference, or a list of them. model: the model of this build that the job loads, None without one. needs: the
    hardware that it asks for, by a name of `planning.needs`. workload: what that depends on beside the model. threads:
    CPU threads; by default those of the model. words: (recipe, facts) → (short, long), for a picture and a table. asks:
    what it will ask of endpoints (`inference.plans.Asking`), by what there is so far (`planning.estimate.Known`). file:
    the path of what it makes, below the results, where no wildcard names it. sealed: whether its rule has a manifest
    among its outputs; else the job writes one beside them, which results of before lack. passing: whether what it makes
    is there only until all that needs it is done (`temp` in its rule).
    """

    rule: str
    makes: str
    doing: str
    run: str
    wildcards: tuple[str, ...] = ()
    names: Callable[[Any], Sequence[tuple[str, ...]]] = lambda cfg: [()]
    wanted: Callable[[Any], Sequence[tuple[str, ...]]] | None = None
    recipe: Callable[..., dict] | None = None
    params: dict[str, Callable[..., Any]] = field(default_factory=dict)
    client: Callable[..., Any] | None = None
    inputs: Callable[..., dict] = nothing
    model: Callable[..., str | None] = none
    needs: str | Callable[..., str] = "tables"
    workload: Callable[..., dict] = nothing
    threads: Callable[..., int] | None = None
    words: Callable[[dict, dict], tuple[str, str]] = no_words
    asks: Callable[..., Any] | None = None
    file: str | None = None
    sealed: bool = True
    passing: bool = False

    def path(self, *names: str) -> str:
        """Return the path of what a job makes, below the results."""
        return self.file or Ref(self.makes, "/".join(names)).path

    def manifest(self, *names: str) -> str:
        """Return the path of the manifest of what a job makes, below the results."""
        beside = self.file and Path(self.file).with_suffix(".manifest.json").as_posix()
        return beside or Ref(self.makes, "/".join(names)).manifest

    def needed(self, cfg: Experiment, *names: str) -> str:
        """Return the name of the hardware that a job asks for; without a model at work it is that of tables."""
        asked = self.needs(cfg, *names) if callable(self.needs) else self.needs
        return "tables" if asked in MODEL_AT_WORK and self.model(cfg, *names) is None else asked

    def cpus(self, cfg: Experiment, *names: str) -> int:
        """Return the CPU threads of a job: its own arithmetic, the model's, or one."""
        if self.threads:
            return self.threads(cfg, *names)
        model = self.model(cfg, *names)
        return cfg.compute_of(model).threads if model else 1

    def planned(self, cfg: Experiment) -> Sequence[tuple[str, ...]]:
        """Return the names of the jobs of a whole build."""
        return (self.wanted or self.names)(cfg)


# Needs of jobs in which a model is at work, where one is.
MODEL_AT_WORK = ("inference", "lora", "full")
