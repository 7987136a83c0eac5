"""The Python that Snakemake starts its jobs with, under a name that a shell reads as one word."""

import contextlib
import re
from pathlib import Path

from moult.base.files import digest


def as_one_word(executable: str, home: Path) -> str:
    """Return a path of the Python `executable` that a shell reads as one word: the path itself, or a link in `home`.

    Snakemake writes `sys.executable` into a shell's command without quotes: where it has a blank, no job starts. The
    link leads to the folder of the environment, not to the file in its `bin`, because Python finds its packages by the
    path that it is called by. home: relative to the working directory, whose own path may have blanks.
    """
    if _is_one_word(executable):
        return executable
    # Where this process was itself started by such a link, the link is followed.
    environment = Path(executable).parents[1].resolve()
    python = Path(executable).relative_to(Path(executable).parents[1])
    if _is_one_word(environment / python):
        return str(environment / python)
    link = home / f"python-{digest(str(environment))[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(environment)
    return str(link / python)


def _is_one_word(path):
    return re.fullmatch(r"[\w@%+=:,./-]+", str(path), re.ASCII)
