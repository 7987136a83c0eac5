"""Stages of the tables over all suites, and of the report."""

from pathlib import Path

from moult.base.files import derive_seed
from moult.base.rows import Recipe
from moult.base.stage import Job, Ref, Stage
from moult.config.experiment import Config
from moult.evaluation import relations
from moult.evaluation import scores as label_scores
from moult.evaluation.judge_suite import judged_pairs
from moult.evaluation.suites import KINDS
from moult.report import page
from moult.stages.models import adapters


def tabulate_scores(cfg: Config) -> Recipe:
    """Which models and settings are compared with which, each pair once, and who answers for them on which dataset."""
    pairs = []
    for entry in cfg.evaluations:
        for against in entry.against:
            for name in entry.measured:
                if name != against and [entry.suite, against, name] not in pairs:
                    pairs.append([entry.suite, name, against])
    measured = [[suite, name, model_of] for (suite, name), model_of in cfg.measured.items()]
    return {
        "pairs": pairs,
        "measured": measured,
        "seed": derive_seed(cfg.seed, "tabulate_scores"),
        "version": label_scores.VERSION,
    }


def write_report(cfg: Config) -> Recipe:
    """What stands over the report; `version` makes a changed template rewrite it."""
    return {"title": cfg.title or cfg.name, "limit": cfg.limit, "seed": cfg.seed, "version": page.VERSION}


def _made_by_kinds(cfg, wanted, form):
    """Return references to what the stages of all kinds of suites make, where `wanted(kind, stage)`, by kind."""
    return {
        kind.measurement: [
            Ref(stage.makes, "/".join(names), form)
            for stage in kind.stages
            if wanted(kind, stage)
            for names in stage.names(cfg)
        ]
        for kind in KINDS
    }


def _scores(cfg, form):
    found = _made_by_kinds(cfg, lambda kind, stage: stage.makes == "scores", form)
    return [one for scores in found.values() for one in scores]


def _all_scores(cfg):
    """All scores, and what paired differences are taken of."""
    measured = _made_by_kinds(cfg, lambda kind, stage: stage.makes == kind.measurement, "file")
    return {"scores": _scores(cfg, "file")} | measured


def told_of(cfg: Config) -> list[Ref]:
    """Return the manifests of everything the config names: what the report tells of."""
    made = [("datasets", name) for name in cfg.names("datasets")]
    made += [("corpora", name) for name in cfg.names("corpora")]
    made += [("adapters", name) for (name,) in adapters(cfg)]
    made += [("models", name) for name in (*cfg.kept_models, *cfg.passing_models)]
    # Pictures have no manifest, scores come last.
    rows = _made_by_kinds(cfg, lambda kind, stage: stage.makes.split("/")[0] not in ("scores", "plots"), "manifest")
    found = [one for manifests in rows.values() for one in manifests]
    return [*(Ref(kind, name, "manifest") for kind, name in made), *found, *_scores(cfg, "manifest")]


def _relates(cfg):
    """Whether an experiment has a suite whose scores are set against those of the others."""
    return any(cfg.under(kind.key) for kind in KINDS if kind.related)


def _merged(cfg):
    """What each measured merge is of: method, base, parents, and the numbers among its settings."""
    measured = {name for entry in cfg.evaluations for name in entry.models}
    found = {}
    for model in cfg.models:
        if model.name in measured and (model.merge or model.moe):
            merge = model.merge
            settings = dict(merge.parameters) if merge else {}
            for parent in merge.parents if merge else []:
                own = parent.model_dump(exclude={"model"}, exclude_none=True)
                settings |= {f"{parent.model}.{key}": value for key, value in own.items()}
            numbers = {key: value for key, value in sorted(settings.items()) if type(value) in (int, float)}
            experts = [one.model for one in model.moe.experts] if model.moe else []
            told = {"method": merge.method if merge else "mixture", "base": merge.base if merge else model.moe.base}
            told |= {"parents": merge.sources if merge else list(dict.fromkeys(experts)), "parameters": numbers}
            found[model.name] = told
    return found


def _relate_scores(cfg):
    seed = derive_seed(cfg.seed, "relate_scores")
    return {"merges": _merged(cfg), "seed": seed, "limit": cfg.limit, "version": relations.VERSION}


def _related(cfg):
    found = {"summary": Ref("scores", "summary", "file"), "differences": Ref("scores", "differences", "file")}
    return found | {
        "probes": [Ref("probe_tables", suite) for suite in dict.fromkeys(one.suite for one in cfg.under("probing"))]
    }


def _reported(cfg):
    drawn = _made_by_kinds(cfg, lambda kind, stage: stage.makes.startswith("plots/"), "file")
    return {
        "summary": Ref("scores", "summary", "file"),
        "differences": Ref("scores", "differences", "file"),
        "plots": [Ref("plots", name, "file") for name in cfg.names("suites")],
        "confusion": [one for pictures in drawn.values() for one in pictures],
        "manifests": told_of(cfg),
        "leakage": [Ref("leakage", name, "file") for name in cfg.names("datasets")],
    } | ({"relations": Ref("relations", "all")} if _relates(cfg) else {})


STAGES = (
    Stage(
        rule="tabulate_scores",
        makes="scores",
        doing="tabulating all scores",
        run="moult.evaluation.suites:run",
        recipe=tabulate_scores,
        # They stand in the inputs, too; results of before have them among what is compared.
        params={"predicted": lambda cfg: list(cfg.predicted), "judged": judged_pairs},
        inputs=_all_scores,
        file="scores/summary.csv",
        sealed=False,
    ),
    Stage(
        rule="plot_scores",
        makes="plots",
        doing="plotting the scores of {suite}",
        run="moult.report.plots:run_scores",
        wildcards=("suite",),
        names=lambda cfg: [(name,) for name in cfg.names("suites")],
        inputs=lambda cfg, suite: {"summary": Ref("scores", "summary", "file")},
        sealed=False,
    ),
    Stage(
        rule="relate_scores",
        makes="relations",
        doing="setting the scores of all suites beside each other",
        run="moult.report.relation_plots:run",
        names=lambda cfg: [()] if _relates(cfg) else [],
        recipe=_relate_scores,
        inputs=_related,
        file="relations/all",
        words=lambda recipe, facts: ("", f"{facts['pairs']:,} pairs of rankings of {facts['models']:,} models"),
    ),
    Stage(
        rule="write_report",
        makes="report",
        doing="writing the report",
        run="moult.stages.report:run",
        recipe=write_report,
        inputs=_reported,
        file="report/index.html",
        sealed=False,
    ),
)


def run(job: Job) -> None:
    """Do the job of write_report, which is handed what all stages say of their artefacts."""
    from moult.stages import STAGES

    inputs, recipe = job.inputs, job.recipe
    page.write_report(
        job.outputs.report,
        summary=inputs.summary,
        differences=inputs.differences,
        plots=inputs.plots,
        confusion=inputs.confusion,
        manifests=inputs.manifests,
        leakage=inputs.leakage,
        title=recipe["title"],
        limit=recipe["limit"],
        seed=recipe["seed"],
        words={stage.rule: stage.words for stage in STAGES},
        related=Path(inputs.relations) if "relations" in inputs.keys() else None,
    )
