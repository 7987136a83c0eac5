"""What every call of mergekit needs: paths that it reads right, and its refusals as sentences."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from moult.base.errors import UserError
from moult.base.failures import is_disk_full, is_memory_short


def mergekit_path(folder: str | Path) -> str:
    """Return a model's folder as mergekit takes it; UserError where it would read signs of its own in it."""
    path = Path(os.path.relpath(folder)).as_posix()
    if not {"@", "+"}.isdisjoint(path):
        raise UserError(f"{path}: mergekit reads @ and + in a path as its own signs; rename the model or the folder.")
    return path


@contextlib.contextmanager
def mergekit_refusals() -> Iterator[None]:
    """Turn what mergekit raises, or ends the process with, into a UserError."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError, KeyError, SystemExit) as error:
        if is_disk_full(error) or is_memory_short(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if isinstance(error, KeyError):
            reason = f"there is no {reason}"
        elif isinstance(error, SystemExit):
            reason = "the lines before this one in the log say why"
        raise UserError(
            f"mergekit refuses this merge ({reason}); correct its parameters, or take models of a kind it knows."
        ) from error
