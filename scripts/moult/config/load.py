"""A raw mapping into a checked Config, or a sentence per mistake."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moult.base.errors import UserError, ended
from moult.base.yaml_files import check_size
from moult.config import checks, pins, presets, retired
from moult.config.expansion import written_out
from moult.config.experiment import Config
from moult.config.messages import sentences
from moult.config.prompts import prompts
from moult.config.reading import read_config

# Checks of a config whose names are known and stand in no cycle.
CHECKS = (
    checks.evaluations,
    checks.budget_without_price,
    checks.precision,
    checks.corpora,
    checks.published,
    checks.passing,
    checks.selections,
    prompts,
)


def load(raw: Mapping[str, Any], source: str = "config", warn: Callable[[str], None] = lambda sentence: None) -> Config:
    """Return the Config of a raw mapping; UserError with a sentence per mistake, each naming entry and field.

    warn: is given a sentence for each retired word, which is read as the one that replaced it.
    """
    check_size(raw, source)
    if secrets := list(checks.secrets(raw)):
        raise UserError(_listed(source, secrets))
    try:
        written, origins = written_out(raw)
        expanded, retiring = retired.in_todays_words(written)
        presets.fill(expanded)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    for one in retiring:
        warn(f"{source}: {one}")
    pins.fill(expanded)
    try:
        cfg = Config.model_validate(expanded)
    except ValidationError as error:
        raise UserError(_listed(source, sentences(error, expanded, raw, origins))) from None
    # What follows a base ends where there is no cycle.
    for found in (
        lambda: [*checks.repeated_names(cfg), *checks.unknown_names(cfg)],
        lambda: [*checks.cycle(cfg)],
        lambda: [problem for check in CHECKS for problem in check(cfg)],
    ):
        if problems := found():
            raise UserError(_listed(source, problems))
    return cfg


def _listed(source, problems):
    return "\n".join(ended(f"{source}: {problem}") for problem in dict.fromkeys(problems))


def load_file(path: str | Path) -> Config:
    """Return the Config of one YAML file."""
    return load(read_config(path), str(path))
