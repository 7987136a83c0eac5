"""Import libraries without the parts that a job never uses, because small jobs wait mostly for imports."""

import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def hide_packages(*packages: str) -> Iterator[None]:
    """Let transformers believe, while it is imported, that these optional packages are not installed.

    `scipy` serves the losses of its detection models, `datasets` (and pandas behind it) a type check in the Trainer:
    together a quarter of the Trainer's import time. `torch_distributed` stands for sharding one model over devices.
    """
    import transformers.utils
    import transformers.utils.import_utils

    names = [f"is_{package}_available" for package in packages]
    places = [(module, name) for module in (transformers.utils, transformers.utils.import_utils) for name in names]
    originals = [getattr(module, name) for module, name in places]
    for module, name in places:
        setattr(module, name, lambda: False)
    try:
        yield
    finally:
        for (module, name), original in zip(places, originals, strict=True):
            setattr(module, name, original)


@contextlib.contextmanager
def hide_compiler() -> Iterator[None]:
    """Keep torch's compiler (torch._dynamo, sympy behind it) out while transformers is imported and a model loaded.

    transformers only marks functions for it: what is imported here must not be given to `torch.compile`. Afterwards
    the real compiler is imported as ever by whoever asks for it, such as torch's optimisers.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    import torch

    spec: Any = importlib.util.find_spec("torch._dynamo")
    stand_in: Any = types.ModuleType(spec.name)
    stand_in.__spec__, stand_in.__path__ = spec, spec.submodule_search_locations
    stand_in.disable = stand_in.allow_in_graph = stand_in.assume_constant_result = _unmarked
    sys.modules[spec.name] = torch._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules[spec.name], torch._dynamo


def _unmarked(function=None, *_, **__):
    """Stand in for a decorator, with its arguments or without."""
    return _unmarked if function is None else function


def hide_deepspeed() -> None:
    """Keep accelerate, in a process of its own, from importing deepspeed to ask whether a model is one of its engines.

    It asks whenever a model is saved or handed to the Trainer. A process that was launched as one of several is left
    alone: there the model may be one.
    """
    if "LOCAL_RANK" not in os.environ:
        import accelerate.utils.other

        accelerate.utils.other.is_deepspeed_available = lambda: False
