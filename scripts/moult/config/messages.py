"""What pydantic says of a config, in sentences: one for each mistake, in the words and the order of the user's file."""

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import ValidationError

from moult.base.errors import nearest
from moult.base.outside import one_line
from moult.base.section import Section
from moult.base.spelling import SPELT
from moult.config.entries.merges import Merge, Mixture
from moult.config.entries.models import Finetune, Optimise
from moult.config.expansion import LISTS, Origins
from moult.config.experiment import Config

# pydantic's type of an error → what is to be written instead. `{}` stands for a value of the error's context.
REMEDIES = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge} on",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number up to {le}",
    "list_type": "a list, e.g. [a, b]",
    "tuple_type": "a list, e.g. [0, 10]",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
}


class Place(NamedTuple):
    """Where an error is. path: keys and positions in the written-out config. words: the same in the user's file.

    sections: those whose keys may stand there. holders: those that hold the last key. kind, others: of the last choice
    of kinds. union: the path at which pydantic tried several types, None where it tried one.
    """

    path: tuple
    words: list[str]
    holders: list[Any]
    sections: list[Any]
    kind: Any
    others: dict[Any, Any]
    union: tuple | None


def sentences(
    error: ValidationError, expanded: Mapping[str, Any], raw: Mapping[str, Any], origins: Origins
) -> list[str]:
    """Return a sentence `entry, field: what is wrong; what to write` for each mistake that pydantic found.

    expanded, origins: see `written_out`. An entry is called as it stands in `raw`, so that what `for` and `rounds`
    write out is told once.
    """
    # A default that follows from a wrong value is no mistake of its own.
    errors = [one for one in error.errors() if one["type"] != "default_factory_not_called"]
    # What rounds are written out into only repeats what is wrong with an entry of `rounds`.
    wrong = [_origin(one["loc"], origins) for one in errors if one["loc"][0] == "rounds" and len(one["loc"]) > 1]
    errors = [one for one in errors if one["loc"][0] == "rounds" or _origin(one["loc"], origins) not in wrong]
    told = [(one, _place_of(one["loc"], expanded, raw, origins)) for one in errors]
    deepest: dict[Any, int] = {}
    for _, place in told:
        if place.union is not None:
            deepest[place.union] = max(deepest.get(place.union, 0), len(place.path))
    found: dict[Any, list[tuple[Any, Place]]] = {}
    for one, place in told:
        # Of the types that were tried, the one counts that got furthest; several that got as far are told together.
        if place.union is None or len(place.path) == deepest[place.union]:
            key = place.union or one["type"]
            # Texts of one list that YAML reads as something else are one mistake.
            listed = one["type"] == "string_type" and isinstance(place.path[-1], int)
            found.setdefault((place.path[:-1] if listed else place.path, key), []).append((one, place))
    return list(dict.fromkeys(_sentence(group) for group in found.values()))


def _origin(loc, origins):
    """Return the list and the position of the entry that the user wrote, None outside of entries."""
    return origins[loc[0]][loc[1]] if loc[0] in LISTS and len(loc) > 1 and isinstance(loc[1], int) else None


def _place_of(loc: Sequence[Any], expanded: Any, raw: Any, origins: Origins) -> Place:
    path: list[Any] = []
    words: list[str] = []
    node, union, mapped = expanded, None, False
    sections, holders, kind, others = [Config], [], None, {}
    for part in loc:
        if isinstance(part, int):
            listed_here = isinstance(node, list | tuple)
            # One value may stand where a list of one is meant.
            node = (node[part] if part < len(node) else None) if listed_here else node
            if len(path) == 1 and path[0] in LISTS:
                listed, position = _origin(loc, origins)
                words[:] = [listed]
                words.append(f"entry {position + 1}" + _called(raw[listed][position]))
            elif listed_here:
                words.append(f"entry {part + 1}" + _called(node))
            path.append(part)
        elif part == "[key]":
            # The key itself is wrong: it stands in the error.
            words.pop()
        elif part in (kinds := _by_kind(sections)):
            # pydantic names the kind that it chose, the config does not.
            sections, kind, others = [kinds[part]], part, kinds
        elif (isinstance(node, dict) and part in node) or any(part in one.model_fields for one in sections):
            words.append(one_line(part, 80))
            path.append(part)
            node = node.get(part) if isinstance(node, dict) else None
            fields = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
            holders = sections
            # The keys of a mapping are no fields; what stands behind them is of the mapping's sections.
            if fields or not mapped:
                sections = [found for annotation in fields for found in _sections_in(annotation)]
            mapped = any(get_origin(annotation) is dict for annotation in fields)
        else:
            # pydantic names the type that it tried.
            union = tuple(path)
    return Place(tuple(path), words, holders, sections, kind, others, union)


