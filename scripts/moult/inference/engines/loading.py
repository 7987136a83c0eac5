"""Which engine runs a model."""

import logging

from moult.inference.engines.transformers import TransformersEngine
from moult.inference.engines.vllm import VllmEngine
from moult.inference.vision import Vision

logger = logging.getLogger(__name__)


def load_engine(model, *, engine="transformers", dtype="float32", batch_size=8, threads=1, frames=None):
    """Load the model folder `model` and return its engine.

    `dtype` is torch's name. `batch_size` and `threads` are those of `transformers`; vLLM sees to both itself. `frames`
    (a `videos.Frames`) is where the videos of requests are found. UserError when the folder is no whole model in
    safetensors, or vLLM is wanted and not installed.
    """
    vision = Vision(model, frames) if frames and frames.files else None
    loaded = VllmEngine(model, dtype) if engine == "vllm" else TransformersEngine(model, dtype, batch_size, threads)
    loaded.vision = vision
    logger.info("ready: %s is loaded", model)
    return loaded
