"""The stage of a selection: the best of several models, as a model of its own."""

from moult.base.files import derive_seed
from moult.base.rows import Recipe
from moult.base.stage import Ref, Stage
from moult.config.experiment import Config
from moult.evaluation import selection
from moult.inference.recipes import compute_recipe
from moult.stages.models import card


def select(cfg: Config, name: str) -> Recipe:
    """What is chosen among, and by which score; of a race what is asked, too."""
    entry = cfg.find("models", name).select
    suite = cfg.find("suites", entry.suite)
    recipe = {"suite": entry.suite, "metric": entry.metric or suite.kind.headline.metric, "among": list(entry.among)}
    recipe |= {"higher": suite.kind.headline.higher_is_better, "version": selection.VERSION}
    if not entry.race:
        return recipe | {"method": entry.method, "dataset": entry.dataset}
    return recipe | {
        **suite.kind.race.recipe(cfg, entry.suite, entry.method),
        "compute": {one: compute_recipe(cfg, one) for one in entry.among},
        "race": entry.race.model_dump(),
        "seed": derive_seed(cfg.seed, "select", name),
    }


def _inputs(cfg, name):
    entry = cfg.find("models", name).select
    models = {"models": [Ref("models", one) for one in entry.among]}
    if entry.race:
        datasets = cfg.find("suites", entry.suite).settings.datasets
        return models | {"datasets": [Ref("datasets", one) for one in datasets]}
    return models | {"scores": [Ref("scores", f"{entry.suite}/{one}") for one in entry.among]}


def _rows(cfg, name):
    entry = cfg.find("models", name).select
    return cfg.find("suites", entry.suite).kind.race.rows if entry.race else None


def _load(cfg, name):
    entry = cfg.find("models", name).select
    if not entry.race:
        return {}
    settings = cfg.find("suites", entry.suite).settings
    datasets = [cfg.find("datasets", one) for one in settings.datasets]
    # All of them, on so many of the rows.
    answers = max(1, round(entry.race.share * len(entry.among)))
    return {"answer": settings.max_tokens, "datasets": datasets, "answers": answers}


def _words(recipe, facts):
    by = f"{facts['chosen']}, by {facts['by']:.4g} over {facts['runner_up']}"
    raced = f", {facts['judgements']:,} of {facts['of']:,} judgements" if "race" in recipe else ""
    many = len(recipe["among"])
    return f"best of {many}", f"best of {many} by {recipe['metric']} on {recipe['suite']}: {by}{raced}"


STAGES = (
    Stage(
        rule="select_model",
        makes="models",
        doing="choosing {model} among several",
        run="moult.evaluation.selection:run",
        wildcards=("model",),
        names=lambda cfg: [(name,) for name in cfg.names("models", "select")],
        recipe=select,
        params={"card": card},
        # Where in the code the rows of a race come from decides no byte.
        client=_rows,
        inputs=_inputs,
        model=lambda cfg, name: name,
        needs=lambda cfg, name: "inference" if cfg.find("models", name).select.race else "tables",
        workload=_load,
        words=_words,
    ),
)
