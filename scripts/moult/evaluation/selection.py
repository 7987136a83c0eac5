"""Selection: the best of several models by a metric of a dev split, measured on all rows, or in a race."""

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import read_csv, whole_directory
from moult.base.rows import Facts, Recipe
from moult.base.stage import Job
from moult.evaluation.racing import race
from moult.inference.asking import Asker, EnginePool
from moult.weights.card import write_model_card
from moult.weights.headers import link_files

# Raise when the same scores would now choose another model.
VERSION = 1
logger = logging.getLogger(__name__)


def by_scores(recipe: Recipe, tables: Mapping[str, str | Path]) -> Facts:
    """Return the facts of a selection: chosen, among (model → score), by (its lead over the runner-up), runner_up.

    recipe: suite, metric, method (None: the first that there is), dataset, higher, among. tables: model → its table of
    scores. Of equal scores the model that is named first is taken. UserError where a table lacks the score.
    """
    values = {name: _score(recipe, name, read_csv(tables[name])) for name in recipe["among"]}
    sign = 1 if recipe["higher"] else -1
    ranked = sorted(values, key=lambda name: -sign * values[name])
    lead = sign * (values[ranked[0]] - values[ranked[1]])
    return {"chosen": ranked[0], "among": values, "by": round(lead, 6), "runner_up": ranked[1]}


def _score(recipe, name, rows):
    found = [row for row in rows if row["metric"] == recipe["metric"] and row["dataset"] == recipe["dataset"]]
    methods = list(dict.fromkeys(row["method"] for row in found))
    for row in found:
        if row["method"] == (recipe["method"] or methods[0]) and row["value"] != "":
            return float(row["value"])
    there = sorted({(row["dataset"], row["metric"], row["method"]) for row in rows})
    known = "; ".join(", ".join(one) for one in there[:5]) or "nothing"
    raise UserError(
        f"selection: {name} has no {recipe['metric']} on {recipe['dataset']}"
        f"{' by ' + recipe['method'] if recipe['method'] else ''} under {recipe['suite']}; there is {known}."
    )


def by_race(recipe: Recipe, rows: Sequence[Any], score: Any, askers: Sequence[Asker]) -> Facts:
    """Return the facts of a selection by a race, those of `by_scores` among them.

    recipe: among, seed, race (share, margin, alpha). rows: what is asked. score(asker, rows): a score from 0 to 1 for
    each. askers: one per model. Each model is asked for the same rows of each look in one go. The scores of `among`
    are those over the rows that a model was asked for, which `rows` counts.
    """
    import numpy as np

    names = recipe["among"]

    def ask(alive, places):
        logger.info("%d models on %d rows more", len(alive), len(places))
        asked = [rows[place] for place in places]
        return np.array([score(askers[one], asked) for one in alive]).T

    run = race(ask, len(names), len(rows), seed=recipe["seed"], **recipe["race"])
    # Those who went late were the better ones: the runner-up is the best of the last.
    others = [one for one in range(len(names)) if one != run.best]
    second = max(others, key=lambda one: (run.rows[one], run.means[one]))
    return {
        "chosen": names[run.best],
        "among": {name: round(mean, 6) for name, mean in zip(names, run.means, strict=True)},
        "by": round(run.means[run.best] - run.means[second], 6),
        "runner_up": names[second],
        "rows": dict(zip(names, run.rows, strict=True)),
        "dropped": {names[one]: why for one, why in sorted(run.dropped.items())},
        "judgements": run.judgements,
        "of": run.of,
        "settled": run.settled,
    }


def run(job: Job) -> None:
    """Do the job of select_model."""
    names = job.recipe["among"]
    if "race" in job.recipe:
        module, function = job.client.split(":")
        rows, score, frames = getattr(import_module(module), function)(job.recipe, job.inputs.datasets)
        pool, compute = EnginePool(job.journal), job.recipe["compute"]
        try:
            manifests = zip(names, job.inputs.models, job.inputs.models_manifests, strict=True)
            askers = [
                Asker({"name": name, "serve": name, "compute": compute[name]}, pool, None, model, manifest, frames)
                for name, model, manifest in manifests
            ]
            facts = by_race(job.recipe, rows, score, askers)
        finally:
            pool.close()
    else:
        facts = by_scores(job.recipe, dict(zip(names, job.inputs.scores, strict=True)))
    logger.info("chosen: %s, by %s over %s", facts["chosen"], facts["by"], facts["runner_up"])
    folders = dict(zip(names, job.inputs.models, strict=True))
    with whole_directory(job.outputs.model) as folder:
        link_files(folders[facts["chosen"]], folder, but="README.md")
        write_model_card(folder, job.card({"selection": facts}) | {"model": job.name})
    job.facts = facts
