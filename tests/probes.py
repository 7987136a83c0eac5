"""A pico build with probing sets: two models and two merges of them."""

import shutil

from pico import build_pico_model
from pico_build import ROOT, write_config

SETS = ("rule-tense", "rule-part-of-speech", "rule-length")
HOLMES = ROOT / "resources" / "holmes"


def probing_config(**settings):
    """Return the config; settings: of the suite."""
    models = ["base", "other", "linear_0", "linear_1"]
    short = {"epochs": 4, "patience": 2}
    probing = {"folders": ["probes"], "layers": [0, -1], "seeds": [0, 1, 2], "portions": [0.5, 1], "code_length": True}
    probing |= {"training": short, "probes": ["linear", "mlp"], "hidden": 8}
    parents = [[{"model": "base", "weight": 1 - share}, {"model": "other", "weight": share}] for share in (0.25, 0.75)]
    return {
        "name": "probed",
        "seed": 7,
        "compute": {"dtype": "float32", "batch_size": 16},
        "models": [
            {"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001, "license": "CC0-1.0"},
            {"name": "other", "fetch": {"path": "models/other"}, "parameters": 0.001, "license": "CC0-1.0"},
            *(
                {"name": f"linear_{n}", "merge": {"method": "linear", "parents": two, "dtype": "float32"}}
                for n, two in enumerate(parents)
            ),
        ],
        "suites": [
            {"name": "holmes", "probing": probing | settings},
        ],
        "evaluations": [{"suite": "holmes", "models": models, "against": "base"}],
    }


def write_probed(folder, config):
    """Write config, models and sets of a build into an empty folder."""
    for seed, name in enumerate(("base", "other")):
        build_pico_model(folder / "models" / name, seed=seed, max_position_embeddings=8192)
    for name in SETS:
        shutil.copytree(HOLMES / name, folder / "probes" / name)
    write_config(folder / "pico.yaml", config)
