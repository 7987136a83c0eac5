"""Which class of transformers a model folder is loaded by."""

import sys
from pathlib import Path
from typing import Any

from moult.base.files import read_json
from moult.weights.gated_reward import ARCHITECTURE, gated_reward_class


def is_vision_language(folder: str | Path) -> bool:
    """Whether a model folder holds a model that takes pictures or videos beside text."""
    return "vision_config" in read_json(Path(folder) / "config.json")


def is_reward_model(folder: str | Path) -> bool:
    """Whether a model folder holds a model that scores a text and writes none."""
    told = _architecture(folder)
    return told.endswith("ForSequenceClassification") or told == ARCHITECTURE


def is_gated_reward_model(folder: str | Path) -> bool:
    """Whether a model folder holds a reward model whose several rewards are weighed by gates."""
    return _architecture(folder) == ARCHITECTURE


def _architecture(folder):
    told = read_json(Path(folder) / "config.json").get("architectures") or [""]
    return str(told[0])


def auto_class(folder: str | Path) -> Any:
    """Return transformers' class that loads the model of a folder: for generation, or, of a reward model, to score."""
    import transformers

    if is_gated_reward_model(folder):
        return gated_reward_class()
    if is_reward_model(folder):
        return transformers.AutoModelForSequenceClassification
    if is_vision_language(folder):
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def is_bert_like(model: Any) -> bool:
    """Whether a loaded model is of BERT's or BART's kin, whose layers can read both ways."""
    module = sys.modules[type(model).__module__]
    return hasattr(model.config, "is_decoder") and hasattr(module, "create_bidirectional_mask")
