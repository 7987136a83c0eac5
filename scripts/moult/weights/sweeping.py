"""The jobs of merges: one alone, those of a sweep in one pass, and one out of such a pass."""

import logging
from collections.abc import Mapping
from pathlib import Path

from moult.base.files import digest, read_json, whole_directory, write_json
from moult.base.rows import Facts, Recipe
from moult.base.stage import Job
from moult.jobs.manifest import artefact, read_manifest, stands
from moult.weights.card import write_model_card
from moult.weights.headers import link_files
from moult.weights.merging import check_parents, finish, merge_models, ready_to_merge
from moult.weights.mixtures import mix_experts
from moult.weights.running import run_together

# In the folder of a member of a sweep: its recipe, and the facts for its manifest.
MADE = ".made.json"
logger = logging.getLogger(__name__)


def merge_sweep(recipes: Mapping[str, Recipe], folders: Mapping[str, str | Path], target: str | Path) -> None:
    """Make several merges in one pass over their parents, each in a folder of its own in `target`.

    recipes: name → the recipe of a merge of whole models, see `merge_models`; a merge has the same bytes alone.
    """
    ready = {name: ready_to_merge(recipe, folders) for name, recipe in recipes.items()}
    check_parents({folder: None for one in ready.values() for folder in one.models.values()})
    with whole_directory(target) as folder:
        for name in ready:
            (folder / name).mkdir()
        if ready:
            run_together({folder / name: one for name, one in ready.items()})
        for name, one in ready.items():
            write_json(folder / name / MADE, {"recipe": one.recipe, "facts": finish(one, folder / name)})


def run(job: Job) -> None:
    """Do the job of merge_sweep: its members that lack, in one pass."""
    folders = dict(zip(job.params.names, job.inputs.models, strict=True))
    parents = {artefact(path): read_manifest(path)["content"] for path in job.inputs.models_manifests}
    # Members lie beside their parents.
    home = Path(job.inputs.models[0]).parent
    members = job.recipe["members"]
    lacking = {
        name: recipe for name, recipe in members.items() if not stands(home / f"{name}.manifest.json", recipe, parents)
    }
    # Where none lacks, they are made again all the same, or this would not run.
    made = lacking or members
    logger.info("%d of %d are made", len(made), len(members))
    merge_sweep(made, folders, job.outputs.sweep)
    job.facts = {"made": list(made)}


def run_member(job: Job) -> None:
    """Do the job of merge_models: take the merge out of its sweep, or make it."""
    folders = dict(zip(job.params.names, job.inputs.models, strict=True))
    job.facts = _taken(job, job.inputs.get("sweep")) or _made(job.recipe, folders, job.outputs.model)
    write_model_card(job.outputs.model, job.card(job.facts))


def _taken(job, sweep):
    """Put the model of a sweep in place; return its facts, None where the sweep did not make it."""
    made = Path(sweep or "", job.name, MADE)
    if not sweep or not made.exists():
        return None
    told = read_json(made)
    if digest(told["recipe"]) != digest(job.recipe):
        return None
    with whole_directory(job.outputs.model) as folder:
        link_files(made.parent, folder, but=MADE)
    logger.info("taken out of the sweep %s", Path(sweep).name)
    return told["facts"]


def _made(recipe: Recipe, folders: Mapping[str, str | Path], target: str | Path) -> Facts:
    return (mix_experts if "experts" in recipe else merge_models)(recipe, folders, target)
