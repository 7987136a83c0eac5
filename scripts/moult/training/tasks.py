"""The task of a recipe. Other modules ask the task, never the recipe, what is trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moult.base.rows import Dropped, Recipe
from moult.training.preferences import Preferences
from moult.training.supervised import Supervised

Task = Preferences | Supervised


def read_rows(recipe: Recipe, paths: Sequence[str | Path]) -> tuple[list[Any], list[Any], list[Dropped]]:
    """Return (train, dev, dropped) of the data sources of a recipe; dropped: {split, uid, reason} of rows that are
    none of either."""
    return (Preferences if "loss" in recipe else Supervised).read(recipe, paths)


def task_of(recipe: Recipe, base: str | Path, shown: Sequence[str | Path] = ()) -> Task:
    """Return the task of a recipe: preferences where it has a `loss`, else examples. `shown`: see `Supervised`."""
    return Preferences(recipe, base) if "loss" in recipe else Supervised(recipe, base, shown)
