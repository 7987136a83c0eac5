"""The kind of suite that probes what a model's frozen representations tell of a text: its config and its stages."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from moult.base.errors import UserError, nearest
from moult.base.files import derive_seed
from moult.base.section import LocalPath, Name, Section
from moult.base.stage import Local, Ref, Stage
from moult.evaluation.kinds import Headline, Settings, SuiteKind
from moult.evaluation.probing import compare, encode, scores
from moult.evaluation.probing import run as probes
from moult.evaluation.probing.published import published_probes
from moult.evaluation.probing.sets import SAMPLES, files_below, names_below, read_set
from moult.evaluation.probing.tables import METHODS, METRICS, SCORE, panels, suite_tables

# Bytes of a table of samples that is read whole before a build: 20 ms of one core.
READ_AT_PLANNING = 200_000
Share = Annotated[float, Field(gt=0, le=1)]


class Training(Section):
    """How probes are trained; the defaults are those that Holmes published."""

    dropout: float = Field(0.2, ge=0, lt=1, description="Share of the representation that is left out in a step.")
    learning_rate: float = Field(1e-3, gt=0, description="Largest learning rate of Adam.")
    batch: int = Field(16, ge=1, description="Rows of a step.")
    epochs: int = Field(20, ge=1, description="Passes over train at most.")
    patience: int | None = Field(
        5,
        ge=1,
        description=(
            "Passes without a smaller loss on dev, after which a probe is done and the best is kept; null: all passes "
            "are made and the last is kept."
        ),
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises; then it falls to 0."
    )
    penalty: float = Field(
        0.0, ge=0, description="Weight λ of λ/2 · the sum of squared weights, which is added to the mean loss."
    )


class Beside(Section):
    """Published values that stand beside the suite's."""

    models: list[str] = Field([], description="Models of resources/reference/holmes.csv.")
    portion: Share = Field(
        1, description="Share of train that was published: 1 of Holmes, 1/512 (0.001953125) to 1/2 of Flash-Holmes."
    )
    study: bool = Field(
        False, description="Whether the means of the merging study stand beside, with the note on its other F1."
    )

    @field_validator("models")
    @classmethod
    def are_there(cls, models: list[str]) -> list[str]:
        for name in models:
            if name not in published_probes():
                near = nearest(name, published_probes())
                raise ValueError(f"models: resources/reference/holmes.csv has no model {name!r}{near}")
        return models


class ProbingSuite(Settings):
    """Linguistic probes as in Holmes, on sets that lie on disk as its do."""

    # It reads folders of its own, and no dataset of the config.
    datasets: ClassVar[tuple[str, ...]] = ()
    split: ClassVar[str] = "test"

    folders: list[LocalPath] = Field(
        min_length=1,
        description=f"Folders of probing sets: each set is a folder with a {SAMPLES}, at or below one of them.",
    )
    sets: list[Name] = Field([], description="Names of the sets that are probed; an empty list: all of the folders.")
    layers: list[int] | Literal["all"] = Field(
        [-1],
        min_length=1,
        description=(
            "Layers whose hidden states are probed, each on its own: 0 is the embeddings, -1 the last layer; or `all`. "
            "Scores are those of the last one named."
        ),
    )
    special_tokens: bool = Field(
        True,
        description="Whether the mean over a sentence includes the tokens that the tokenizer adds; published: it does.",
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="How encodings are kept.")
    probes: list[Literal["linear", "mlp"]] = Field(
        ["linear"], min_length=1, description="Probes: a linear layer, or one with a hidden layer before it (`mlp`)."
    )
    hidden: int = Field(1000, ge=1, description="Width of the hidden layer of `mlp`.")
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        [0, 1, 2, 3, 4], min_length=1, description="Seeds; each trains a probe of its own."
    )
    portions: list[Share] = Field(
        [1], min_length=1, description="Shares of train that probes learn from; scores are those of the largest."
    )
    controls: list[Literal["permutation", "random_weights", "random_labels"]] = Field(
        ["permutation", "random_weights", "random_labels"],
        description=(
            "Probes beside: of permuted words, of a model with random weights, and on random labels of train; a score "
            "less a control's is the selectivity."
        ),
    )
    code_length: bool = Field(False, description="Whether the description length of the labels is measured, in bits.")
    training: Training = Field(Training(), description="How probes are trained.")
    published: Beside = Field(Beside(), description="Published values that stand beside.")


# ---------------------------------------------------------------- the stages


def _settings(cfg, suite):
    return cfg.find("suites", suite).probing


def _encoded(cfg, suite):
    """What decides which units there are."""
    settings = _settings(cfg, suite)
    return {
        "suite": suite,
        "sets": list(settings.sets),
        "controls": [name for name in ("permutation", "random_weights") if name in settings.controls],
        "limit": cfg.limit,
        "seed": derive_seed(cfg.seed, "probing", suite),
    }


def _encode_probes(cfg, suite, model):
    """What is encoded, and how: nothing of the probes that will read it."""
    settings, compute = _settings(cfg, suite), cfg.compute_of(model)
    told = {"layers": settings.layers, "special_tokens": settings.special_tokens, "dtype": settings.dtype}
    told |= {"compute": {"dtype": compute.dtype, "batch_size": compute.batch_size}}
    return _encoded(cfg, suite) | {"model": model} | told | {"version": encode.VERSION}


def _run_probes(cfg, suite, model):
    settings = _settings(cfg, suite)
    told = {name: list(getattr(settings, name)) for name in ("probes", "seeds", "portions")}
    told |= {"hidden": settings.hidden} if "mlp" in settings.probes else {"hidden": 0}
    told |= {"code_length": settings.code_length, "training": settings.training.model_dump()}
    told |= {"model": model, "controls": [name for name in probes.CONTROLS if name in settings.controls]}
    return _encoded(cfg, suite) | told | {"version": probes.VERSION}


