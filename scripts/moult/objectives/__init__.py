"""Losses that learn to prefer some answers to others, one file each."""

import importlib
import pkgutil
from typing import get_args

from moult.objectives.base import Loss

# The folder is the list: a loss is added by its file, and nothing else has to name it.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
LOSSES: dict[str, type[Loss]] = {
    get_args(loss.model_fields["kind"].annotation)[0]: loss for loss in Loss.__subclasses__()
}


def loss_of(recipe: dict) -> Loss:
    """Return the loss that stands in a recipe: its `kind` and its settings."""
    return LOSSES[recipe["kind"]](**recipe)
