"""Formats of raw datasets: one file each, and one line in FORMATS."""

from pathlib import Path

from moult.base.errors import UserError, nearest
from moult.base.files import read_json
from moult.data.formats import alpaca, judge, mmla, pairs, prompts, sharegpt, stackoverflow
from moult.data.formats.base import Format

FORMATS = (
    stackoverflow.FORMAT,
    mmla.FORMAT,
    alpaca.FORMAT,
    sharegpt.FORMAT,
    prompts.FORMAT,
    *pairs.FORMATS,
    judge.FORMAT,
)
BY_NAME = {one.name: one for one in FORMATS}


def format_of(folder: str | Path) -> Format:
    """Return the format of a prepared dataset, as the manifest beside its folder tells it."""
    name = read_json(f"{folder}.manifest.json")["recipe"]["format"]
    if name not in BY_NAME:
        raise UserError(f"{folder}: is of format {name!r}, which is not known here{nearest(name, BY_NAME)}.")
    return BY_NAME[name]
