"""Presets: named settings in `resources/presets/`, of trainings, merges and suites of lm-eval, written out into the raw
config before it is checked."""

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

from moult.base.errors import UserError, ended, nearest
from moult.base.paths import RESOURCES
from moult.base.yaml_files import read_yaml

# What may have a preset, by the list that it stands in.
WAYS = {"models": ("finetune", "optimise", "merge", "moe"), "suites": ("lm_eval",)}
# Their folders, those of trainings aside.
FOLDERS = {"merge": "merging", "moe": "merging", "lm_eval": "lm_eval"}
PRESETS = RESOURCES / "presets"


def preset_names(way: str = "finetune") -> list[str]:
    """Return the names of the shipped presets for a way to make a model, or for a kind of suite: of trainings e.g.
    `mmla/paper-llm-sft`, and with each dataset where it has some."""
    return [name for name in sorted(_known()) if _is_for(name, way)]


def _is_for(name, way):
    folder = name.split("/")[0]
    return (
        folder == FOLDERS.get(way, folder)
        and (way in FOLDERS or folder not in FOLDERS.values())
        and (folder != "merging" or ("experts" in _read(name)) == (way == "moe"))
    )


@cache
def _known():
    names = []
    for path in sorted(PRESETS.rglob("*.yaml")):
        name = path.relative_to(PRESETS).with_suffix("").as_posix()
        datasets = _datasets(name)
        names += [f"{name}/{dataset}" for dataset in datasets] if datasets else [name]
    return frozenset(names)


def load_preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset as a new dict; those of its dataset win over those of its file, and all of them
    over those of the preset that it builds on. UserError when there is none of this name.
    """
    if datasets := [known for known in sorted(_known()) if known.startswith(f"{name}/")]:
        raise UserError(f"preset {name!r} has settings per dataset; write {datasets[0]!r}, or another of its datasets")
    if name not in _known():
        raise UserError(f"preset {name!r} is not in resources/presets/{nearest(name, _known())}")
    whole = name in _files()
    settings = dict(_read(name if whole else name.rsplit("/", 1)[0]))
    dataset = None if whole else name.rsplit("/", 1)[1]
    own = settings.pop("by_dataset", {}).get(dataset, {})
    below = settings.pop("preset", None)
    return laid_over(load_preset(below.replace("{dataset}", str(dataset))) if below else {}, laid_over(settings, own))


def laid_over(settings: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return settings with `own` laid over them; of `lora` key by key, of models that are merged one by one."""
    merged = settings | own
    for key in ("parents", "experts", "shared_experts"):
        below, over = settings.get(key), own.get(key)
        if isinstance(below, list) and isinstance(over, list) and len(below) == len(over):
            merged[key] = [one | its if isinstance(its, dict) else its for one, its in zip(below, over, strict=True)]
    if isinstance(settings.get("lora"), dict) and isinstance(own.get("lora"), dict):
        merged["lora"] = settings["lora"] | own["lora"]
    return merged


def fill(raw: Mapping[str, Any]) -> None:
    """Write out `preset:` in the models and suites of an expanded config, in place; keys that stand beside it win."""
    for kind, ways in WAYS.items():
        entries = raw.get(kind)
        for entry in entries if isinstance(entries, list) else []:
            for way in ways:
                own = entry.get(way) if isinstance(entry, dict) else None
                if not isinstance(own, dict) or "preset" not in own:
                    continue
                own = dict(own)
                name = own.pop("preset")
                try:
                    if name in _known() and not _is_for(name, way):
                        raise UserError(f"preset {name!r} is none for `{way}`{nearest(name, preset_names(way))}")
                    entry[way] = laid_over(copy.deepcopy(load_preset(name)), own)
                except UserError as error:
                    raise UserError(ended(f"{kind} {entry.get('name', '')!r}, {error}")) from None


@cache
def _files():
    return frozenset(name for name in _known() if (PRESETS / f"{name}.yaml").exists())


@cache
def _read(name):
    return read_yaml(PRESETS / f"{name}.yaml")


def _datasets(name):
    """Return the datasets that a preset file has settings for, itself or by the preset that it builds on."""
    content = _read(name)
    if "by_dataset" in content:
        return list(content["by_dataset"])
    below = content.get("preset", "")
    return _datasets(below.removesuffix("/{dataset}")) if below.endswith("/{dataset}") else []
