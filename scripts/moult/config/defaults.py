"""The sections of a config with the defaults of their keys, as Markdown: `python -m moult.config.defaults`."""

import json
from collections.abc import Iterator

from moult.config.schema import schema

HEAD = """# Every section, every key, every default

Made of the types that check a config (`make schema`); [config/README.md](../config/README.md) explains how to use
them. A **bold** key has no default: you write it. `null` stands for nothing. Entries of lists may have `for`, too.
"""
# Longer choices are names of files that are shipped.
MOST_CHOICES = 12


def sections() -> Iterator[tuple[str, dict]]:
    """Yield (name, JSON schema) of each section that a config can have, first the one of the whole experiment."""
    document = schema()
    yield "Experiment", document
    for name, section in sorted(document["$defs"].items()):
        if "properties" in section:
            yield name, section


def page() -> str:
    """Return the page: a table per section of its keys, defaults and meanings."""
    parts = [HEAD]
    for name, section in sections():
        lines = [f"## {name}", "", " ".join(section.get("description", "").split()), ""]
        lines += ["| key | default | values | meaning |", "|---|---|---|---|"]
        needed = section.get("required", [])
        keys = [key for key in section["properties"] if key not in ("$schema", "for")]
        lines += [_row(key, section["properties"][key], key in needed) for key in keys]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(key, one, needed):
    named = f"**`{key}`**" if needed else f"`{key}`"
    default = f"`{json.dumps(one['default'], ensure_ascii=False)}`" if "default" in one else ""
    cells = (named, default, _values(one), " ".join(one.get("description", "").split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(one):
    """Return in a few words what a key takes: choices, a type, or sections by their names."""
    if "$ref" in one:
        name = one["$ref"].split("/")[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in one or "oneOf" in one:
        return " or ".join(dict.fromkeys(_values(each) for each in one.get("anyOf", one.get("oneOf"))))
    if "enum" in one or "const" in one:
        choices = one.get("enum", [one.get("const")])
        return ", ".join(f"`{value}`" for value in choices) if len(choices) <= MOST_CHOICES else "text"
    if one.get("type") == "array":
        return f"list of {_values(one.get('items', {})) or 'anything'}"
    if one.get("type") == "object" and isinstance(one.get("additionalProperties"), dict):
        return f"map to {_values(one['additionalProperties']) or 'anything'}"
    return one.get("type", "").replace("object", "map").replace("string", "text")


if __name__ == "__main__":
    print(page(), end="")
