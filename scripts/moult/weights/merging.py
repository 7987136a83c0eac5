"""Merge the weights of models with mergekit."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import read_json, whole_directory, write_json, write_text_atomic
from moult.base.rows import Facts, Recipe
from moult.weights.calling_mergekit import mergekit_path
from moult.weights.compatibility import (
    chat_template,
    check_compatible,
    embedding_rows,
    outside_layers,
    tensor_shapes,
    tokens_of,
)
from moult.weights.headers import (
    OTHER_FILES,
    TOKENIZER_FILES,
    check_finite,
    check_model_folder,
    copy_files,
    tensor_headers,
)
from moult.weights.methods import METHODS, filters, gradients_outside, groups, refusals
from moult.weights.running import Ready, run_alone

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
    config = {
        "merge_method": method,
        **_sources(recipe, folder_of),
        "parameters": _given(recipe.get("parameters", {})),
        "dtype": recipe["dtype"],
    }
    if base is not None:
        config["base_model"] = folder_of(base)
    if "modules" in recipe:
        config["modules"] = {
            name: _sources(part, folder_of) | _parameters(part) for name, part in recipe["modules"].items()
        }
    if "out_dtype" in recipe:
        config["out_dtype"] = recipe["out_dtype"]
    if "tokenizer" in recipe:
        config["tokenizer"] = _tokenizer(recipe["tokenizer"], folder_of)
    return config


def _sources(part, folder_of):
    """What is merged, as mergekit writes it: models, or slices; neither where modules say it."""
    if "slices" in part:
        return {"slices": [_slice(one, folder_of) for one in part["slices"]]}
    if "parents" in part:
        return {"models": [_source(parent, folder_of) for parent in part["parents"]]}
    return {}


def _slice(one, folder_of):
    base = {"base_model": folder_of(one["base"])} if one.get("base") else {}
    return {"sources": [_source(source, folder_of) for source in one["sources"]]} | base | _parameters(one)


def _source(parent, folder_of):
    settings = _given({key: value for key, value in parent.items() if key not in ("model", "layer_range")})
    layers = {"layer_range": list(parent["layer_range"])} if "layer_range" in parent else {}
    return {"model": folder_of(parent["model"])} | layers | {"parameters": settings}


def _given(settings):
    return {key: value for key, value in settings.items() if value is not None}


def _parameters(part):
    return {"parameters": _given(part["parameters"])} if part.get("parameters") else {}


def _tokenizer(given, folder_of):
    source = given["source"]
    tokens = {}
    for token, one in given.get("tokens", {}).items():
        origin = {"kind": "zero"} if one["source"] == "zero" else folder_of(one["source"])
        tokens[token] = {"source": origin, "force": one["force"]}
    config = {"source": source if source in ("union", "base") else folder_of(source), "tokens": tokens}
    multiple = given.get("pad_to_multiple_of")
    return config if multiple is None else config | {"pad_to_multiple_of": multiple}


def merge_models(recipe: Recipe, folders: Mapping[str, str | Path], target: str | Path) -> Facts:
    """Merge models with mergekit on the CPU; the same recipe gives the same bytes.

    `recipe`: method, base, parents (model, weight, density) or slices or modules, parameters, dtype, seed, threads;
    perhaps out_dtype, tokenizer, chat_template, order (stable: of equally large entries the first are kept). `folders`
    maps the names in it to folders. Config, tokenizer, chat template and generation config come from the base (else the
    first parent), or from the first parent that has a chat template where the base has none. The configuration stays
    beside the weights as `mergekit_config.yml`, its paths relative to where the job runs. UserError when the models do
    not fit each other or the result is not finite. Returns the facts: `tokenizer_from`, `warnings`.
    """
    ready = ready_to_merge(recipe, folders)
    check_parents(ready.models.values())
    with whole_directory(target) as folder:
        run_alone(ready, folder)
        return finish(ready, folder)


def ready_to_merge(recipe: Recipe, folders: Mapping[str, str | Path]) -> Ready:
    """Return a merge, ready to be made; UserError where its models do not fit each other or its settings."""
    base, method, made_of = recipe.get("base"), recipe["method"], groups(recipe)
    config = mergekit_config(recipe, lambda name: mergekit_path(folders[name]))
    bases = [group["base"] for group in made_of if group["base"]]
    parents = [parent["model"] for group in made_of for parent in group["parents"]]
    models = {name: Path(folders[name]) for name in dict.fromkeys([*([base] if base else []), *bases, *parents])}
    for folder in models.values():
        check_model_folder(folder)
    warnings = check_compatible(
        models,
        base if METHODS[method].task_vectors else None,
        layers="parents" in recipe,
        tokens="tokenizer" not in recipe,
    )
    _check_filters(recipe, models)
    if "tokenizer" in recipe:
        _check_rows(recipe["tokenizer"], models)
    warnings += gradients_outside(recipe)
    if "float16" in (recipe["dtype"], recipe.get("out_dtype")):
        stored = {dtype for folder in models.values() for _, dtype, _ in tensor_headers(folder).values()}
        if "BF16" in stored:
            warnings.append("float16 has a smaller range than bfloat16, in which parents are stored; write bfloat16.")
    for warning in warnings:
        logger.warning(warning)
    chosen = recipe.get("chat_template")
    if chosen and not chat_template(models[chosen]):
        raise UserError(f"merge: chat_template names {chosen}, which has none; name another model, or leave it out.")
    by_template = sorted(models, key=lambda name: (name != chosen, not chat_template(models[name])))
    return Ready(recipe, config, models, by_template, warnings)


def check_parents(folders: Iterable[Path]) -> None:
    """Raise a UserError when a parent holds NaN or infinite values."""
    for folder in folders:
        check_finite(folder, "fetch or make this parent again")


def finish(ready: Ready, folder: Path) -> Facts:
    """Put beside the weights what belongs to a model, check them, and return the facts."""
    import yaml

    recipe, models = ready.recipe, ready.models
    reference, origin = models[next(iter(models))], models[ready.by_template[0]]
    _write_merged_config(recipe, reference, folder)
    _check_merged(recipe, folder, reference)
    if "tokenizer" in recipe:
        _take_template(origin, folder)
    else:
        copy_files(origin, folder, TOKENIZER_FILES)
    # Backwards, so that of several files of one name the best owner's stays.
    for name in reversed(ready.by_template):
        copy_files(models[name], folder, OTHER_FILES)
    write_text_atomic(folder / "mergekit_config.yml", yaml.safe_dump(ready.config, sort_keys=False))
    logger.info("merged %s by %s", ready.parents, recipe["method"])
    return {"tokenizer_from": ready.by_template[0], "warnings": ready.warnings}


def _check_filters(recipe, models):
    """UserError for a filter that meets no tensor: its value would count nowhere."""
    names = {name for folder in models.values() for name in tensor_headers(folder)}
    for where, part in filters(recipe):
        if not any(part in name for name in names):
            raise UserError(
                f"merge by {recipe['method']}: {where}: filter {part!r} meets no tensor; names are such as "
                f"{', '.join(sorted(names)[:2])}."
            )


def _check_rows(tokenizer, models):
    """UserError where rows of embeddings would be lost because no token stands for them, unless that is wanted."""
    source = tokenizer["source"]
    of = list(models.values()) if source == "union" else [models.get(source, next(iter(models.values())))]
    tokens = {token for folder in of for token in tokens_of(folder)}.union(tokenizer.get("tokens", {}))
    multiple = tokenizer.get("pad_to_multiple_of") or 1
    kept, rows = -(-len(tokens) // multiple) * multiple, max(embedding_rows(folder) for folder in models.values())
    if kept < rows and not tokenizer.get("drop_rows"):
        raise UserError(
            f"merge: with this tokenizer the embeddings keep {kept} of {rows} rows, because no token stands for the "
            "others; write pad_to_multiple_of, or `drop_rows: true` if they may be lost."
        )


def _check_merged(recipe, folder, reference):
    """UserError unless the result has every tensor of the reference, in its shape, and finite.

    Where layers are put together anew, those outside of the layers are compared, and each layer is there; with a
    tokenizer of its own the rows of the embeddings may be others.
    """
    config, theirs = read_json(folder / "config.json"), read_json(reference / "config.json")
    made, expected = tensor_shapes(folder, config), tensor_shapes(reference, theirs)
    if "parents" not in recipe:
        check_model_folder(folder)
        made, expected = outside_layers(made), outside_layers(expected)
    if "tokenizer" in recipe:
        sides = ((made, embedding_rows(folder)), (expected, embedding_rows(reference)))
        made, expected = (
            {name: shape[1:] if shape[:1] == (rows,) else shape for name, shape in shapes.items()}
            for shapes, rows in sides
        )
    if made != expected:
        raise UserError(f"merge: lacks tensors of {reference}; mergekit does not know all of this architecture.")
    check_finite(folder, "the parents do not: look for weights that sum to zero, or merge in another dtype")


def _write_merged_config(recipe, reference, folder):
    """Write config.json: the reference's, with the number format, the layers and the rows of what was merged."""
    config = read_json(reference / "config.json")
    ranges = [group["parents"][0]["layer_range"] for group in groups(recipe) if "layer_range" in group["parents"][0]]
    layers = [number for first, last in ranges for number in range(first, last)]
    for settings in (config, *(value for value in config.values() if isinstance(value, dict))):
        if settings is config or "dtype" in settings or "torch_dtype" in settings:
            settings.pop("torch_dtype", None)
            settings["dtype"] = recipe.get("out_dtype", recipe["dtype"])
        if "tokenizer" in recipe and "vocab_size" in settings:
            settings["vocab_size"] = embedding_rows(folder)
    if layers:
        config["num_hidden_layers"] = len(layers)
        if types := config.get("layer_types"):
            config["layer_types"] = [types[number] for number in layers]
    write_json(folder / "config.json", config)


def _take_template(origin, folder):
    template = chat_template(origin)
    if template:
        write_text_atomic(folder / "chat_template.jinja", template)
