"""`for:` and `rounds:` in a raw config, written out."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from moult.base.errors import UserError
from moult.base.outside import one_line
from moult.base.yaml_files import check_size
from moult.config.entries.corpora import INTERVAL
from moult.config.entries.sweeps import Sweep
from moult.config.retired import KEYS
from moult.corpora.refined import Refining

# What `rounds` is written out into.
WRITTEN = ("endpoints", "corpora", "models")
LISTS = ("datasets", *WRITTEN, "suites", "evaluations", "rounds")
# What of an entry of `rounds` its corpora take over.
REFINING = {"dataset", "judge", *Refining.model_fields, *KEYS}
# Entries, values, and characters of one text, that `for` and `rounds` write out at most.
MAX_ENTRIES, MAX_WRITTEN_VALUES, MAX_TEXT = 20_000, 2_000_000, 100_000
# Kind → of each written-out entry the list and the position of the entry that the user wrote.
Origins = dict[str, list[tuple[str, int]]]


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
        if value.count(f"{{{axis}}}") * len(str(chosen)) > MAX_TEXT:
            raise UserError(
                f"`for` makes a text of more than {MAX_TEXT:,} characters out of {{{axis}}}; make it shorter."
            )
        value = value.replace(f"{{{axis}}}", str(chosen))
    return value


def expand(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw config as `written_out` writes it out."""
    return written_out(raw)[0]


def written_out(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Origins]:
    """Return the raw config with every entry that has `for:` written out, one entry per combination, and with the
    endpoints, corpora and models of `rounds` behind the others; and where each entry stands as it was written.

    `<name>-last` is the model of the last round of `rounds` <name>, whatever its number. Pure.

    Raises:
        UserError: a `for:` that cannot be written out, or more entries than any study has; nothing is written out then.
    """
    expanded = dict(raw)
    origins: Origins = {kind: [] for kind in LISTS}
    _refuse_floods(raw)
    for kind in LISTS:
        entries = raw.get(kind) or []
        if not isinstance(entries, list):
            continue
        written = []
        for index, entry in enumerate(entries):
            axes = entry.get("for") if isinstance(entry, dict) else None
            rest = {key: value for key, value in entry.items() if key != "for"} if axes is not None else entry
            for combination in itertools.product(*(axes or {}).values()):
                chosen = dict(zip(axes or {}, combination, strict=True))
                written.append(rest if axes is None else _substitute(rest, chosen))
                origins[kind].append((kind, index))
        expanded[kind] = written
    expanded = _swept(expanded, origins)
    rounds, last = expanded.get("rounds"), {}
    rounds = rounds if isinstance(rounds, list) else []
    counts = [len(WRITTEN) * _count_of_rounds(entry, raw.get("limit")) for entry in rounds]
    if sum(counts) > MAX_ENTRIES:
        number = max(range(len(rounds)), key=counts.__getitem__)
        name = one_line(rounds[number]["name"], 60)
        raise UserError(f"rounds, entry {origins['rounds'][number][1] + 1} ({name}): {_too_many(counts[number])}")
    for place, entry in enumerate(rounds):
        endpoints, corpora, models = _rounds(entry, raw.get("limit"))
        for kind, written in zip(WRITTEN, (endpoints, corpora, models), strict=True):
            if isinstance(expanded.get(kind) or [], list):
                expanded[kind] = [*(expanded.get(kind) or []), *written]
                origins[kind] += [origins["rounds"][place]] * len(written)
        if models:
            last[f"{entry['name']}-last"] = models[-1]["name"]
    expanded = {kind: _renamed(value, last) if kind in LISTS else value for kind, value in expanded.items()}
    check_size(expanded, "`for` and `rounds` written out", MAX_WRITTEN_VALUES)
    return expanded, origins


