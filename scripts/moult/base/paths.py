"""Where files are: those that come with Moult, those of a study, and those that a config names."""

import os
from functools import cache
from pathlib import Path

# What has to be on Python's path for `import moult`.
CODE = Path(__file__).parents[2]
ROOT = CODE.parent
RESOURCES = ROOT / "resources"


def named_files(kind: str, ending: str = ".yaml") -> dict[str, Path]:
    """Return the files of a kind, such as `prompts`, by name, e.g. `mmla/text`; subfolders are part of a name.

    A study's own stand in a folder of that name in the working directory, and win over those that come with Moult.
    """
    return _named_files(os.getcwd(), kind, ending)


def own_in_place_of_shipped(kind: str) -> list[str]:
    """Return the names of a study's own files of a kind that stand in place of one that comes with Moult."""
    return sorted(_files_in(Path.cwd() / kind).keys() & _files_in(RESOURCES / kind).keys())


@cache
def _named_files(study: str, kind: str, ending: str) -> dict[str, Path]:
    return dict(sorted((_files_in(RESOURCES / kind, ending) | _files_in(Path(study, kind), ending)).items()))


def _files_in(folder: Path, ending: str = ".yaml") -> dict[str, Path]:
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob(f"*{ending}")}


def written_out(path: str) -> str:
    """Return a path with `~` and the variables of the environment, `$HOME` or `${DATA}`, written out."""
    return os.path.expanduser(os.path.expandvars(path))
