"""The task of a recipe. Other modules ask the task, never the recipe, what is trained on."""

from moult.training.preferences import Preferences
from moult.training.supervised import Supervised


def read_rows(recipe, paths):
    """Return (train, dev, dropped) of the data sources of a recipe; dropped: {split, uid, reason} of rows that are
    none of either."""
    return (Preferences if "loss" in recipe else Supervised).read(recipe, paths)


def task_of(recipe, base, shown=()):
    """Return the task of a recipe: preferences where it has a `loss`, else examples. `shown`: see `Supervised`."""
    return Preferences(recipe, base) if "loss" in recipe else Supervised(recipe, base, shown)
