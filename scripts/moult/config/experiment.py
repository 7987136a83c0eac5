"""The config as a type, and the questions that are asked of it."""

import os
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

from pydantic import Field

from moult.base.section import Line, Name, Section
from moult.config.entries.corpora import Corpus, Endpoint, Rounds
from moult.config.entries.datasets import Dataset
from moult.config.entries.evaluations import Evaluation, Suite
from moult.config.entries.models import Compute, Model
from moult.config.expansion import LISTS
from moult.evaluation.head_to_head.measured import answering
from moult.evaluation.suites import KINDS


class Config(Section):
    """One experiment."""

    name: Name = Field(description="Name of the experiment; its results go to results/<name>/.")
    title: Line | None = Field(None, description="Heading of the report; null: the experiment's name.")
    seed: int = Field(
        0, ge=-(2**63), lt=2**63, description="Seed from which every job and every row derives a seed of its own."
    )
    limit: int | None = Field(
        None,
        ge=1,
        lt=2**63,
        description="Rows per split for a smoke run, which every table then mentions; null: all rows.",
    )
    budget: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description=(
            "Limit in US dollars on all remote answers of all runs of the experiment together; null: no limit."
        ),
    )
    push: bool = Field(
        False,
        description="Whether the target `publish` may send models to a hub; meant for the command line.",
    )
    compute: Compute = Field(
        Compute(), description="Engine, dtype, batch size and threads of every model that has no `compute` of its own."
    )
    datasets: list[Dataset] = Field(
        [], description="Raw tables that are fetched and prepared as train, dev and test rows."
    )
    endpoints: list[Endpoint] = Field([], description="Remote APIs and models of this build that answer chat requests.")
    corpora: list[Corpus] = Field(
        [], description="Text that endpoints generate: guidelines, distilled or refined answers, preference pairs."
    )
    models: list[Model] = Field([], description="Models that are fetched, fine-tuned, preference-optimised or merged.")
    suites: list[Suite] = Field([], description="Ways to measure: label classification, or comparison by a judge.")
    evaluations: list[Evaluation] = Field([], description="Which models, settings or corpora each suite measures.")
    rounds: list[Rounds] = Field(
        [],
        description=(
            "Iterative training; each entry is written out into endpoints, corpora and models, one of each per round."
        ),
    )

    def __hash__(self):
        """A config is one object for a whole process: what follows from it may be kept by it."""
        return id(self)

    @cached_property
    def by_name(self) -> dict[str, dict[str, Any]]:
        """The entries of every list that has names, as kind → name → entry; of a repeated name the first."""
        return {
            kind: {entry.name: entry for entry in reversed(getattr(self, kind))}
            for kind in LISTS
            if kind != "evaluations"
        }

    @cached_property
    def evaluation_of(self) -> dict[tuple[str, str], Evaluation]:
        """The evaluation that measures a model, a setting or a corpus under a suite, by (suite, name)."""
        return {(entry.suite, name): entry for entry in reversed(self.evaluations) for name in entry.measured}

    @cached_property
    def measured(self) -> dict[tuple[str, str], dict[str, str]]:
        """What is scored by labels: (suite, model or setting) → dataset → the model that answers for it there."""
        found = {}
        for entry in self.under("labels"):
            datasets = self.find("suites", entry.suite).labels.datasets
            for name in entry.models:
                found[entry.suite, name] = dict.fromkeys(datasets, name)
            for setting in entry.settings:
                found[entry.suite, setting.name] = {dataset: setting.model_for(dataset) for dataset in datasets}
        return found

    @cached_property
    def judged(self) -> dict[tuple[str, str], str]:
        """What a judge compares: (suite, model or corpus) → the one that it is compared with, itself among them."""
        return {(entry.suite, name): entry.against[0] for entry in self.under("judge") for name in entry.measured}

    @cached_property
    def answered(self) -> list[tuple[str, str]]:
        """Whose answers a judge is shown and are yet to be asked for, as (suite, model)."""
        return list(dict.fromkeys((entry.suite, name) for entry in self.under("judge") for name in entry.models))

    def under(self, kind: str) -> list[Any]:
        """Return the evaluations by suites of a kind, by its key in the config, e.g. `under("judge")`."""
        return [entry for entry in self.evaluations if getattr(self.find("suites", entry.suite), kind)]

    @cached_property
    def predicted(self) -> dict[tuple[str, str], list[str]]:
        """What is predicted: (suite, model) → the datasets that the model is needed for, in the suite's order."""
        found = {}
        for (suite, _), model_of in self.measured.items():
            for dataset, model in model_of.items():
                found.setdefault((suite, model), set()).add(dataset)
        return {
            (suite, model): [name for name in self.find("suites", suite).labels.datasets if name in datasets]
            for (suite, model), datasets in found.items()
        }

    def find(self, kind: str, name: str) -> Any:
        """Return the entry of a list by its name, e.g. `find("models", "base")`."""
        return self.by_name[kind][name]

    def names(self, kind: str, having: str | None = None) -> list[str]:
        """Return the names of a list, e.g. `names("models", having="merge")`."""
        return [entry.name for entry in getattr(self, kind) if having is None or getattr(entry, having)]

    def lineage(self, name: str) -> list[Model]:
        """Return a model and its ancestors by first parent, youngest first."""
        models = [self.find("models", name)]
        while models[-1].parents:
            models.append(self.find("models", models[-1].parents[0]))
        return models

    def ancestors(self, name: str) -> list[str]:
        """Return the names of all models that a model is made of, by any parent, nearest first."""
        found: dict[str, None] = {}
        waiting = [name]
        while waiting:
            new = [one for parent in waiting for one in self.find("models", parent).parents if one not in found]
            found |= dict.fromkeys(new)
            waiting = list(dict.fromkeys(new))
        return list(found)

    @cached_property
    def _inherited(self):
        return {}

    def inherited(self, name: str, field: str) -> Any:
        """Return a model's field, or its nearest ancestor's that has it. Every (model, field) is looked up once,
        however long the chain of models."""
        known, passed = self._inherited, []
        while (name, field) not in known:
            passed.append(name)
            model = self.find("models", name)
            if (value := getattr(model, field)) is not None or not model.parents:
                known[name, field] = value
            else:
                name = model.parents[0]
        value = known[name, field]
        known.update(((one, field), value) for one in passed)
        return value

    @cached_property
    def _before_rounds(self):
        return {}

    def is_within_rounds(self, name: str, user: Any) -> bool:
        """Whether a model is of the same rounds as what uses it: then the user needs its full weights for a while."""
        round, its = self.by_name["models"][name].round, getattr(user, "round", None)
        return bool(round and its and round.of == its.of)

    def before_rounds(self, name: str) -> str:
        """Return the model that the first of a model's rounds is trained from; a model of no rounds: its own base."""
        known, passed = self._before_rounds, []
        while name not in known:
            passed.append(name)
            model = self.find("models", name)
            name = model.training.base
            if not self.is_within_rounds(name, model):
                known[passed[-1]] = name
                name = passed[-1]
        known.update((one, known[name]) for one in passed)
        return known[name]

    @cached_property
    def students(self) -> list[str]:
        """Names of the models whose full weights the next round needs for a while."""
        return [model.name for model in self.models if model.round and model.round.number < model.round.count]

    @cached_property
    def sweeps(self) -> dict[str, list[str]]:
        """The merges that are made together: sweep → the names of its models. What is there for a while only is made
        alone, so that not all of it is there at once."""
        found: dict[str, list[str]] = {}
        for model in self.models:
            if model.swept and model.merge and model.keep:
                found.setdefault(model.swept, []).append(model.name)
        return found

    @cached_property
    def used_models(self) -> set[str]:
        """Names of the models whose full weights something else needs, the next of their rounds aside."""
        by_name = self.by_name
        needed = {name for entry in self.evaluations for name in entry.models} | {name for _, name in self.predicted}
        needed |= {name for model in self.models for name in model.parents if not self.is_within_rounds(name, model)}
        for corpus in self.corpora:
            for endpoint in corpus.endpoints.values():
                served = by_name["endpoints"][endpoint].serve
                if served and not self.is_within_rounds(served, corpus):
                    needed.add(served)
            needed.update(corpus.models.values())
        used = [pair for kind in KINDS for pair in kind.uses(self)]
        needed |= {name for what, name in used if what == "models"}
        asked = [name for suite in self.suites for name in suite.settings.endpoints.values()]
        asked += [name for what, name in used if what == "endpoints"]
        return needed | {served for name in asked if (served := by_name["endpoints"][name].serve)}

    @cached_property
    def kept_models(self) -> list[str]:
        """Names of the models whose full weights `all` makes: not those of a round that nothing but the next needs, and
        not those that are there for a while only."""
        return [
            model.name
            for model in self.models
            if model.keep
            and (not model.round or model.round.number == model.round.count or model.name in self.used_models)
        ]

    @cached_property
    def passing_models(self) -> list[str]:
        """Names of the models whose full weights are there only until all that needs them is done."""
        return [model.name for model in self.models if not model.keep and model.name in self.used_models]

    @cached_property
    def asked_models(self) -> set[str]:
        """Names of the models that chats are put to, in training or in inference."""
        trained = {model.training.base for model in self.models if model.training}
        served = {endpoint.serve for endpoint in self.endpoints if endpoint.serve}
        raced = {name for model in self.models if model.select and model.select.race for name in model.select.among}
        read = {name for corpus in self.corpora for name in corpus.models.values()}
        asked = {name for _, name in [*self.predicted, *self.answered, *answering(self)]}
        return trained | served | raced | read | asked

    def compute_of(self, name: str) -> Compute:
        """Return how a model is run: its own settings, an ancestor's, or the experiment's."""
        return self.inherited(name, "compute") or self.compute

    def unpinned(self) -> list[str]:
        """Return what has no revision or checksum yet: `make pin` looks it up, building refuses until then."""
        sources: list[Any] = [
            source for dataset in self.datasets for files in dataset.files.values() for source in files
        ]
        sources += [dataset.videos for dataset in self.datasets if dataset.videos]
        sources += [model.fetch for model in self.models if model.fetch]
        sources += [source for suite in self.suites for source in suite.settings.fetched]
        return sorted(
            {
                source.hub or getattr(source, "url", None) or source.package
                for source in sources
                if (source.hub and not source.revision)
                or ((getattr(source, "url", None) or getattr(source, "package", None)) and not source.sha256)
            }
        )

    def hub_needs(self, made: Callable[[str, str], bool] = lambda kind, name: False) -> list[str]:
        """Return a sentence for each hub repository that is still to be fetched from, and for each token it needs.

        made(kind, name): whether there is already an artefact, e.g. `raw` of a dataset.
        """
        told: list[str] = []
        asking: list[Any] = []
        for kind, what in (("raw", "files"), ("videos", "folders of videos")):
            sources: list[Any] = [
                source
                for dataset in self.datasets
                if not made(kind, dataset.name)
                for source in (
                    ([dataset.videos] if dataset.videos else [])
                    if kind == "videos"
                    else [source for files in dataset.files.values() for source in files]
                )
                if source.hub
            ]
            asking += sources
            counts = Counter(source.hub for source in sources)
            told += [f"{hub}: {count} {what} of this hub dataset will be fetched" for hub, count in counts.items()]
        for model in self.models:
            if model.fetch and model.fetch.hub and not made("models", model.name):
                asking.append(model.fetch)
                size = f"{model.parameters:g} billion parameters"
                told.append(f"{model.fetch.hub}: this hub model will be fetched, {size}")
        for suite in self.suites:
            for source in suite.settings.fetched if not made("taskdata", suite.name) else ():
                asking.append(source)
                gated = ", which is gated," if source.token else ""
                told.append(f"{source.hub}: this hub dataset{gated} will be fetched for the tasks of {suite.name!r}")
        for token in sorted({source.token for source in asking if source.token}):
            hubs = ", ".join(sorted({source.hub for source in asking if source.token == token}))
            there = "is set" if os.environ.get(token) else "you must set first"
            told.append(f"{hubs}: asks for your token in the environment variable {token}, which {there}")
        return told

    def corpus_dataset(self, name: str) -> Dataset:
        """Return the dataset whose questions a corpus answers."""
        corpus = self.find("corpora", name)
        if corpus.dataset:
            return self.find("datasets", corpus.dataset)
        return self.corpus_dataset(corpus.asked)
