"""What the head-to-head suites of a config measure, and who judges."""

from typing import Any

from moult.base.stage import Experiment
from moult.evaluation.head_to_head.kind import Filed

KEY = "head_to_head"


def settings_of(cfg: Experiment, suite: str) -> Any:
    """Return the section of a head-to-head suite."""
    return cfg.find("suites", suite).head_to_head


def entries(cfg: Experiment) -> dict[tuple[str, str], Any]:
    """Return (suite, name) → what is measured: the name of a model of this build, or a Filed."""
    found: dict[tuple[str, str], Any] = {}
    for entry in cfg.under(KEY):
        found |= {(entry.suite, name): name for name in entry.models}
        found |= {(entry.suite, one.name): one for one in entry.files}
    return found


def is_judged(cfg: Experiment, suite: str, name: str) -> bool:
    """Whether a judge is asked: about the answers of a model, or about those of a file."""
    entry = entries(cfg)[suite, name]
    return bool(settings_of(cfg, suite).endpoint) and (isinstance(entry, str) or bool(entry.answers))


def baseline_of(cfg: Experiment, suite: str) -> Any:
    """Return the Baseline of a suite, None where its questions come with answers or its kind compares none."""
    return getattr(settings_of(cfg, suite), "baseline", None)


def answering(cfg: Experiment) -> list[tuple[str, str]]:
    """Return (suite, model) of the models of this build that answer: those measured, and baselines."""
    found = {place: None for place, entry in entries(cfg).items() if isinstance(entry, str)}
    for entry in cfg.under(KEY):
        baseline = baseline_of(cfg, entry.suite)
        if baseline and baseline.model:
            found[entry.suite, baseline.model] = None
    return list(found)


def known_both_ways(cfg: Experiment, suite: str, name: str) -> list[str]:
    """Return the names of a suite's other models that the suite's judge and a published one have judged."""
    if not is_judged(cfg, suite, name):
        return []
    both = [place for place, entry in entries(cfg).items() if isinstance(entry, Filed) and entry.judgements]
    return [other for of, other in both if of == suite and other != name and is_judged(cfg, of, other)]
