"""Manifests: the files of an artefact and what it was made from. Written last: an artefact with a manifest is whole."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moult import __version__
from moult.base.errors import UserError
from moult.base.files import as_json, blake3_file, digest, sha256_file, write_text_atomic
from moult.base.rows import Facts, FileFacts, Manifest, Recipe

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "mergekit",
    "llguidance",
    "httpx2",
    "openai",
    "pyarrow",
    "numpy",
    "scikit-learn",
)
# Bytes up to which a file is hashed again by each job that reads it, some 40 ms at the most: every table, corpus,
# adapter and tokenizer. Weights of gigabytes would cost each of the many jobs that load them seconds per gigabyte.
HASHED = 64 * 1024**2
# The line of a manifest that holds the hash of all others.
SEAL = re.compile(rb'(?<=\n)  "seal": "([0-9a-f]{64})",\n')


def installed_versions() -> dict[str, str]:
    """Return the versions of Moult and of the packages that decide what an artefact holds."""
    versions = {"moult": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _files_of(outputs):
    """Yield every file of the outputs; a directory counts with all its files but Snakemake's own timestamp."""
    for output in map(Path, outputs):
        inside = sorted(output.rglob("*")) if output.is_dir() else [output]
        yield from (path for path in inside if path.is_file() and path.name != ".snakemake_timestamp")


def write_manifest(
    path: str | Path,
    *,
    rule: str,
    outputs: Iterable[str | Path],
    parents: Iterable[str | Path],
    recipe: Recipe,
    facts: Facts | None,
    used: Mapping[str, Sequence[str]] | None = None,
    since: int | None = None,
) -> None:
    """Write the manifest of one job's outputs.

    Holds hashes and sizes of the files, the parents' hashes, recipe, versions, and `facts` (what the job counted).
    No time and no absolute path, so that the same work in another folder gives the same bytes. used: local file or
    folder → names of those files in it that were read, see `Manifest`; since: when their reading began, in ns.

    Raises:
        UserError: a local file changed since.
    """
    home = Path(path).parent
    files = {
        file.relative_to(home).as_posix(): {"sha256": sha256_file(file), "size": file.stat().st_size}
        for file in _files_of(outputs)
    }
    value = {
        "name": artefact(path),
        "rule": rule,
        "files": files,
        "content": digest(files),
        "parents": {artefact(parent): read_manifest(parent)["content"] for parent in sorted(parents)},
        "recipe": recipe,
        "versions": installed_versions(),
        "facts": facts or {},
    }
    seen = Seen(path)
    if used:
        value["local"] = [_digests(place, names, seen, since) for place, names in used.items()]
    nothing = "0" * 64
    text = as_json(value | {"seal": nothing})
    unsealed, _ = _unsealed(text.encode())
    write_text_atomic(path, text.replace(f'"seal": "{nothing}"', f'"seal": "{hashlib.sha256(unsealed).hexdigest()}"'))
    for name, one in files.items():
        seen.note(home / name, one["sha256"])
    seen.keep()


def _digests(place, names, seen, since):
    """Return name → BLAKE3 of the local files that were read, None where there is none; note when they were seen."""
    found = {}
    for name in names:
        file = Path(place, name)
        try:
            changed = file.stat().st_ctime_ns
        # It is not there; or its name is too long to be one.
        except OSError:
            found[name] = None
            continue
        if since and changed > since:
            raise UserError(f"{file}: changed while it was read; run again when it stays as it is.")
        found[name] = seen.note(file, blake3_file(file))
    return found


def artefact(path: str | Path) -> str:
    """Return the name of the artefact of a manifest: the manifest's path without its ending."""
    return Path(path).as_posix().removesuffix(".manifest.json")


def manifest_beside(path: str | Path) -> Path:
    """Return where the manifest of an artefact stands: of a folder by its name, of a file by its name's stem."""
    path = Path(path)
    return path.with_name(f"{path.name if path.is_dir() else path.stem}.manifest.json")


def _unsealed(text):
    """Return (a manifest's bytes without the line of its seal, the seal or None)."""
    parts = SEAL.split(text, maxsplit=1)
    return (parts[0] + parts[2], parts[1].decode()) if len(parts) == 3 else (text, None)


def read_manifest(path: str | Path) -> Manifest:
    """Return a manifest; UserError where there is none, or another than a job wrote."""
    try:
        text = Path(path).read_bytes()
        value = json.loads(text)
    # A few thousand brackets in a row are a RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); delete it and run again.") from error
    unsealed, seal = _unsealed(text)
    required, optional = Manifest.__required_keys__, Manifest.__optional_keys__
    if not (
        isinstance(value, dict)
        and required <= value.keys() <= required | optional
        and digest(value["files"]) == value["content"]
        and value.get("seal") in (None, hashlib.sha256(unsealed).hexdigest())
    ):
        raise UserError(f"{path}: is no whole manifest, or was edited; delete it and run again.")
    return cast(Manifest, value)


