"""What an exception means to the user, in one sentence: a full disk, too little memory, a forbidden place, a bug."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from moult.base.errors import UserError
from moult.base.legible import on_one_line

# Only OSErrors carry a number; the writers of safetensors, tokenizers, SQLite and torch have words of their own.
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "database or disk is full",
    "PytorchStreamWriter failed writing file",
    "unexpected pos ",
)
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "No available memory", "ALLOC_FAILED")
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException, log: str | Path, places: Iterable[str | Path]) -> str:
    """Return the sentence that a job ends with; `places` are the paths it writes to, `log` holds the traceback."""
    message = on_one_line(str(error)[:3000])[:300]
    if isinstance(error, UserError):
        return str(error)
    if is_disk_full(error):
        return no_space(places)
    if is_memory_short(error):
        return (
            f"memory is too small ({type(error).__name__}: {message}); lower batch_size (of finetune, and raise "
            "accumulation for it, or of compute), or ask for more by the model's `needs: {mem_gb, gpu_mem_gb}`; "
            f"the traceback stands in {log}."
        )
    if isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename:
        return f"{error.filename}: {error.strerror}; let this user read and write there, or build elsewhere."
    return (
        f"{type(error).__name__}: {message or 'no message'}; this is a bug or an unforeseen input, "
        f"the traceback stands in {log}."
    )


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that it came of, says that a disk or a quota is full."""
    while error is not None:
        if _number(error) in (errno.ENOSPC, errno.EDQUOT) or _said(error, _FULL):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def is_memory_short(error: BaseException) -> bool:
    """Whether an exception says that there is too little memory, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or _said(error, _MEMORY) or _number(error) == errno.ENOMEM


def no_space(places: Iterable[str | Path]) -> str:
    """Return which disk is full, of those that these paths, the build and temporary files are on, as a sentence."""
    folders = [_existing(Path(place)) for place in (*places, Path.cwd(), tempfile.gettempdir())]
    fullest = min(folders, key=lambda folder: shutil.disk_usage(folder).free)
    free = shutil.disk_usage(fullest).free / 1e6
    return f"no space left on {fullest} ({free:.1f} MB free); free some and run again, it continues."


def _existing(path):
    """Return the nearest folder that is there: a writer may have failed before it made its own."""
    return next(folder for folder in (path, *path.absolute().parents) if os.path.isdir(folder))


def _number(error):
    return error.errno if isinstance(error, OSError) else None


def _said(error, phrases):
    return any(phrase in str(error) for phrase in phrases)
