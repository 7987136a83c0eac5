"""`for:` and `rounds:` in a raw config, written out."""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from moult.base.errors import UserError
from moult.config.entries.corpora import INTERVAL
from moult.config.retired import KEYS
from moult.corpora.refined import Refining

# What `rounds` is written out into.
WRITTEN = ("endpoints", "corpora", "models")
LISTS = ("datasets", *WRITTEN, "suites", "evaluations", "rounds")
# What of an entry of `rounds` its corpora take over.
REFINING = {"dataset", "judge", *Refining.model_fields, *KEYS}


def _substitute(value, axes):
    if isinstance(value, dict):
        return {key: _substitute(item, axes) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, axes) for item in value]
    if not isinstance(value, str):
        return value
    for axis, chosen in axes.items():
        if value == f"{{{axis}}}":
            return chosen
        value = value.replace(f"{{{axis}}}", str(chosen))
    return value


def expand(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw config with every entry that has `for:` written out, one entry per combination, and with the
    endpoints, corpora and models of `rounds` behind the others; `<name>-last` is the model of the last round of
    `rounds` <name>, whatever its number. Pure."""
    expanded = dict(raw)
    for kind in LISTS:
        entries = raw.get(kind) or []
        if not isinstance(entries, list):
            continue
        written = []
        for entry in entries:
            axes = entry.get("for") if isinstance(entry, dict) else None
            if axes is None:
                written.append(entry)
                continue
            if not isinstance(axes, dict) or not all(isinstance(values, list) and values for values in axes.values()):
                raise UserError(f"{kind}: `for` maps each axis to a list, e.g. `for: {{dataset: [a, b]}}`.")
            rest = {key: value for key, value in entry.items() if key != "for"}
            for axis in axes:
                if f"{{{axis}}}" not in str(rest):
                    raise UserError(
                        f"{kind} {rest.get('name', '')!r}: `for` has the axis {axis!r}, but no {{{axis}}} uses it."
                    )
            for combination in itertools.product(*axes.values()):
                written.append(_substitute(rest, dict(zip(axes, combination, strict=True))))
        expanded[kind] = written
    rounds, last = expanded.get("rounds"), {}
    for entry in rounds if isinstance(rounds, list) else []:
        endpoints, corpora, models = _rounds(entry, raw.get("limit"))
        for kind, written in zip(WRITTEN, (endpoints, corpora, models), strict=True):
            if isinstance(expanded.get(kind) or [], list):
                expanded[kind] = [*(expanded.get(kind) or []), *written]
        if models:
            last[f"{entry['name']}-last"] = models[-1]["name"]
    return {kind: _renamed(value, last) if kind in LISTS else value for kind, value in expanded.items()}


def _renamed(value, names):
    """Return a value in which each string that is one of these names is another."""
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _rounds(entry, limit):
    """Return the endpoints, corpora and models of an entry of `rounds`; none of one that the types will refuse."""
    endpoints, corpora, models = [], [], []
    if not isinstance(entry, dict) or not {"name", "base", "dataset", "rows", "judge"} <= entry.keys():
        return endpoints, corpora, models
    rows, interval, tuning = entry["rows"], entry.get("interval", INTERVAL), entry.get("finetune") or {}
    counts = [rows, interval] if limit is None else [rows, interval, limit]
    if not isinstance(tuning, dict) or not all(isinstance(count, int) and count > 0 for count in counts):
        return endpoints, corpora, models
    name, base = entry["name"], entry["base"]
    asking = {key: value for key, value in entry.items() if key in REFINING}
    count = -(-min(rows, limit or rows) // interval)
    for number in range(1, count + 1):
        place = {"of": name, "number": number, "count": count, "interval": interval}
        this, student = f"{name}-r{number}", f"{name}-r{number}-student"
        endpoints.append({"name": student, "serve": base})
        corpora.append(
            {"kind": "refined", "name": this, "endpoint": student, "splits": ["train"], "round": place}
            | {"slice": [(number - 1) * interval, number * interval]}
            | asking
        )
        models.append({"name": this, "round": place, "finetune": {**tuning, "base": base, "data": [this]}})
        base = this
    return endpoints, corpora, models


def one_of(names: Iterable[str]) -> str:
    """Return a regular expression that matches these names and nothing else, not even when there are none.

    Common beginnings stand once: Snakemake compiles and scans such a constraint with every pattern of every rule, and
    plainly listed names would make planning quadratic.
    """
    tree = {}
    for name in names:
        node = tree
        for letter in [*name, ""]:
            node = node.setdefault(letter, {})
    return _alternatives(tree) if tree else "(?!)"


def _alternatives(node):
    """Return the expression for what may follow here; letters after which the same may follow share a class."""
    letters = {}
    for letter, following in sorted(node.items()):
        if letter:
            letters.setdefault(_alternatives(following), []).append(re.escape(letter))
    ways = [f"[{''.join(one)}]{rest}" if len(one) > 1 else one[0] + rest for rest, one in letters.items()]
    if "" in node and ways:
        return f"(?:{'|'.join(ways)})?"
    return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})" if ways else ""
