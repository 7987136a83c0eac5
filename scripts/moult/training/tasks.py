"""Which task a recipe sets: the one place that asks."""

from moult.training.preferences import Preferences
from moult.training.supervised import Supervised


def task_of(recipe, base, shown=()):
    """Return the task of a recipe: with a `loss` it is to prefer, else to answer. `shown`: see `Supervised`."""
    return Preferences(recipe, base) if "loss" in recipe else Supervised(recipe, base, shown)
