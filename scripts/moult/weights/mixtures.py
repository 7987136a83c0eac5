"""Mixtures of experts, made of whole models by mergekit-moe."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import read_json, whole_directory, write_json, write_text_atomic
from moult.base.lean_imports import hide_packages
from moult.base.rows import Facts, Recipe
from moult.weights.calling_mergekit import mergekit_path, mergekit_refusals
from moult.weights.compatibility import check_compatible
from moult.weights.headers import OTHER_FILES, TOKENIZER_FILES, check_finite, check_model_folder, copy_files

# Raise when the same recipe would now give other weights.
MIXTURE_VERSION = 1
GATE_MODES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random")
logger = logging.getLogger(__name__)


def mixture_refusals(mixture: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each mistake in a mixture: the section of a config or a recipe, as plain data."""
    experts, shared, gate = mixture["experts"], mixture.get("shared_experts") or [], mixture["gate_mode"]
    if mixture["experts_per_token"] > len(experts):
        yield f"experts_per_token is {mixture['experts_per_token']}, but there are {len(experts)} experts"
    if gate != "random":
        for expert in experts:
            if not expert.get("positive_prompts"):
                yield f"expert {expert['model']}: positive_prompts is empty; gate_mode {gate} needs texts for each"
        prompts = Counter(_prompts(expert) for expert in experts)
        if len(prompts) == 1 and next(iter(prompts))[0]:
            yield "all experts have the same prompts, so that the router cannot tell them apart"
        if len({expert["model"] for expert in experts}) == 1:
            yield "all experts are the same model, so that the mixture says what it says"
    if len({bool(expert.get("positive_prompts")) for expert in shared}) > 1:
        yield "some shared experts have positive_prompts and some have none; write them for all or for none"
    architecture = mixture.get("architecture")
    if architecture == "qwen" and len(shared) != 1:
        yield f"architecture qwen takes exactly one shared expert, not {len(shared)}"
    if architecture in ("mixtral", "qwen3") and shared:
        yield f"architecture {architecture} takes no shared experts"


def _prompts(expert):
    return tuple(expert.get("positive_prompts") or ()), tuple(expert.get("negative_prompts") or ())


def mixture_config(recipe: Recipe, folders: Mapping[str, str | Path]) -> dict[str, Any]:
    """Return mergekit-moe's own configuration for a recipe, as plain data; UserError for one that it would refuse."""
    if found := list(mixture_refusals(recipe)):
        raise UserError(f"mixture: {'. '.join(found)}.")
    config: dict[str, Any] = {"base_model": mergekit_path(folders[recipe["base"]])}
    for kind in ("experts", "shared_experts"):
        if kind in recipe:
            config[kind] = [_expert(expert, folders) for expert in recipe[kind]]
    return config | {key: recipe[key] for key in _SETTINGS if key in recipe}


_SETTINGS = ("gate_mode", "dtype", "experts_per_token", "architecture")


def _expert(expert, folders):
    settings = {key: value for key, value in expert.items() if key != "model"}
    return {"source_model": mergekit_path(folders[expert["model"]])} | settings


def mix_experts(recipe: Recipe, folders: Mapping[str, str | Path], target: str | Path) -> Facts:
    """Make a mixture of experts with mergekit-moe on the CPU; the same recipe gives the same bytes.

    `recipe`: base, experts and perhaps shared_experts (model, prompts, scales), gate_mode, experts_per_token, dtype,
    seed, threads, perhaps architecture. `folders` maps the names in it to folders. Tokenizer, chat template and
    generation config are the base's, as they are there. The configuration stays beside the weights as
    `mergekit_moe_config.yml`. UserError when mergekit refuses the models, the result is not finite, or transformers
    finds other tensors in it than its config asks for. Returns the facts: `tokenizer_from`, `warnings`.
    """
    import torch
    import yaml

    base = recipe["base"]
    config = mixture_config(recipe, folders)
    models = {base: Path(folders[base])} | {
        expert["model"]: Path(folders[expert["model"]])
        for kind in ("experts", "shared_experts")
        for expert in recipe.get(kind, ())
    }
    for folder in models.values():
        check_model_folder(folder)
        check_finite(folder, "fetch or make this model again")
    warnings = check_compatible(models, None)
    for warning in warnings:
        logger.warning(warning)
    logger.info("mixing %s", ", ".join(expert["model"] for expert in recipe["experts"]))
    torch.set_num_threads(recipe["threads"])
    with whole_directory(target) as folder:
        _run_mergekit(config, folder, recipe["seed"])
        _write_config(folder, recipe["dtype"])
        _check_loads(folder)
        check_finite(folder, "its models do not: look at noise_scale and residual_scale")
        copy_files(models[base], folder, (*TOKENIZER_FILES, *OTHER_FILES))
        write_text_atomic(folder / "mergekit_moe_config.yml", yaml.safe_dump(config, sort_keys=False))
    return {"tokenizer_from": base, "warnings": warnings}


def _run_mergekit(config, folder, seed):
    with hide_packages("scipy"):
        from mergekit.moe.config import MoEMergeConfig
        from mergekit.options import MergeOptions
        from mergekit.scripts.moe import build

    logger.info("ready: mergekit is loaded")
    # mergekit-moe would save the tokenizer with another padding and another pad token.
    options = MergeOptions(random_seed=seed, quiet=True, copy_tokenizer=False, write_model_card=False)
    options.apply_global_options()
    with mergekit_refusals():
        build(MoEMergeConfig.model_validate(config), str(folder), options, device="cpu")


def _write_config(folder, dtype):
    config = read_json(folder / "config.json")
    config.pop("torch_dtype", None)
    write_json(folder / "config.json", config | {"dtype": dtype})


def _check_loads(folder):
    """UserError unless the tensors of a model's folder are those that its config asks for, in their shapes."""
    from transformers import AutoModelForCausalLM

    _, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, device_map="meta")
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in sorted(found[kind])]
    if wrong:
        raise UserError(
            f"mixture: {', '.join(map(str, wrong[:3]))} does not fit the config that mergekit-moe wrote; take models "
            "of another kind, or another `architecture`."
        )
