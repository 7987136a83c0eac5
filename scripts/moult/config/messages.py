"""What pydantic says of a config, in sentences."""

from moult.base.errors import nearest
from moult.base.section import Section
from moult.config.entries.corpora import CORPORA
from moult.config.entries.models import Finetune, Optimise
from moult.config.experiment import Config


def sentence(error, raw):
    """Return pydantic's error as `entry, field: what is wrong`, with the nearest known key for a typo."""
    location, where, node = list(error["loc"]), [], raw
    for part in location:
        if isinstance(part, int):
            node = node[part] if isinstance(node, list) and part < len(node) else None
            name = node.get("name", node.get("suite")) if isinstance(node, dict) else None
            where.append(f"entry {part + 1}" + (f" ({name})" if name else ""))
        else:
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif part in CORPORA and isinstance(node, dict):
                continue
            where.append(str(part))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key{nearest(location[-1], _fields_at(location[:-1], raw))}"
    elif error["type"] == "missing":
        message = "is missing"
    elif "input" in error and not isinstance(error["input"], dict | list) and error["type"] != "value_error":
        message = f"{message} (here: {error['input']!r})"
    return f"{', '.join(where) or 'the config'}: {message}"


def _fields_at(location, raw):
    """Return the field names of the section that a location of the config stands in."""
    section = Config
    for part in location:
        if isinstance(part, int) or not isinstance(section, type):
            continue
        if part in CORPORA and section is not CORPORA["distilled"]:
            section = CORPORA[part]
            continue
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        section = _section_in(annotation)
    return set(section.model_fields) | ({"preset"} if section in (Finetune, Optimise) else set()) if section else set()


def _section_in(annotation):
    """Return the first Section type inside an annotation such as `list[Model]` or `Merge | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section_in(part))), None)
