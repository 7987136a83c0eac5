"""Models that are there only until all that needs them is done: the same stages under rules of their own, since what
Snakemake deletes it deletes by rule."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from moult.base.stage import Stage
from moult.config.experiment import Config

# Rule of models that can be made again in minutes → the rule that makes them for a while.
BRIEFLY = {"fold_adapter": "fold_briefly", "merge_models": "merge_briefly"}
_Names = Callable[[Config], Sequence[tuple[str, ...]]]


def with_passing(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Yield stages of models; a stage of BRIEFLY twice: for models that stay, and for the others."""
    for stage in stages:
        if stage.rule not in BRIEFLY:
            yield stage
            continue
        yield replace(stage, names=_of(stage.names, lambda cfg, name: cfg.find("models", name).keep))
        yield replace(
            stage,
            rule=BRIEFLY[stage.rule],
            names=_of(stage.names, lambda cfg, name: not cfg.find("models", name).keep),
            wanted=_of(stage.names, lambda cfg, name: name in cfg.passing_models),
            passing=True,
        )


def _of(names: _Names, wanted: Callable[[Config, str], bool]) -> _Names:
    return lambda cfg: [(name,) for (name,) in names(cfg) if wanted(cfg, name)]
