"""What every call of mergekit needs: paths that it reads right, memory, and its refusals as sentences."""

import contextlib
import ctypes
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


def keep_memory() -> None:
    """Let this process keep the memory of tensors that are gone for those that come; where its C library can do that.

    Pages that the system gives out anew are cleared first, which takes several times as long as adding two tensors.
    """
    never_trim, never_map = (-1, -1), (-4, 0)
    with contextlib.suppress(AttributeError):
        for option in (never_trim, never_map):
            ctypes.CDLL(None).mallopt(*option)


def give_memory_back(beyond: int = 0) -> None:
    """Return to the system what `keep_memory` kept and nothing uses, where this process holds more than so many bytes.

    Nothing happens where the system does not tell, or its C library cannot do it.
    """
    with contextlib.suppress(OSError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > beyond:
            ctypes.CDLL(None).malloc_trim(0)
