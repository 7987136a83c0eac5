"""Write whole files or none; read and write JSON lines; hash."""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from moult.errors import UserError

# Reading it means setting it: once, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def whole_file(path, mode="w", **options):
    """Open a temporary file that takes the name `path` only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "\n"} | options
    try:
        with open(partial, mode, **options) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(path):
    """Yield an empty directory that takes the name `path` only when the block ends without an error."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        # safetensors writes files that only their owner can read; a group shares these.
        for file in partial.rglob("*"):
            file.chmod(0o777 & ~_UMASK if file.is_dir() else 0o666 & ~_UMASK)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text_atomic(path, text):
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as handle:
        handle.write(text)


def write_json(path, value):
    """Write JSON with sorted keys, so that equal values are equal bytes."""
    write_text_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path):
    """Read one JSON document; UserError when the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); delete it and run again.") from error


def write_jsonl(path, rows):
    """Write one JSON object a line, keys in their given order."""
    with whole_file(path) as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path):
    """Return the rows of a JSONL file; UserError naming the line that is not JSON."""
    rows = []
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not a JSON object ({error}).") from error
    return rows


def sha256_file(path):
    """Return the hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value):
    """Return the hex SHA-256 of a JSON-able value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def derive_seed(seed, *parts):
    """Return a 31-bit seed of its own for a job or a row, from the experiment's seed and its name."""
    return int(digest([seed, *parts])[:8], 16) & 0x7FFFFFFF
