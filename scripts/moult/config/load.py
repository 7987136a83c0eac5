"""A raw mapping into a checked Config, or a sentence per mistake."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moult.base.errors import UserError
from moult.base.yaml_files import check_size, read_yaml
from moult.config import checks, pins, presets, retired
from moult.config.expansion import written_out
from moult.config.experiment import Config
from moult.config.messages import sentences

# Checks of a config whose names are known and stand in no cycle.
CHECKS = (checks.evaluations, checks.budget_without_price, checks.precision, checks.corpora)


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
    return "\n".join(
        f"{source}: {problem.rstrip('.')}{'' if problem.endswith('?') else '.'}" for problem in dict.fromkeys(problems)
    )


def load_file(path: str | Path) -> Config:
    """Return the Config of one YAML file."""
    return load(read_config(path), str(path))


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the raw mapping of one YAML file; UserError where it holds anything but a mapping of plain values."""
    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else "one value"
        raise UserError(f"{path}: holds {kind}, not `key: value` lines; see config/README.md for what a config has.")
    if odd := next((key for key in raw or {} if not isinstance(key, str)), None):
        raise UserError(f"{path}: the key {odd!r} is no word; correct it.")
    return raw or {}
