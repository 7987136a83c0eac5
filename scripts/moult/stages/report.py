"""Stages of the tables over all suites, and of the report."""

from moult.base.files import derive_seed
from moult.base.stage import Ref, Stage
from moult.evaluation import scores as label_scores
from moult.report import page
from moult.stages.models import adapters
from moult.stages.suites import judged_pairs


def tabulate_scores(cfg):
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


def write_report(cfg):
    """What stands over the report; `version` makes a changed template rewrite it."""
    return {"title": cfg.title or cfg.name, "limit": cfg.limit, "seed": cfg.seed, "version": page.VERSION}


def _scored(cfg):
    return [*cfg.measured, *cfg.judged]


def _all_scores(cfg):
    """All scores, and what paired differences are taken of."""
    return {
        "scores": [Ref("scores", "/".join(pair), "file") for pair in _scored(cfg)],
        "predictions": [Ref("predictions", "/".join(pair), "file") for pair in cfg.predicted],
        "judgements": [Ref("judgements", "/".join(pair), "file") for pair in judged_pairs(cfg)],
    }


def told_of(cfg) -> list[Ref]:
    """Return the manifests of everything the config names: what the report tells of."""
    made = [("datasets", name) for name in cfg.names("datasets")]
    made += [("corpora", name) for name in cfg.names("corpora")]
    made += [("adapters", name) for (name,) in adapters(cfg)]
    made += [("models", name) for name in cfg.kept_models]
    measured = {
        "predictions": cfg.predicted,
        "answers": cfg.answered,
        "judgements": judged_pairs(cfg),
        "scores": _scored(cfg),
    }
    made += [(kind, "/".join(pair)) for kind, pairs in measured.items() for pair in pairs]
    return [Ref(kind, name, "manifest") for kind, name in made]


def _reported(cfg):
    confusion = [Ref("plots", "/".join(("confusion", *pair)), "file") for pair in cfg.measured]
    return {
        "summary": Ref("scores", "summary", "file"),
        "differences": Ref("scores", "differences", "file"),
        "plots": [Ref("plots", name, "file") for name in cfg.names("suites")],
        "confusion": confusion,
        "manifests": told_of(cfg),
        "leakage": [Ref("leakage", name, "file") for name in cfg.names("datasets")],
    }


STAGES = (
    Stage(
        rule="tabulate_scores",
        makes="scores",
        doing="tabulating all scores",
        recipe=tabulate_scores,
        told={"predicted": lambda cfg: list(cfg.predicted), "judged": judged_pairs},
        inputs=_all_scores,
    ),
    Stage(
        rule="plot_scores",
        makes="plots",
        doing="plotting the scores of {suite}",
        wildcards=("suite",),
        names=lambda cfg: [(name,) for name in cfg.names("suites")],
        inputs=lambda cfg, suite: {"summary": Ref("scores", "summary", "file")},
    ),
    Stage(
        rule="write_report",
        makes="report",
        doing="writing the report",
        recipe=write_report,
        inputs=_reported,
    ),
)
