"""`make check-config CONFIG=...`: every check of planning, and nothing that a config could have run.

Snakemake itself hands a config to a template engine, which runs what stands behind `__use_yte__`, before any line of
ours is read. Here a file is parsed as plain values, and refused where it is more.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from moult.base.errors import UserError
from moult.config.experiment import Config
from moult.config.reading import read_config
from moult.planning import start
from moult.stages.corpora import check_rounds_of


def check(path: str | Path, warn: Callable[[str], None]) -> Config:
    """Return the checked config of a file, as a plan would have it; UserError with a sentence for each mistake."""
    cfg = start.checked_config(read_config(path), str(path), warn, speaks=True)
    check_rounds_of(cfg)
    return cfg


def main(arguments: list[str]) -> int:
    """Check the config that is named; say that it is right, unless --quiet is the first word. Return the status."""
    quiet = arguments[:1] == ["--quiet"]
    (path,) = arguments[quiet:]
    try:
        cfg = check(path, lambda line: None if quiet else print(line, file=sys.stderr))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if not quiet:
        print(f"{path}: right; {len(cfg.datasets)} datasets, {len(cfg.corpora)} corpora, {len(cfg.models)} models.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
