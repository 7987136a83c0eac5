"""A raw mapping into a checked Config, or a sentence per mistake."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from moult.base.errors import UserError
from moult.config import checks, pins, presets, retired
from moult.config.expansion import WRITTEN, expand
from moult.config.experiment import Config
from moult.config.messages import sentence


def load(raw: Mapping[str, Any], source: str = "config", warn: Callable[[str], None] = lambda sentence: None) -> Config:
    """Return the Config of a raw mapping; UserError with a sentence per mistake, each naming entry and field.

    warn: is given a sentence for each retired word, which is read as the one that replaced it.
    """
    if secrets := list(checks.secrets(raw)):
        raise UserError(_listed(source, secrets))
    try:
        expanded, sentences = retired.in_todays_words(expand(raw))
        presets.fill(expanded)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    for one in sentences:
        warn(f"{source}: {one}")
    pins.fill(expanded)
    try:
        cfg = Config.model_validate(expanded)
    except ValidationError as error:
        raise UserError(_listed(source, [sentence(one, expanded) for one in _told_once(error, expanded)])) from None
    if problems := [*checks.repeated_names(cfg), *checks.unknown_names(cfg)] or [
        *checks.cycle(cfg),
        *checks.evaluations(cfg),
        *checks.budget_without_price(cfg),
        *checks.precision(cfg),
        *checks.corpora(cfg),
    ]:
        raise UserError(_listed(source, problems))
    return cfg


def _told_once(error, expanded):
    """Return pydantic's errors without those that an entry of `rounds` only repeats in what it was written out into."""

    def repeats(one):
        kind, place = (*one["loc"], None, None)[:2]
        entry = expanded[kind][place] if kind in WRITTEN and isinstance(place, int) else None
        found = entry.get("round") if isinstance(entry, dict) else None
        return isinstance(found, dict) and (found.get("number") != 1 or found.get("of") in wrong)

    errors = error.errors()
    entries = [expanded["rounds"][one["loc"][1]] for one in errors if one["loc"][0] == "rounds" and len(one["loc"]) > 1]
    wrong = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    return [one for one in errors if not repeats(one)]


def _listed(source, problems):
    return "\n".join(f"{source}: {problem}." for problem in dict.fromkeys(problems))


def load_file(path: str | Path) -> Config:
    """Return the Config of one YAML file."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return load(raw or {}, str(path))
