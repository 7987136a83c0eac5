"""Models that took work to fetch, kept once for all studies of a user: `~/.cache/moult/models/`, or `$MOULT_CACHE`."""

import importlib.metadata
import logging
import os
from collections.abc import Callable
from pathlib import Path

from moult.base.downloads import link
from moult.base.errors import UserError
from moult.base.files import digest, read_json, sha256_file, whole_directory, write_json

# What decides the bytes of a conversion beside its recipe.
CONVERTERS = ("transformers", "tokenizers", "safetensors", "gguf", "torch")
# Beside the model's own files in an entry: their hashes, and the facts of the fetch.
CONTENTS = ".contents.json"
logger = logging.getLogger(__name__)


def cached(recipe: dict, folder: Path, make: Callable[[], dict]) -> dict:
    """Fill `folder` with a model, from the user's cache or by `make()`, which returns the facts; return these.

    Files are hard links to the cache where both are on one disk. An entry whose files differ from their hashes is made
    again. Where the cache cannot be written, the model is fetched as if there were none; `MOULT_CACHE=` is none, too.
    """
    home = os.environ.get("MOULT_CACHE", os.path.expanduser("~/.cache/moult/models"))
    if not home or home.startswith("~"):
        return make()
    entry = Path(home, digest([recipe, [importlib.metadata.version(package) for package in CONVERTERS]])[:32])
    if (contents := _whole(entry)) is not None:
        logger.info("linked from %s", entry)
        _link_all(contents["files"], entry, folder)
        return contents["facts"]
    facts = make()
    files = {file.relative_to(folder).as_posix(): sha256_file(file) for file in folder.rglob("*") if file.is_file()}
    try:
        with whole_directory(entry) as partial:
            _link_all(files, folder, partial)
            write_json(partial / CONTENTS, {"files": files, "facts": facts})
    except (OSError, UserError) as error:
        logger.warning("%s: not kept for other studies (%s)", entry, error)
    return facts


def _link_all(files, origin, target):
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        link(origin / name, target / name)


def _whole(entry):
    """Return the contents of an entry; None where there is none, or where a file is damaged."""
    if not (entry / CONTENTS).exists():
        return None
    try:
        contents = read_json(entry / CONTENTS)
        if all(sha256_file(entry / name) == expected for name, expected in contents["files"].items()):
            return contents
        problem = "a file has another hash than when it was kept"
    except (OSError, UserError, LookupError, TypeError, AttributeError) as error:
        problem = error
    logger.warning("%s: fetched again, because the copy there is damaged (%s)", entry, problem)
    return None