def _score_probes(cfg, suite, model):
    recipe = {"suite": suite, "model": model, "limit": cfg.limit, "seed": derive_seed(cfg.seed, "score_probes", suite)}
    return recipe | {"version": scores.VERSION}


def _compare_probes(cfg, suite):
    beside = _settings(cfg, suite).published.model_dump()
    # A smoke run's few rows have no published value to stand beside.
    beside |= {"models": []} if cfg.limit else {}
    return {"suite": suite, "published": beside, "limit": cfg.limit, "version": compare.VERSION}


def _names(cfg):
    return [(entry.suite, model) for entry in cfg.under("probing") for model in entry.models]


def _suites(cfg):
    return list(dict.fromkeys((suite,) for suite, _ in _names(cfg)))


def _sets(cfg, suite):
    return {"sets": [Local(folder, files_below) for folder in _settings(cfg, suite).folders]}


def _of_models(cfg, kind, suite):
    return [Ref(kind, f"{suite}/{model}") for of, model in _names(cfg) if of == suite]


def _load(cfg, suite, model):
    return {"answer": 0, "datasets": []}


def _in_words(recipe, facts):
    units = sum(facts[weights]["units"] for weights in ("trained", "random") if weights in facts)
    sized = f"{len(facts['layers'])} layers of {facts['width']}, {facts['bytes'] / 1e6:,.1f} MB"
    return "", f"{units:,} units of {facts['sets']} probing sets: {sized}"


STAGES = (
    Stage(
        rule="encode_probes",
        makes="encodings",
        doing="encoding the probing sets of {suite} by {model}",
        run="moult.evaluation.probing.encode:run",
        wildcards=("suite", "model"),
        names=_names,
        recipe=_encode_probes,
        inputs=lambda cfg, suite, model: {"model": Ref("models", model)} | _sets(cfg, suite),
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=_load,
        words=_in_words,
    ),
    Stage(
        rule="run_probes",
        makes="probes",
        doing="probing {model} on {suite}",
        run="moult.evaluation.probing.run:run",
        wildcards=("suite", "model"),
        names=_names,
        recipe=_run_probes,
        inputs=lambda cfg, suite, model: {"encodings": Ref("encodings", f"{suite}/{model}")} | _sets(cfg, suite),
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=_load,
        words=lambda recipe, facts: ("", f"{facts['probes']:,} probes on {facts['sets']} sets"),
    ),
    Stage(
        rule="score_probes",
        makes="scores",
        doing="scoring the probes of {model} on {suite}",
        run="moult.evaluation.probing.scores:run",
        wildcards=("suite", "model"),
        names=_names,
        recipe=_score_probes,
        inputs=lambda cfg, suite, model: {"probes": Ref("probes", f"{suite}/{model}")},
        words=lambda *_: ("", "scores of those probes, with intervals"),
    ),
    Stage(
        rule="compare_probes",
        makes="probe_tables",
        doing="setting the probes of {suite} beside each other",
        run="moult.evaluation.probing.compare:run",
        wildcards=("suite",),
        names=_suites,
        recipe=_compare_probes,
        inputs=lambda cfg, suite: {
            "scores": _of_models(cfg, "scores", suite),
            "probes": _of_models(cfg, "probes", suite)[:1],
        },
        words=lambda recipe, facts: ("", f"{facts['models']} models on {facts['sets']} sets, in the published columns"),
    ),
)


# ---------------------------------------------------------------- the kind


def _checks(cfg):
    for suite in cfg.suites:
        if suite.probing is None:
            continue
        for name in ("sets", "probes", "seeds", "portions", "controls"):
            values = getattr(suite.probing, name)
            for value in dict.fromkeys(one for one in values if values.count(one) > 1):
                yield f"suites {suite.name!r}, {name}: {value!r} stands twice; leave one out"


def _flaws(cfg):
    """Yield what is wrong with the probing sets that are on this machine; of long ones the job tells."""
    for suite in cfg.suites:
        if suite.probing is None:
            continue
        place = f"suites {suite.name!r}"
        try:
            found = names_below(suite.probing.folders)
        except UserError as error:
            yield f"{place}, folders: {error}"
            continue
        for name in suite.probing.sets:
            if name not in found:
                yield f"{place}, sets: no folder has {name!r}{nearest(name, found)}"
        for name in suite.probing.sets or found:
            if name in found and Path(found[name], SAMPLES).stat().st_size <= READ_AT_PLANNING:
                try:
                    read_set(found[name])
                except UserError as error:
                    yield f"{place}: {error}"


def _subjects(one):
    return [f"models/{one['recipe']['model']}"]


def _summary(measured):
    sets = max((one["facts"]["sets"] for one in measured), default=0)
    fields = sorted({field for one in measured for field in one["facts"]["subfields"]})
    return f"{sets} probing sets", f"{sets} probing sets of {', '.join(fields) or 'no named subfield'}"


PROBING = SuiteKind(
    key="probing",
    fields=ProbingSuite,
    title="probing",
    shape="none",
    carved=(),
    measures=("models",),
    refusal="a probing suite measures models; write `models`",
    published=(),
    methods=METHODS,
    headline=Headline("score", "score of probes", "scores of probes", SCORE),
    baseline=None,
    differences=compare.differences,
    measurement="probes",
    stages=STAGES,
    subjects=_subjects,
    summary=_summary,
    tables=suite_tables,
    section=("probing", "Probes"),
    template="probing.html.j2",
    metrics=METRICS,
    of_suite="probe_tables",
    checks=_checks,
    flaws=_flaws,
    panels=panels,
    related=True,
    leads=True,
)
