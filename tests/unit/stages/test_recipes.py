"""Recipes: what Snakemake compares to find out what has to be made again."""

import json

import pytest
import yaml
from golden import record
from moult.config.load import load
from moult.stages import STAGES

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
