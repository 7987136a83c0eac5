"""Write whole files or none; read and write JSON lines; hash."""

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space
from moult.base.outside import without_halves
from moult.base.processes import Process, machine_start

# Bytes of a JSON document: a tokenizer of a million tokens has a fifth of it.
MOST_JSON = 400_000_000
# Reading it means setting it: once, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)
# Seconds without a change, after which nobody is believed to be at work on what another machine began.
ABANDONED = 86400


@contextlib.contextmanager
def whole_file(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file that takes the name `path` only when the block ends without an error.

    A full disk is a UserError that names `path`.
    """
    path = Path(path)
    partial = _partial(path)
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "\n"} | options
    try:
        with _naming(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, mode, **options) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(partial, path)
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty directory that takes the name `path` only when the block ends without an error.

    All of it is on disk before it takes its name, and never is a part of it seen under that name. A full disk is a
    UserError that names `path`.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        with _naming(path, partial):
            partial.mkdir(parents=True)
            yield partial
            # safetensors writes files that only their owner can read; a group shares these.
            for file in [*partial.rglob("*"), partial]:
                file.chmod(0o777 & ~_UMASK if file.is_dir() else 0o666 & ~_UMASK)
                _sync(file)
            _put_in_place(partial, path)
            _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(path):
    """Return the name of unfinished work on `path`: this process's own. What dead processes left is removed."""
    folder, own = path.parent, Process.own()
    unfinished = re.compile(rf"\.{re.escape(path.name)}\.(.+?)(\.old)?\.partial", re.DOTALL)
    for name in os.listdir(folder) if folder.is_dir() else ():
        found = unfinished.fullmatch(name)
        if found and _is_left_behind(folder / name, found[1], own):
            _remove(folder / name)
    return path.with_name(f".{path.name}.{own}.partial")


def _is_left_behind(path, maker, own):
    """Return whether the process that began `path`, and is named in it, can be at work on it no more."""
    process = Process.parse(maker)
    if process == own:
        return True
    if process is None:
        # An earlier Moult wrote no more than host and number, and a number may be another process's by now.
        earlier = re.fullmatch(r"(.+)-\d+", maker, re.DOTALL)
        if earlier is None or earlier[1] == own.host:
            return earlier is not None
    elif (runs := process.runs()) is not None:
        return not runs
    changed = _last_change(path)
    before = process and process.host == own.host and changed < machine_start()
    return bool(before) or time.time() - changed > ABANDONED


def _last_change(path):
    """Return when a file, or anything in a folder, was changed last; now, where it is gone meanwhile."""
    try:
        return max(one.lstat().st_mtime for one in [path, *path.rglob("*")])
    except FileNotFoundError:
        return time.time()


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _put_in_place(partial, path):
    """Rename `partial` to `path`; what stood there is moved away first, since no half of it may be seen there."""
    old = partial.with_suffix(".old.partial")
    for attempt in range(10):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, old)
        try:
            os.rename(partial, path)
            return
        except OSError:
            # Another process put its own there in between.
            if attempt == 9 or not path.exists():
                raise
        finally:
            _remove(old)


def _sync(path):
    """Wait until a file, or the names in a folder, are on disk; not every shared disk can do this for folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _naming(path, partial):
    """Name `path` in every UserError, not the unfinished file; turn any exception of a full disk into a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(partial), str(path))) from error
    except Exception as error:
        if is_disk_full(error):
            # Asked while the half file still fills the disk.
            raise UserError(f"{path}: {no_space([path.parent])}") from error
        raise


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as handle:
        handle.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values are equal bytes."""
    write_text_atomic(path, as_json(value))


def as_json(value: Any) -> str:
    """Return the text of a JSON file of ours."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: str | Path, remedy: str = "delete it and run again") -> Any:
    """Read one JSON document, halves of surrogate pairs replaced; UserError when the file is missing, is not JSON, or
    is larger than any such file (MOST_JSON bytes)."""
    try:
        if (size := os.path.getsize(path)) > MOST_JSON:
            raise ValueError(f"{size} bytes are more than such a file has")
        return json.loads(without_halves(Path(path).read_text(encoding="utf-8")))
    # A few thousand brackets in a row are a RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {remedy}.") from error


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, keys in their given order."""
    with whole_file(path) as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> list[Any]:
    """Return the rows of a JSONL file; UserError naming the line that is not JSON."""
    return list(each_jsonl(path))


def each_jsonl(path: str | Path) -> Iterator[Any]:
    """Yield the rows of a JSONL file, one in memory at a time; UserError naming the line that is not JSON."""
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not a JSON object ({error}); make it again.") from error


def sha256_file(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def blake3_file(path: str | Path) -> str:
    """Return the hex BLAKE3 of a file's bytes, at some 3 GB/s on one core: of weights that are not copied."""
    from blake3 import blake3

    found = blake3()
    with open(path, "rb") as handle:
        # Not mapped: a file that is cut while it is read would kill the process.
        while part := handle.read(4 * 1024**2):
            found.update(part)
    return found.hexdigest()


def digest(value: Any) -> str:
    """Return the hex SHA-256 of a JSON-able value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def derive_seed(seed: int, *parts: Any) -> int:
    """Return a 31-bit seed of its own for a job or a row, from the experiment's seed and its name."""
    return int(digest([seed, *parts])[:8], 16) & 0x7FFFFFFF


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV, whole or not at all; None is an empty cell."""
    with whole_file(path) as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as dicts of strings."""
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
