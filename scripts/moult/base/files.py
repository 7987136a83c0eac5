"""Write whole files or none; read and write JSON lines; hash."""

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space

# Reading it means setting it: once, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)


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
    """Return the name of unfinished work on `path`: this process's own. What dead ones left is removed."""
    host, folder = socket.gethostname()[:32], path.parent
    unfinished = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(host)}-(\d+)(\.old)?\.partial")
    for name in os.listdir(folder) if folder.is_dir() else ():
        found = unfinished.fullmatch(name)
        if found and (int(found[1]) == os.getpid() or not _alive(int(found[1]))):
            _remove(folder / name)
    return path.with_name(f".{path.name}.{host}-{os.getpid()}.partial")


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
    write_text_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path, remedy: str = "delete it and run again") -> Any:
    """Read one JSON document; UserError when the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
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
