"""The model of a recipe: the base, whole or under LoRA, in the dtype that it trains in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moult.base.errors import UserError
from moult.base.rows import Recipe
from moult.inference.vision import VISION_TOWER, auto_class, is_vision_language
from moult.weights.agreement import refuse_unfoldable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_mixed(recipe: Recipe) -> bool:
    """Whether products are in bfloat16 while an optimiser keeps the trained weights in float32.

    All weights train, or ZeRO-3 shards them, which it does in one dtype: small updates of bfloat16 weights would be
    rounded away. One device: float32 weights under autocast, which needs no DeepSpeed; several: its bf16 engine.
    LoRA weights are float32 anyway, beside a frozen base in `dtype`, and autocast would bring their products down.
    """
    return recipe["dtype"] == "bfloat16" and ("lora" not in recipe or recipe.get("zero") == 3)


def _base(recipe, base):
    alone = recipe.get("devices", 1) == 1
    dtype = "float32" if alone and is_mixed(recipe) else recipe["dtype"]
    return auto_class(base).from_pretrained(base, dtype=dtype, local_files_only=True, use_safetensors=True)


def reference_model(recipe: Recipe, base: str | Path) -> PreTrainedModel:
    """Return the base, ready to be called, with the arithmetic that training begins with."""
    import torch

    torch.set_num_threads(recipe["threads"])
    model = _base(recipe, base).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if recipe.get("devices", 1) == 1 and is_mixed(recipe):
        model.forward = torch.autocast(model.device.type, torch.bfloat16)(model.forward)
    return model


def trained_model(recipe: Recipe, base: str | Path) -> Any:
    """Return the base, whole or under LoRA, ready to train."""
    from peft import LoraConfig, get_peft_model

    model = _base(recipe, base)
    sees = is_vision_language(base)
    if "lora" not in recipe:
        if sees:
            model.get_submodule(f"model.{VISION_TOWER}").requires_grad_(False)
        return model
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe["lora"]["rank"],
        lora_alpha=recipe["lora"]["alpha"],
        lora_dropout=recipe["lora"]["dropout"],
        target_modules=recipe["lora"]["targets"],
        exclude_modules=rf".*\b{VISION_TOWER}\..*" if sees else None,
    )
    try:
        adapted = get_peft_model(model, lora)
    except ValueError as error:
        raise UserError(f"lora.targets {recipe['lora']['targets']} do not fit {recipe['base']}: {error}") from error
    refuse_unfoldable(adapted, base)
    return adapted
