"""The kind of suite that measures judges, on items that people judged: its config, its stages, and how it is shown."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from moult.base.errors import nearest
from moult.base.files import derive_seed
from moult.base.section import LocalPath, Name, Section
from moult.base.stage import Local, Ref, Stage
from moult.data.fields import Decoding, Form, Prompt, Rubric, Split
from moult.data.prompts import load_template
from moult.data.rubrics import DEFAULT, load_rubrics
from moult.evaluation import agreement_scores, item_judging
from moult.evaluation.agreement_tables import METHODS, panels, samples, suite_tables
from moult.evaluation.injections import load_injections
from moult.evaluation.item_judging import BASELINES
from moult.evaluation.kinds import Headline, Settings, SuiteKind
from moult.evaluation.published import judged_datasets, published_judges
from moult.inference.plans import Asking, Plan
from moult.inference.recipes import client_of, compute_recipe, decoding_recipe, endpoint_recipe

HEADLINE = Headline("agreement", "agreement with people", "agreements with people")
# Tokens that an item is planned with: a question and two answers.
ITEM_TOKENS = 2048


class Judge(Section):
    """What is measured as a judge. A name alone is that of a model, or else of an endpoint."""

    name: Name = Field(description="Name under which the judge's scores stand.")
    model: str | None = Field(None, description="Model of this build that judges; null: what `name` names.")
    endpoint: str | None = Field(None, description="Endpoint that judges; null: what `name` names.")
    reward: str | None = Field(
        None, description="Reward model of this build: it scores answers alone, and of a pair the higher score wins."
    )
    files: dict[str, LocalPath] | None = Field(
        None, description="Judgements that somebody else made: dataset → file, in a form that is published."
    )
    published: str | None = Field(
        None, description="Name of the judge in resources/reference/judge.csv, whose values stand beside; null: none."
    )

    @model_validator(mode="after")
    def one_thing(self) -> Self:
        given = [name for name in ("model", "endpoint", "reward", "files") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"judges {self.name!r}: is {' and '.join(given)}; write one of them")
        if self.files == {}:
            raise ValueError(f"judges {self.name!r}, files: name the file of a dataset, `files: {{<dataset>: <path>}}`")
        return self

    @field_validator("published")
    @classmethod
    def is_there(cls, name: str | None) -> str | None:
        if name is not None and name not in published_judges():
            near = nearest(name, published_judges())
            raise ValueError(f"published: resources/reference/judge.csv has no judge {name!r}{near}")
        return name


class AgreementSuite(Settings):
    """Judges, held against what people said of the same answers."""

    datasets: list[str] = Field(min_length=1, description="Datasets of items that people judged.")
    split: Split = Field("test", description="Split whose items are judged.")
    sample: int | None = Field(
        None, ge=1, description="Largest number of items per dataset, drawn with the experiment's seed; null: all."
    )
    form: Form = Field(
        "json",
        description=(
            "Form of a reply: JSON enforced by a schema, the published line that a trained judge writes, or a verdict "
            "in double brackets."
        ),
    )
    pairs: list[Literal["compare", "grades"]] = Field(
        ["compare"],
        min_length=1,
        description="How a pair is judged: both answers at once, or each graded alone, where the higher grade wins.",
    )
    orders: Literal["both", "original"] = Field(
        "both", description="Orders in which a pair is shown; with one, a liking for a position cannot be seen."
    )
    references: bool = Field(False, description="Whether a judge is shown an item's reference answer.")
    rubric: Rubric = Field(DEFAULT, description="Rubric of items whose category has none, or that have no category.")
    grade: Prompt = Field("judge/grade", description="Template of resources/prompts that asks to grade one answer.")
    compare: Prompt = Field(
        "judge/compare", description="Template of resources/prompts that asks to compare two answers."
    )
    decoding: Decoding = Field(Decoding(max_tokens=1024), description="How a judge's reply is decoded.")
    baselines: list[Literal[tuple(BASELINES)]] = Field(  # type: ignore[valid-type]
        list(BASELINES),
        description=(
            "Judges that read nothing and are measured beside: verdicts at random, the longest answer, the first one, "
            "the constant grade."
        ),
    )
    injections: bool = Field(
        False,
        description=(
            "Whether judges are also shown pairs in which instructions hide, to measure how far these pull them."
        ),
    )
    published: dict[str, str] = Field(
        {}, description="Dataset → its name in resources/reference/judge.csv, for values that others published on it."
    )

    @field_validator("published")
    @classmethod
    def was_published(cls, datasets: dict[str, str]) -> dict[str, str]:
        for name in datasets.values():
            if name not in judged_datasets():
                near = nearest(name, judged_datasets())
                raise ValueError(f"published: resources/reference/judge.csv has no dataset {name!r}{near}")
        return datasets


def _as_judges(values: Any) -> Any:
    return [{"name": one} if isinstance(one, str) else one for one in values] if isinstance(values, list) else values


# ---------------------------------------------------------------- which judges there are


def _judges(cfg):
    """Return (suite, name) → the Judge, or the name of a baseline."""
    found: dict[tuple[str, str], Any] = {}
    for entry in cfg.under("agreement"):
        found |= {(entry.suite, judge.name): judge for judge in entry.judges}
        found |= {(entry.suite, name): name for name in cfg.find("suites", entry.suite).agreement.baselines}
    return found


def _at_work(cfg, judge):
    """Return (models or endpoints, name) of what judges; None for files, baselines, and names that nothing has."""
    if isinstance(judge, str) or judge.files:
        return None
    for kind, name in (("models", judge.model or judge.reward), ("endpoints", judge.endpoint)):
        if name is not None:
            return kind, name
    return next(((kind, judge.name) for kind in ("models", "endpoints") if judge.name in cfg.names(kind)), None)


def _served(cfg, suite, name):
    """Return the model of this build that judges, None where there is none."""
    work = _at_work(cfg, _judges(cfg)[suite, name])
    if not work or work[0] == "models":
        return work and work[1]
    return cfg.find("endpoints", work[1]).serve


def _uses(cfg):
    return [work for judge in _judges(cfg).values() if (work := _at_work(cfg, judge)) and work[1] in cfg.names(work[0])]


# ---------------------------------------------------------------- the stages


def _judge_items(cfg, suite, judge):
    """What a judge is shown of which items, and how it answers."""
    settings, found = cfg.find("suites", suite).agreement, _judges(cfg)[suite, judge]
    recipe = {
        "suite": suite,
        "judge": {"name": judge},
        "datasets": list(settings.datasets),
        "split": settings.split,
        "sample": settings.sample,
        "pairs": list(settings.pairs),
        "orders": ["original", "swapped"] if settings.orders == "both" else ["original"],
        "rubrics": load_rubrics(),
        "rubric": settings.rubric,
        "seed": derive_seed(cfg.seed, "agreement", suite),
        "endpoint": {},
        "version": item_judging.VERSION,
    }
    if isinstance(found, str):
        recipe["judge"]["baseline"] = found
    elif found.files:
        recipe["judge"]["files"] = list(found.files)
    else:
        kind, name = _at_work(cfg, found)
        endpoint = {"name": name, "serve": name, "compute": compute_recipe(cfg, name)} if kind == "models" else None
        recipe["endpoint"] = endpoint or endpoint_recipe(cfg, name)
        if found.reward:
            recipe["judge"]["reward"] = True
            return recipe | {"pairs": ["grades"]}
        recipe |= {
            "form": settings.form,
            "references": settings.references,
            "prompts": {mode: load_template(getattr(settings, mode)) for mode in ("grade", "compare")},
            "decoding": decoding_recipe(settings.decoding),
        }
        if settings.injections:
            recipe["injections"] = load_injections()
    return recipe


def _score_judges(cfg, suite, judge):
    settings, found = cfg.find("suites", suite).agreement, _judges(cfg)[suite, judge]
    named = None if isinstance(found, str) else found.published
    return {
        "suite": suite,
        "model": judge,
        "datasets": list(settings.datasets),
        "published": {"judge": named, "datasets": dict(sorted(settings.published.items()))},
        "limit": cfg.limit or settings.sample,
        "seed": derive_seed(cfg.seed, "score_judges", suite),
        "version": agreement_scores.VERSION,
    }


def _inputs(cfg, suite, judge):
    found, served = _judges(cfg)[suite, judge], _served(cfg, suite, judge)
    inputs: dict[str, Any] = {
        "datasets": [Ref("datasets", name) for name in cfg.find("suites", suite).agreement.datasets]
    }
    if not isinstance(found, str) and found.files:
        inputs["files"] = [Local(path) for path in found.files.values()]
    return inputs | ({"served": Ref("models", served)} if served else {})


def _client(cfg, suite, judge):
    work = _at_work(cfg, _judges(cfg)[suite, judge])
    return client_of(cfg, work[1]) if work and work[0] == "endpoints" else None


def _load(cfg, suite, judge):
    settings = cfg.find("suites", suite).agreement
    datasets = [cfg.find("datasets", name) for name in settings.datasets]
    return {"answer": ITEM_TOKENS + settings.decoding.max_tokens, "datasets": datasets}


def _asks(cfg, known, suite, judge):
    """What an endpoint that judges will be asked: all of it is known before."""
    settings, work = cfg.find("suites", suite).agreement, _at_work(cfg, _judges(cfg)[suite, judge])
    if not work or work[0] != "endpoints":
        return None
    recipe, items = _judge_items(cfg, suite, judge), []
    for name in settings.datasets:
        rows = known.questions(name, [settings.split])
        if rows is None:
            return Asking({"endpoint": work[1]}, recipe, None)
        items += item_judging.drawn(recipe, rows)
    requests = item_judging.requests_of(recipe, items)
    return Asking({"endpoint": work[1]}, recipe, {"endpoint": Plan(requests, settings.decoding.max_tokens)})


def _words(recipe, facts):
    status = ", ".join(f"{count:,} {status}" for status, count in facts["status"].items())
    return "", f"{facts['items']:,} items judged by {recipe['judge']['name']}: {status}"


STAGES = (
    Stage(
        rule="judge_items",
        makes="verdicts",
        doing="judging the items of {suite} by {judge}",
        run="moult.evaluation.item_judging:run",
        wildcards=("suite", "judge"),
        names=lambda cfg: list(_judges(cfg)),
        recipe=_judge_items,
        client=_client,
        inputs=_inputs,
        model=_served,
        needs="inference",
        workload=_load,
        words=_words,
        asks=_asks,
    ),
    Stage(
        rule="score_judges",
        makes="scores",
        doing="scoring the verdicts of {judge} on {suite}",
        run="moult.evaluation.agreement_scores:run",
        wildcards=("suite", "judge"),
        names=lambda cfg: list(_judges(cfg)),
        recipe=_score_judges,
        inputs=lambda cfg, suite, judge: {"verdicts": Ref("verdicts", f"{suite}/{judge}")},
        words=lambda *_: ("", "agreement of those verdicts with people, with intervals"),
    ),
)


# ---------------------------------------------------------------- the kind


def _checks(cfg):
    for entry in cfg.under("agreement"):
        place, settings = f"evaluations {entry.suite!r}", cfg.find("suites", entry.suite).agreement
        if not entry.judges:
            yield f"{place}: name the `judges` that the suite measures"
        for name in settings.published:
            if name not in settings.datasets:
                yield f"suites {entry.suite!r}, published: {name!r} is not among the suite's datasets"
        for judge in entry.judges:
            yield from (f"{place}, judges {judge.name!r}: {wrong}" for wrong in _wrong(cfg, settings, judge))


def _wrong(cfg, settings, judge):
    """Yield what is wrong with a judge of an evaluation."""
    if judge.name in settings.baselines:
        yield "a baseline has this name; give the judge another"
    for name in judge.files or ():
        if name not in settings.datasets:
            yield f"files: {name!r} is not among the suite's datasets{nearest(name, settings.datasets)}"
    work = _at_work(cfg, judge)
    if judge.files:
        return
    if work is None:
        known = [*cfg.names("models"), *cfg.names("endpoints")]
        yield f"no model and no endpoint has this name{nearest(judge.name, known)}"
    elif work[1] not in cfg.names(work[0]):
        yield f"{work[0][:-1]}: {work[1]!r} is not there{nearest(work[1], cfg.names(work[0]))}"
    elif work == ("models", judge.name) and not (judge.model or judge.reward) and _is_another(cfg, judge.name):
        yield "a model and an endpoint have this name; say which, with `model:` or `endpoint:`"


def _is_another(cfg, name):
    """Whether the endpoint of a model's name, if there is one, is not that model."""
    return name in cfg.names("endpoints") and cfg.find("endpoints", name).serve != name


