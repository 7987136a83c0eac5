"""Which task a recipe sets. Nothing else asks for it."""

from moult.training.preferences import Preferences
from moult.training.supervised import Supervised


def read_rows(recipe, paths):
    """Return (train, dev, dropped) of the data sources of a recipe; dropped: {split, uid, reason} of rows that are
    none of either."""
    return (Preferences if "loss" in recipe else Supervised).read(recipe, paths)


def task_of(recipe, base, shown=()):
    """Return the task of a recipe: with a `loss` it is to prefer, else to answer. `shown`: see `Supervised`."""
    return Preferences(recipe, base) if "loss" in recipe else Supervised(recipe, base, shown)
