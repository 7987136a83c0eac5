"""A share of the rows of a dataset, drawn by the experiment's seed and each row's name: the same for all corpora."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, Field

from moult.base.files import derive_seed, digest
from moult.base.rows import Recipe
from moult.base.stage import Experiment

Row = TypeVar("Row")
_Place = Annotated[float, Field(ge=0, le=1)]
# Hexadecimal digits of a row's place between 0 and 1.
DIGITS = 13


def _has_rows(share):
    if share[0] >= share[1]:
        raise ValueError(f"{list(share)} has no row; write [start, stop] with start < stop")
    return share


Share = Annotated[tuple[_Place, _Place], AfterValidator(_has_rows)]


def share_recipe(cfg: Experiment, share: Sequence[float] | None) -> Recipe:
    """Return what decides which rows are of a share; nothing where all are."""
    return {} if share is None else {"share": list(share), "share_seed": derive_seed(cfg.seed, "share")}


def of_share(recipe: Recipe, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a recipe's share, in their order."""
    return [row for row in rows if is_of_share(recipe, cast(Any, row)["uid"])]


def is_of_share(recipe: Recipe, uid: str) -> bool:
    """Whether a row is of a recipe's share. It has a place from 0 to 1 by the seed and its uid, so that a further row
    moves no other one, and [0, x] and [x, 1] part all rows."""
    if "share" not in recipe:
        return True
    start, stop = recipe["share"]
    return start <= int(digest([recipe["share_seed"], uid])[:DIGITS], 16) / 16**DIGITS < stop
