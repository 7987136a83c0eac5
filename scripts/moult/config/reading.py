"""A config file as a raw mapping of plain values: what it says, and nothing that it does."""

from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.yaml_files import read_yaml


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the raw mapping of one YAML file; UserError where it holds anything but a mapping of plain values."""
    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else "one value"
        raise UserError(f"{path}: holds {kind}, not `key: value` lines; see config/README.md for what a config has.")
    if odd := next((key for key in raw or {} if not isinstance(key, str)), None):
        raise UserError(f"{path}: the key {odd!r} is no word; correct it.")
    return raw or {}
