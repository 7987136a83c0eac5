"""Model cards."""

import re
from pathlib import Path

from moult.base.files import write_text_atomic
from moult.base.rows import Facts


def write_model_card(folder: str | Path, facts: Facts) -> None:
    """Write a model's README.md: front matter for the hub, then what the model is and what made it.

    `facts` may hold: model (its name), summary, license, base_model, tags, limit (rows, of a smoke run), parents,
    data and limits (lists of lines), recipe and versions; what else it holds goes in as it is. Equal facts are
    equal bytes.
    """
    folder, facts = Path(folder), dict(facts)
    name, license_name, limit = facts.pop("model", folder.name), facts.pop("license", None), facts.pop("limit", None)
    matter = {
        "base_model": facts.pop("base_model", None) or facts.get("source", {}).get("hub"),
        "library_name": "peft" if (folder / "adapter_config.json").exists() else "transformers",
        "license": license_name or "unknown",
        "tags": sorted({"moult", *facts.pop("tags", ())}),
    }
    parts = [f"---\n{_as_yaml({key: value for key, value in matter.items() if value})}---", f"# {name}"]
    parts += [facts.pop("summary")] if "summary" in facts else []
    limits = [*facts.pop("limits", ())]
    if limit:
        limits.append(f"From a smoke run: every dataset was cut to {limit} rows.")
    if not license_name:
        limits.append("License not known: find it out before you use or share this model.")
    for title, lines in (("Parents", facts.pop("parents", ())), ("Data", facts.pop("data", ())), ("Limits", limits)):
        if lines:
            parts.append("\n".join([f"## {title}\n", *(f"- {line}" for line in lines)]))
    blocks = {title: facts.pop(title, None) for title in ("recipe", "versions")}
    for title, values in {"facts": facts, **blocks}.items():
        if values:
            parts.append(f"## {title.capitalize()}\n\n{_fenced(_as_yaml(values))}")
    write_text_atomic(folder / "README.md", "\n\n".join(parts) + "\n")


def _as_yaml(value):
    import yaml

    return yaml.safe_dump(value, sort_keys=True, allow_unicode=True, width=110)


def _fenced(text):
    """Fence a block of YAML; the fence is longer than any that a prompt inside it holds."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text + "`")))
    return f"{fence}yaml\n{text}{fence}"
