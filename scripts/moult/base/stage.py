"""The stage: one rule, what it makes out of what, by which recipe, and the function that does it.

Everybody who has to know something of a rule (the rule files, what jobs need, where they run, the estimate, the report)
asks its stage. Stages are plain values in a plain tuple, `moult.stages.STAGES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

# How an artefact's name ends where it is no file of rows: folders have no ending.
ENDINGS = dict.fromkeys(("raw", "videos", "datasets", "models", "students", "adapters", "exports"), "")
ENDINGS |= {"scores": ".csv", "leakage": ".csv", "plots": ".svg"}


@dataclass(frozen=True)
class Ref:
    """A reference to an artefact: its kind, its name (`suite/name` under a suite), and how a job depends on it.

    form: `artefact`, the usual: the job gets the artefact and its manifest, and reruns when the manifest changes;
    `settled`: both, and it reruns for neither; `unwatched`: the artefact alone, and it does not rerun for it; `file`:
    the file alone, and it reruns when the file changes; `manifest`: the manifest alone.
    """

    kind: str
    name: str
    form: Literal["artefact", "settled", "unwatched", "file", "manifest"] = "artefact"

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
    """A file or a folder of the user's own, relative to the working directory."""

    path: str


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
    Snakemake. told: further params that are compared, by name. client: how it is run; never compared. inputs: key → a
    reference, or a list of them. model: the model of this build that the job loads, None without one. needs: the
    hardware that it asks for, by a name of `planning.needs`. workload: what that depends on beside the model. threads:
    CPU threads; by default those of the model. words: (recipe, facts) → (short, long), for a picture and a table.
    """

    rule: str
    makes: str
    doing: str
    run: str
    wildcards: tuple[str, ...] = ()
    names: Callable[[Any], list[tuple[str, ...]]] = lambda cfg: [()]
    wanted: Callable[[Any], list[tuple[str, ...]]] | None = None
    recipe: Callable[..., dict] | None = None
    told: dict[str, Callable[..., Any]] = field(default_factory=dict)
    client: Callable[..., Any] | None = None
    inputs: Callable[..., dict] = nothing
    model: Callable[..., str | None] = none
    needs: str | Callable[..., str] = "tables"
    workload: Callable[..., dict] = nothing
    threads: Callable[..., int] | None = None
    words: Callable[[dict, dict], tuple[str, str]] = no_words

    def needed(self, cfg, *names) -> str:
        """Return the name of the hardware that a job asks for; without a model at work it is that of tables."""
        asked = self.needs(cfg, *names) if callable(self.needs) else self.needs
        return "tables" if asked in MODEL_AT_WORK and self.model(cfg, *names) is None else asked

    def cpus(self, cfg, *names) -> int:
        """Return the CPU threads of a job: its own arithmetic, the model's, or one."""
        if self.threads:
            return self.threads(cfg, *names)
        model = self.model(cfg, *names)
        return cfg.compute_of(model).threads if model else 1

    def planned(self, cfg) -> list[tuple[str, ...]]:
        """Return the names of the jobs of a whole build."""
        return (self.wanted or self.names)(cfg)


# Needs of jobs in which a model is at work, where one is.
MODEL_AT_WORK = ("inference", "lora", "full")