def _subjects(one):
    served = one["recipe"]["endpoint"].get("serve")
    return [f"models/{served}"] if served else []


def _summary(verdicts):
    names = list(dict.fromkeys(name for one in verdicts for name in one["recipe"]["datasets"]))
    return f"{len(verdicts)} judges", f"{len(verdicts)} judges on {', '.join(names)}"


AGREEMENT = SuiteKind(
    key="agreement",
    fields=AgreementSuite,
    title="agreement",
    shape="judge_items",
    carved=("test", "dev"),
    measures=("judges",),
    refusal="an agreement suite measures judges; write `judges`",
    own_fields={
        "judges": (
            Annotated[list[Judge], BeforeValidator(_as_judges)],
            Field([], description="Judges that an agreement suite measures: models, endpoints, reward models, files."),
        )
    },
    beside=lambda settings: settings.baselines,
    uses=_uses,
    published=(),
    methods=METHODS,
    headline=HEADLINE,
    baseline=None,
    differences=agreement_scores.differences,
    measurement="verdicts",
    stages=STAGES,
    subjects=_subjects,
    summary=_summary,
    tables=suite_tables,
    section=("agreement", "Judges against people"),
    template="agreement.html.j2",
    rejecting=("verdicts",),
    paid={"verdicts": "judging items"},
    checks=_checks,
    panels=panels,
    samples=samples,
)
