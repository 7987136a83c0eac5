"""What pydantic says of a config, in sentences."""

from typing import Any, get_args

from moult.base.errors import nearest
from moult.base.section import Section
from moult.config.entries.models import Finetune, Optimise
from moult.config.experiment import Config


def sentence(error: Any, raw: Any) -> str:
    """Return pydantic's error as `entry, field: what is wrong`, with the nearest known key for a typo."""
    where, node = [], raw
    # The sections that may stand where we are, those that hold its key, and kind → section of the last choice of kinds.
    sections, holders, kind, others = [Config], [], None, {}
    for part in error["loc"]:
        if isinstance(part, int):
            node = node[part] if isinstance(node, list) and part < len(node) else None
            name = node.get("name", node.get("suite")) if isinstance(node, dict) else None
            where.append(f"entry {part + 1}" + (f" ({name})" if name else ""))
        elif part in (kinds := _by_kind(sections)):
            # pydantic names the kind that it chose, the config does not.
            sections, kind, others = [kinds[part]], part, kinds
        else:
            where.append(str(part))
            node = node[part] if isinstance(node, dict) and part in node else node
            fields = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
            holders, sections = sections, [found for annotation in fields for found in _sections_in(annotation)]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        key = where[-1]
        # A setting of another kind is no typo.
        if holders == [others.get(kind)] and key in _keys(others.values()):
            return f"{', '.join(where[:-1])}: {key} is no setting of {kind}; leave it out"
        message = f"unknown key{nearest(key, _keys(holders))}"
    elif error["type"] == "union_tag_invalid":
        where.append("kind")
        message = f"{error['ctx']['tag']!r} is no kind{nearest(error['ctx']['tag'], _by_kind(sections))}"
    elif error["type"] == "union_tag_not_found":
        where.append("kind")
        message = f"is missing; there is {', '.join(sorted(_by_kind(sections)))}"
    elif error["type"] == "missing":
        message = "is missing"
    elif "input" in error and not isinstance(error["input"], dict | list) and error["type"] != "value_error":
        message = f"{message} (here: {error['input']!r})"
    return f"{', '.join(where) or 'the config'}: {message}"


def _by_kind(sections):
    """Return kind → section of a choice between sections that name their `kind`; nothing where there is no choice."""
    if len(sections) < 2:
        return {}
    kinds = ((section.model_fields.get("kind"), section) for section in sections)
    return {kind: section for field, section in kinds if field for kind in get_args(field.annotation)}


def _keys(sections):
    """Return the keys that may stand in sections."""
    keys = {key for section in sections for key in section.model_fields}
    return keys | ({"preset"} if {Finetune, Optimise} & set(sections) else set())


def _sections_in(annotation):
    """Return the Section types inside an annotation such as `list[Model]` or `Merge | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]
