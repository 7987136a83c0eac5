"""What estimates have predicted, kept beside the journals, to be set beside what was paid afterwards."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import read_json, write_json
from moult.inference.journal import JOURNALS

KEPT = ("dollars_low", "dollars", "dollars_high", "spent")
# Predictions that are kept of an experiment.
MOST = 100
# Dollars: less is no payment.
LEAST = 1e-8


def _file(experiment):
    return JOURNALS / "estimates" / f"{experiment}.json"


def _predictions(path: Path) -> list[dict[str, float]]:
    with contextlib.suppress(UserError):
        found = read_json(path)
        if isinstance(found, list) and all(isinstance(one, dict) and one.keys() == set(KEPT) for one in found):
            return found
    return []


def compared(experiment: str, total: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the last prediction since which something was paid, and how much that is; None without one.

    total: of an estimate: dollars_low, dollars, dollars_high, spent.
    """
    for before in reversed(_predictions(_file(experiment))):
        if (paid := total["spent"] - before["spent"]) > LEAST:
            return {name: before[name] for name in KEPT[:3]} | {"paid": paid}
    return None


def noted(experiment: str, total: Mapping[str, Any]) -> None:
    """Keep what is predicted now, unless it was predicted before or is unknown. A folder that is only read stays so."""
    now, path = {name: total[name] for name in KEPT}, _file(experiment)
    before = _predictions(path)
    if None not in now.values() and now not in before[-1:]:
        with contextlib.suppress(OSError):
            write_json(path, [*before, now][-MOST:])