def _swept(raw, origins):
    """Return the config with a model for each merge of a `sweep`, and their names where its name lists models."""
    models, places, members = [], [], {}
    entries = raw.get("models")
    for entry, place in zip(entries if isinstance(entries, list) else [], origins["models"], strict=False):
        sweep = _sweep_of(entry)
        if sweep is None:
            models.append(entry)
            places.append(place)
            continue
        name = entry["name"]
        if len(models) + sweep.count > MAX_ENTRIES:
            raise UserError(f"models ({one_line(name, 60)}): {_too_many(sweep.count)}")
        rest = {key: value for key, value in entry.items() if key not in ("name", "sweep")}
        merges = sweep.members(name)
        models += [{"name": one, "swept": name, "merge": merge} | rest for one, merge in merges.items()]
        places += [place] * len(merges)
        members[name] = list(merges)
    if not members:
        return raw
    origins["models"] = places
    models = [_listing(entry, ("select", "among"), members) for entry in models]
    evaluations = raw.get("evaluations")
    if isinstance(evaluations, list):
        raw = raw | {"evaluations": [_listing(entry, ("models",), members) for entry in evaluations]}
    return raw | {"models": models}


def _sweep_of(entry):
    """Return the Sweep of an entry; None where it has none, or one that the types will refuse."""
    if not isinstance(entry, dict) or "sweep" not in entry or not isinstance(entry.get("name"), str):
        return None
    try:
        return Sweep.model_validate(entry["sweep"])
    except ValidationError:
        return None


def _listing(entry, path, members):
    """Return an entry in whose list at `path` the name of a sweep is those of its merges."""
    key, *rest = path
    if not isinstance(entry, dict) or key not in entry:
        return entry
    if rest:
        return entry | {key: _listing(entry[key], rest, members)}
    if not isinstance(entry[key], list):
        return entry
    return entry | {
        key: [one for name in entry[key] for one in (members.get(name, [name]) if isinstance(name, str) else [name])]
    }


def _refuse_floods(raw):
    """Refuse what is wrong with `for`, and what it would write out without measure, before it does."""
    total = 0
    for kind in LISTS:
        entries = raw.get(kind)
        for number, entry in enumerate(entries if isinstance(entries, list) else [], start=1):
            if not isinstance(entry, dict):
                continue
            place = f"{kind}, entry {number} ({one_line(entry.get('name', ''), 60)})"
            count, axes = 1, entry.get("for")
            if axes is not None:
                if not isinstance(axes, dict) or not all(
                    isinstance(values, list) and values for values in axes.values()
                ):
                    raise UserError(f"{place}: `for` maps each axis to a list, e.g. `for: {{dataset: [a, b]}}`.")
                rest = str({key: value for key, value in entry.items() if key != "for"})
                if unused := next((axis for axis in axes if f"{{{axis}}}" not in rest), None):
                    told = f"`for` has the axis {unused!r}, but no {{{unused}}} uses it"
                    raise UserError(f"{place}: {told}; leave it out, or write it into a text.")
                count = math.prod(map(len, axes.values()))
            total += count
            if total > MAX_ENTRIES:
                raise UserError(f"{place}: {_too_many(count)}")


def _too_many(count):
    return f"stands for {count:,} entries once it is written out; {MAX_ENTRIES:,} are the most in all, so write fewer."


def _count_of_rounds(entry, limit):
    """Return how many rounds an entry of `rounds` makes, 0 where it is one that the types will refuse."""
    if not isinstance(entry, dict) or not {"name", "base", "dataset", "rows", "judge"} <= entry.keys():
        return 0
    counts = [entry["rows"], entry.get("interval", INTERVAL)] + ([] if limit is None else [limit])
    if not all(type(count) is int and count > 0 for count in counts):
        return 0
    return -(-min(entry["rows"], limit or entry["rows"]) // counts[1])


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
    count = _count_of_rounds(entry, limit)
    if not count or not isinstance(entry.get("finetune") or {}, dict):
        return endpoints, corpora, models
    name, base, interval, tuning = (
        entry["name"],
        entry["base"],
        entry.get("interval", INTERVAL),
        entry.get("finetune") or {},
    )
    asking = {key: value for key, value in entry.items() if key in REFINING}
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
