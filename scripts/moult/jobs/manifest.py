"""Manifests: the files of an artefact and what it was made from. Written last: an artefact with a manifest is whole."""

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from moult import __version__
from moult.base.errors import UserError
from moult.base.files import digest, read_json, sha256_file, write_json
from moult.base.rows import Facts, Manifest, Recipe

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
) -> None:
    """Write the manifest of one job's outputs.

    Holds hashes and sizes of the files, the parents' hashes, recipe, versions, and `facts` (what the job counted).
    No time and no absolute path, so that the same work in another folder gives the same bytes.
    """
    home = Path(path).parent
    files = {
        file.relative_to(home).as_posix(): {"sha256": sha256_file(file), "size": file.stat().st_size}
        for file in _files_of(outputs)
    }
    write_json(
        path,
        {
            "name": artefact(path),
            "rule": rule,
            "files": files,
            "content": digest(files),
            "parents": {artefact(parent): read_json(parent)["content"] for parent in sorted(parents)},
            "recipe": recipe,
            "versions": installed_versions(),
            "facts": facts or {},
        },
    )


def artefact(path: str | Path) -> str:
    """Return the name of the artefact of a manifest: the manifest's path without its ending."""
    return Path(path).as_posix().removesuffix(".manifest.json")


def check_manifest(path: str | Path) -> Manifest:
    """Return a manifest after comparing its files; UserError when a file was truncated, changed or removed since.

    All sizes are compared, and the hashes of files up to `HASHED` bytes.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or digest(manifest.get("files")) != manifest.get("content"):
        raise UserError(f"{path}: is no whole manifest, or was edited; delete it and run again.")
    again = f"it was changed or cut after it was made: delete {path} and run again."
    for name, expected in manifest["files"].items():
        file = Path(path).parent / name
        if not file.is_file():
            raise UserError(f"{file}: is missing, {path} lists it; delete {path} and run again, it will be rebuilt.")
        size = file.stat().st_size
        if size != expected["size"]:
            raise UserError(f"{file}: has {size} bytes, {path} says {expected['size']}; {again}")
        if size <= HASHED and sha256_file(file) != expected["sha256"]:
            raise UserError(f"{file}: has other bytes than {path} says; {again}")
    return cast(Manifest, manifest)
