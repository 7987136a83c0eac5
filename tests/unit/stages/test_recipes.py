"""Recipes: what Snakemake compares to find out what has to be made again."""

import itertools
import json

import pytest
import yaml
from golden import record
from moult.config.load import load
from moult.stages import STAGES, models
from pico_variants import preference_config

RAW = [yaml.safe_load((record.ROOT / name).read_text()) for name in record.configs()]


def reordered(value):
    """Return a config whose keys are written in the opposite order. That of `for` orders what is written out."""
    if isinstance(value, dict):
        return {key: one if key == "for" else reordered(one) for key, one in reversed(value.items())}
    return [reordered(one) for one in value] if isinstance(value, list) else value


def local_paths(value, key=None):
    """Yield the files and folders of the user's own that a config names, those without a folder aside."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from local_paths(one, "path" if key == "files" and isinstance(one, str | list) else name)
    elif isinstance(value, list):
        for one in value:
            yield from local_paths(one, key)
    elif key in ("path", "dataset_info") and isinstance(value, str) and "/" in value:
        yield value


CONFIGS = [(load(raw), load(reordered(raw)), sorted(set(local_paths(raw)))) for raw in RAW]


def test_local_paths_are_found():
    """Else the next test could not fail."""
    found = {path for *_, paths in CONFIGS for path in paths}
    assert {path.split("/")[0] for path in found} >= {"resources"}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.recipe], ids=lambda stage: stage.rule)
def test_a_recipe_is_plain_json_without_paths_whatever_the_order_of_a_config_s_keys(stage):
    seen = 0
    for cfg, other, paths in CONFIGS:
        for names in stage.names(cfg):
            recipe = stage.recipe(cfg, *names)
            text = json.dumps(recipe)
            assert json.loads(text) == recipe
            assert json.dumps(stage.recipe(other, *names)) == text
            assert not [path for path in [*paths, str(record.ROOT)] if path in text]
            seen += 1
    assert seen


def test_a_float32_reference_is_named_where_it_was_rounded_before():
    """Several devices in bfloat16, and a loss that has a reference: nothing else is trained anew."""
    raw, said = preference_config(), {}
    for kind, dtype, method, devices in itertools.product(
        ("dpo", "ipo", "contrastive"),
        ("float32", "bfloat16"),
        ("lora", "full"),
        ({}, {"devices": 2}, {"devices": 2, "zero": 3}),
    ):
        optimise = {"base": "base", "data": ["pairs"], "method": method, "loss": {"kind": kind}} | devices
        chain = [raw["models"][0], {"name": "tuned", "optimise": optimise}]
        cfg = load(raw | {"models": chain, "compute": {"dtype": dtype}})
        said[kind, dtype, method, devices.get("zero", len(devices))] = models.optimise(cfg, "tuned").get("reference")
    ways = [("lora", 3), ("full", 1), ("full", 3)]
    expected = {(kind, "bfloat16", *way) for kind in ("dpo", "ipo") for way in ways}
    assert {way for way, one in said.items() if one} == expected
