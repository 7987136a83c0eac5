"""Stages of merges: one, or those of a sweep in one job."""

from moult.base.rows import Recipe
from moult.base.stage import Ref, Stage
from moult.config.experiment import Config
from moult.stages.models import card, joined
from moult.weights.methods import groups


def sweep(cfg: Config, name: str) -> Recipe:
    """The recipes of the merges that are made together."""
    return {"members": {member: joined(cfg, member) for member in cfg.sweeps[name]}}


def _parents(cfg, name):
    """The names of all models that the merges of a sweep are made of."""
    return list(dict.fromkeys(parent for member in cfg.sweeps[name] for parent in cfg.find("models", member).parents))


def _models(names):
    return {"models": [Ref("models", one) for one in names]}


def _merged_from(cfg, name):
    """The parents; of a sweep also what its job makes, for its merges that lack: it is there for a while only, and
    decides no byte."""
    model = cfg.find("models", name)
    swept = name in cfg.sweeps.get(model.swept, ())
    return _models(model.parents) | ({"sweep": Ref("sweeps", model.swept, "shared")} if swept else {})


def _merge_in_words(recipe, facts):
    if "experts" in recipe:
        experts = ", ".join(expert["model"] for expert in recipe["experts"])
        return "mixture of experts", f"mixture of {experts} in {recipe['base']}, router from {recipe['gate_mode']}"
    parents = [
        f"{group['where']}: " * bool(group["where"]) + "; ".join(map(_parent_in_words, group["parents"]))
        for group in groups(recipe)
    ]
    onto = f" on {recipe['base']}" if recipe["base"] else ""
    return f"{recipe['method']} merge", f"{recipe['method']} of {'; '.join(parents)}{onto}"


def _parent_in_words(parent):
    return parent["model"] + "".join(f", {key} {value}" for key, value in parent.items() if key != "model")


STAGES = (
    Stage(
        rule="merge_sweep",
        makes="sweeps",
        doing="merging all that {sweep} lacks in one pass",
        run="moult.weights.sweeping:run",
        wildcards=("sweep",),
        names=lambda cfg: [(name,) for name in cfg.sweeps],
        recipe=sweep,
        params={"names": _parents},
        inputs=lambda cfg, name: _models(_parents(cfg, name)),
        model=lambda cfg, name: cfg.sweeps[name][0],
        needs="weights",
        workload=lambda cfg, name: {"models": len(_parents(cfg, name)), "answers": max(1, len(cfg.sweeps[name]) // 4)},
        sealed=False,
        passing=True,
    ),
    Stage(
        rule="merge_models",
        makes="models",
        doing="merging {model} out of its parents",
        run="moult.weights.sweeping:run_member",
        wildcards=("model",),
        names=lambda cfg: [(name,) for kind in ("merge", "moe") for name in cfg.names("models", kind)],
        recipe=joined,
        params={"names": lambda cfg, name: cfg.find("models", name).parents, "card": card},
        inputs=_merged_from,
        model=lambda cfg, name: name,
        needs="weights",
        words=_merge_in_words,
    ),
)