def check_manifest(path: str | Path, wanted: bool = True) -> Manifest:
    """Return a manifest after comparing its files; UserError when a file was truncated, changed or removed since.

    All sizes are compared, and the hashes of files up to `HASHED` bytes. wanted: whether the artefact itself is read;
    else a folder that is gone as a whole is no flaw.
    """
    manifest = read_manifest(path)
    if not wanted and is_gone(path, manifest):
        return manifest
    for name, expected in manifest["files"].items():
        file = Path(path).parent / name
        if wrong := flaw_of(file, expected, path, lambda stat: stat.st_size <= HASHED):
            remedy = f"delete {file} and run again" if file.exists() else "run again"
            raise UserError(f"{wrong}; {remedy}, it will be made again.")
    return manifest


def is_gone(path: str | Path, manifest: Manifest) -> bool:
    """Whether the artefact of a manifest is a folder that is there no more: it was to pass, or was taken away."""
    folder = Path(artefact(path))
    return not folder.exists() and all(name.startswith(f"{folder.name}/") for name in manifest["files"])


def stands(path: str | Path, recipe: Recipe, parents: Mapping[str, str]) -> bool:
    """Whether an artefact is there, as its manifest says, by a recipe, and of parents of these contents.

    parents: artefact → content, of at least those that it is made of.
    """
    if not Path(path).exists():
        return False
    try:
        manifest, seen = read_manifest(path), Seen(path)
    except UserError:
        return False
    return (
        digest(manifest["recipe"]) == digest(recipe)
        and manifest["parents"].items() <= parents.items()
        and not any(flaws(path, manifest, seen))
    )


def flaws(path: str | Path, manifest: Manifest, seen: "Seen") -> Iterator[str]:
    """Yield what is wrong with the files of a manifest; bytes are compared where time or size moved."""
    written = Path(path).stat().st_mtime_ns
    for name, expected in manifest["files"].items():
        file, sha256 = Path(path).parent / name, expected["sha256"]
        compared = []

        def doubted(stat, file=file, sha256=sha256, compared=compared):
            large = stat.st_size > HASHED
            as_noted = seen.has(file, sha256, stat, copied=large)
            if as_noted is None:
                as_noted = max(stat.st_mtime_ns, 0 if large else stat.st_ctime_ns) <= written
                if as_noted and large:
                    seen.note(file, sha256)
            if not as_noted:
                compared.append(file)
            return not as_noted

        if wrong := flaw_of(file, expected, path, doubted):
            yield wrong
        elif compared:
            seen.note(file, sha256)


def flaw_of(
    file: Path, expected: FileFacts, manifest: str | Path, doubted: Callable[[os.stat_result], bool]
) -> str | None:
    """Return what is wrong with a file of a manifest, None where nothing is.

    doubted: what the disk says of the file → whether its bytes are to be compared too.
    """
    try:
        found = file.stat()
    except OSError:
        return f"{file}: is missing, {manifest} lists it"
    if found.st_size != expected["size"]:
        return f"{file}: has {found.st_size} bytes, {manifest} says {expected['size']}"
    if doubted(found) and sha256_file(file) != expected["sha256"]:
        return f"{file}: has other bytes than {manifest} says"
    return None


class Seen:
    """Which file had which digest at what time, kept beside the results: what has not moved is not hashed again.

    Any of it may be deleted; then more is hashed.
    """

    def __init__(self, manifest: str | Path) -> None:
        # Of results elsewhere nothing is kept here.
        self.kept = Path("/dev/null") if Path(manifest).is_absolute() else Path("scratch", "seen", manifest)
        self.files: dict[str, list[Any]] = {}
        self.moved = False
        with contextlib.suppress(OSError, ValueError):
            self.files = dict(json.loads(self.kept.read_bytes()))

    def note(self, file: Path, found: str) -> str:
        """Note that a file has a digest now; return the digest."""
        stat = file.stat()
        self.files[str(file)] = [found, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        self.moved = True
        return found

    def has(self, file: Path, found: str, stat: os.stat_result, copied: bool = False) -> bool | None:
        """Return whether a file is still as it was when it had this digest; None where that was never noted.

        The time of a file's bytes can be put back, that of its last change cannot. copied: go by the first alone, as
        it is all that a copy of the folder keeps.
        """
        if str(file) not in self.files:
            return None
        now = [found, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        return self.files[str(file)][: 3 if copied else 4] == now[: 3 if copied else 4]

    def keep(self) -> None:
        """Write down what was noted, if anything was."""
        if self.moved and not self.kept.is_absolute():
            with contextlib.suppress(OSError):
                self.kept.parent.mkdir(parents=True, exist_ok=True)
                partial = self.kept.with_name(f"{self.kept.name}.{os.getpid()}")
                partial.write_text(json.dumps(self.files), encoding="utf-8")
                partial.replace(self.kept)
