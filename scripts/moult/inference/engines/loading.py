"""Which engine runs a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from moult.base.errors import UserError
from moult.data.videos.frames import Frames
from moult.inference.engines.transformers import TransformersEngine
from moult.inference.engines.vllm import VllmEngine
from moult.inference.vision import Vision

if TYPE_CHECKING:
    from moult.inference.engines.base import Engine


logger = logging.getLogger(__name__)


def load_engine(
    model: Path,
    *,
    engine: str = "transformers",
    dtype: str = "float32",
    batch_size: int = 8,
    threads: int = 1,
    bits: int | None = None,
    frames: Frames | None = None,
    several: bool = False,
) -> Engine:
    """Load the model folder `model` and return its engine.

    `dtype` is torch's name. `batch_size` and `threads` are those of `transformers`; vLLM sees to both itself. bits: of
    a weight, 4 or 8, where weights are quantised. `frames` (a `videos.Frames`) is where the videos of requests are
    found. several: whether there are several requests to each chat, which is then read once for those of a batch.
    UserError when the folder is no whole model in safetensors, or what is wanted is not installed.
    """
    vision = Vision(model, frames) if frames and frames.files else None
    loaded: Engine
    if engine == "vllm" and bits:
        raise UserError("bits: weights are quantised by engine transformers; write it, or leave `bits` out.")
    if engine == "vllm":
        loaded = VllmEngine(model, dtype, several)
    else:
        loaded = TransformersEngine(model, dtype, batch_size, threads, bits)
    loaded.vision, loaded.several = vision, several
    logger.info("ready: %s is loaded", model)
    return loaded
