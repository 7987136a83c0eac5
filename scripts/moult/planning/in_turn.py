"""`make build KEEP=4`: of the models that are there for a while only, a few at a time.

Snakemake runs whatever is ready, so that all merges of a sweep may lie there before the first of them is measured.
Whoever asks it for what is made with a few of them first, and then for the rest, has no more than these on disk.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from moult.base.errors import UserError
from moult.base.stage import Ref
from moult.config.experiment import Config
from moult.config.load import load_file
from moult.stages import STAGES


def targets_in_turn(cfg: Config, most: int) -> Iterator[list[str]]:
    """Yield what to ask Snakemake for, one after another: all that is made with `most` of the passing models."""
    made_with: dict[str, list[str]] = {name: [] for name in cfg.passing_models}
    # What is asked for by name is never deleted, so a passing model is left to what needs it.
    for stage in (stage for stage in STAGES if not stage.passing):
        for names in stage.planned(cfg):
            for value in stage.inputs(cfg, *names).values():
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, Ref) and one.kind == "models" and one.form != "manifest":
                        made_with.get(one.name, []).append(Path("results", cfg.name, stage.path(*names)).as_posix())
    passing = list(made_with)
    for start in range(0, len(passing), most):
        # None where a model is a part of passing ones alone: no target would be the whole build.
        if some := [path for name in passing[start : start + most] for path in made_with[name]]:
            yield list(dict.fromkeys(some))


def main(config: str, most: str) -> None:
    """Print the targets, those to ask for at once on a line."""
    if not (most.isdigit() and int(most)):
        raise UserError(f"KEEP={most}: write how many models may be there at a time, e.g. KEEP=4.")
    for targets in targets_in_turn(load_file(config), int(most)):
        print(*targets)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
