"""Importing libraries without what a job never uses: start-up is what small jobs wait for."""

import contextlib


@contextlib.contextmanager
def without(*packages):
    """Let transformers believe, while it is imported, that these optional packages are not installed.

    `scipy` serves the losses of its detection models, `datasets` (and pandas behind it) a type check in the Trainer:
    together a quarter of the Trainer's import time.
    """
    import transformers.utils

    names = [f"is_{package}_available" for package in packages]
    originals = {name: getattr(transformers.utils, name) for name in names}
    for name in names:
        setattr(transformers.utils, name, lambda: False)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(transformers.utils, name, original)


def without_deepspeed():
    """Let accelerate believe for good that DeepSpeed is not installed: it imports all of it to ask about a wrapper."""
    import accelerate.utils.other

    accelerate.utils.other.is_deepspeed_available = lambda: False
