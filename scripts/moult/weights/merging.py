"""Merge the weights of models with mergekit."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.failures import is_disk_full, is_memory_short
from moult.base.files import read_json, whole_directory, write_json, write_text_atomic
from moult.base.lean_imports import hide_compiler, hide_packages
from moult.base.rows import Facts, Recipe
from moult.base.stage import Job
from moult.weights.card import write_model_card
from moult.weights.compatibility import chat_template, check_compatible, tensor_shapes
from moult.weights.headers import OTHER_FILES, TOKENIZER_FILES, check_finite, check_model_folder, copy_files
from moult.weights.methods import METHODS, refusals

# Raise when the same recipe would now give other weights.
VERSION = 1
logger = logging.getLogger(__name__)


def mergekit_config(recipe: Recipe, folder_of: Callable[[str], str]) -> dict[str, Any]:
    """Return mergekit's own configuration for a recipe, as plain data; `folder_of` gives a model's folder.

    UserError for a setting that the method does not take.
    """
    method, base = recipe["method"], recipe.get("base")
    if found := list(refusals(recipe)):
        raise UserError(f"merge by {method}: {'. '.join(found)}.")
    parameters = {key: value for key, value in recipe.get("parameters", {}).items() if value is not None}
    config = {
        "merge_method": method,
        "models": [_mergekit_parent(parent, folder_of) for parent in recipe["parents"]],
        "parameters": parameters,
        "dtype": recipe["dtype"],
    }
    return config if base is None else config | {"base_model": folder_of(base)}


def _mergekit_parent(parent, folder_of):
    settings = {key: value for key, value in parent.items() if key != "model" and value is not None}
    return {"model": folder_of(parent["model"]), "parameters": settings}


def merge_models(recipe: Recipe, folders: Mapping[str, str | Path], target: str | Path) -> Facts:
    """Merge models with mergekit on the CPU; the same recipe gives the same bytes.

    `recipe`: method, base, parents (model, weight, density), parameters, dtype, seed, threads. `folders` maps the
    names in it to folders. Config, tokenizer, chat template and generation config come from the base (else the
    first parent), or from the first parent that has a chat template where the base has none. The configuration
    stays beside the weights as `mergekit_config.yml`, its paths relative to where the job runs. UserError when the
    models do not fit each other or the result is not finite. Returns the facts: `tokenizer_from`, `warnings`.
    """
    import torch
    import yaml

    parents = [parent["model"] for parent in recipe["parents"]]
    base, method = recipe.get("base"), recipe["method"]
    config = mergekit_config(recipe, lambda name: _mergekit_path(folders[name]))
    names = list(dict.fromkeys([base, *parents] if base else parents))
    models = {name: Path(folders[name]) for name in names}
    for folder in models.values():
        check_model_folder(folder)
        check_finite(folder, "fetch or make this parent again")
    warnings = check_compatible(models, base if METHODS[method].base == "no parent" else None)
    for warning in warnings:
        logger.warning(warning)
    by_template = sorted(names, key=lambda name: not chat_template(models[name]))
    logger.info("merging %s by %s", ", ".join(parents), method)
    torch.set_num_threads(recipe["threads"])
    with whole_directory(target) as folder:
        _run_mergekit(config, folder, recipe["seed"])
        _check_merged(folder, models[names[0]])
        _write_merged_config(models[names[0]], folder, recipe["dtype"])
        copy_files(models[by_template[0]], folder, TOKENIZER_FILES)
        # Backwards, so that of several files of one name the best owner's stays.
        for name in reversed(by_template):
            copy_files(models[name], folder, OTHER_FILES)
        write_text_atomic(folder / "mergekit_config.yml", yaml.safe_dump(config, sort_keys=False))
    logger.info("merged %s by %s", ", ".join(parents), method)
    return {"tokenizer_from": by_template[0], "warnings": warnings}


def _mergekit_path(folder):
    path = Path(os.path.relpath(folder)).as_posix()
    if not {"@", "+"}.isdisjoint(path):
        raise UserError(f"{path}: mergekit reads @ and + in a path as its own signs; rename the model or the folder.")
    return path


def _run_mergekit(config, folder, seed):
    """Write the merged weights to a folder; UserError where mergekit refuses its configuration."""
    with hide_packages("scipy", "torch_distributed"), hide_compiler():
        from mergekit.config import MergeConfiguration
        from mergekit.io.tasks import LoaderCache
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

    # Without a base mergekit copies config and tokenizer from a model that it draws from an unordered set, and its
    # card asks the hub for every path that looks like a repository: the caller sees to both.
    logger.info("ready: mergekit is loaded")
    options = MergeOptions(random_seed=seed, quiet=True, copy_tokenizer=False, write_model_card=False)
    try:
        run_merge(MergeConfiguration.model_validate(config), str(folder), options)
    except (RuntimeError, ValueError) as error:
        if is_disk_full(error) or is_memory_short(error):
            raise
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"mergekit refuses this merge ({reason}); correct its parameters, or take models of a kind it knows."
        ) from error
    finally:
        # It keeps the files of a path open for the next merge of this process, which may find others there.
        LoaderCache().loaders.clear()


def _check_merged(folder, reference):
    """UserError unless the result has every tensor of the reference, in its shape, and finite."""
    config = read_json(reference / "config.json")
    if tensor_shapes(folder, config) != tensor_shapes(reference, config):
        raise UserError(f"merge: lacks tensors of {reference}; mergekit does not know all of this architecture.")
    check_finite(folder, "the parents do not: look for weights that sum to zero, or merge in another dtype")


def _write_merged_config(reference, folder, dtype):
    config = read_json(reference / "config.json")
    for settings in (config, *(value for value in config.values() if isinstance(value, dict))):
        if settings is config or "dtype" in settings or "torch_dtype" in settings:
            settings.pop("torch_dtype", None)
            settings["dtype"] = dtype
    write_json(folder / "config.json", config)


def run(job: Job) -> None:
    """Do the job of merge_models."""
    folders = dict(zip(job.params.names, job.inputs.models, strict=True))
    job.facts = merge_models(job.recipe, folders, job.outputs.model)
    write_model_card(job.outputs.model, job.card(job.facts))