def _called(entry):
    name = entry.get("name", entry.get("suite")) if isinstance(entry, dict) else None
    return f" ({one_line(name, 80)})" if name else ""


def _sentence(group):
    """Return the sentence of one mistake: of an error, or of those of all types that were tried in vain."""
    error, place = group[0]
    where = ", ".join(place.words) or "the config"
    given, kind, alone = error["input"], error["type"], len({one["type"] for one, _ in group}) == 1
    if kind == "extra_forbidden":
        key, before = place.words[-1], ", ".join(place.words[:-1])
        # A setting of another kind is no typo.
        if place.holders == [place.others.get(place.kind)] and key in _keys(place.others.values()):
            return f"{before}: {key} is no setting of {place.kind}; leave it out"
        return f"{where}: unknown key{nearest(key, _keys(place.holders))}"
    if kind == "union_tag_invalid":
        tag = error["ctx"]["tag"]
        return f"{where}, kind: {tag!r} is no kind{nearest(tag, _by_kind(place.sections))}"
    if kind == "union_tag_not_found":
        return f"{where}, kind: is missing; there is {', '.join(sorted(_by_kind(place.sections)))}"
    if kind == "missing":
        return f"{where}: is missing{_meaning(place)}"
    if kind == "value_error":
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    if kind == "literal_error" and alone:
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        if isinstance(given, str) and choices:
            return f"{where}: {one_line(given, 60)!r} is none of what may stand here{nearest(given, choices)}"
    if kind == "string_pattern_mismatch":
        words = SPELT.get(error["ctx"]["pattern"], f"what fits {error['ctx']['pattern']}")
        return f"{where}: is {_spelt(given)}; write {words}"
    if kind in ("string_too_long", "too_long"):
        return f"{where}: is longer than {error['ctx']['max_length']}; shorten it"
    if kind in ("string_too_short", "too_short"):
        there = error["ctx"].get("actual_length", len(given))
        return f"{where}: {f'has {there}' if there else 'is empty'}; write at least {error['ctx']['min_length']}"
    if kind == "string_type" and alone and not isinstance(given, dict | list | None):
        return f"{where}: is {_spelt(given)}; write it in quotes"
    remedies = [_remedy(one) for one, _ in group]
    if None in remedies:
        return f"{where}: {error['msg']} (here: {_spelt(given)})"
    return f"{where}: is {_spelt(given)}; write {' or '.join(dict.fromkeys(remedies))}"


def _remedy(error):
    if error["type"] == "literal_error":
        return error["ctx"]["expected"]
    remedy = REMEDIES.get(error["type"])
    return remedy and remedy.format(**{name: _number(one) for name, one in error.get("ctx", {}).items()})


def _number(value):
    """Return a bound as people write it: whole where it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _spelt(value):
    """Return a value in the words of somebody who writes YAML."""
    if isinstance(value, bool):
        unquoted = "yes, on or true" if value else "no, off or false"
        return f"{'true' if value else 'false'} (so YAML reads {unquoted} without quotes)"
    if value is None:
        return "empty"
    if isinstance(value, datetime.date):
        return f"the date {value} (so YAML reads it without quotes)"
    if isinstance(value, dict | list | tuple):
        return "a list" if isinstance(value, list | tuple) else "a mapping"
    return one_line(repr(value), 80)


def _meaning(place):
    """Return what a missing key is there for, and what it may say."""
    fields = [one.model_fields[place.path[-1]] for one in place.holders if place.path[-1] in one.model_fields]
    if not fields:
        return "; write it"
    if choices := [choice for choice in get_args(fields[0].annotation) if isinstance(choice, str)]:
        return f"; write one of {', '.join(choices)}"
    told = (fields[0].description or "").rstrip(".")
    return f"; write `{place.path[-1]}: ...`" + (f" ({told})" if told else "")


def _by_kind(sections):
    """Return kind → section of a choice between sections that name their `kind`; nothing where there is no choice."""
    if len(sections) < 2:
        return {}
    kinds = ((section.model_fields.get("kind"), section) for section in sections)
    return {kind: section for field, section in kinds if field for kind in get_args(field.annotation)}


def _keys(sections):
    """Return the keys that may stand in sections."""
    keys = {key for section in sections for key in section.model_fields}
    return keys | ({"preset"} if {Finetune, Optimise, Merge, Mixture} & set(sections) else set())


def _sections_in(annotation):
    """Return the Section types inside an annotation such as `list[Model]` or `Merge | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]
