"""`make plans`: every shipped config is planned by a clone that has no data."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import copy_checkout
from pico_build import ROOT


def plans(folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["make", "--no-print-directory", "--old-file=.venv/ready", "plans"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def clone(tmp_path):
    """A copy of what the repository holds: no data, no models, no results."""
    return copy_checkout(tmp_path / "moult")


def test_an_experiment_is_planned_and_one_that_cannot_be_ends_it(clone):
    for config in [*(clone / "config").rglob("*.yaml")]:
        if config.name not in ("config.yaml", "mmla-video.yaml"):
            config.unlink()
    shutil.rmtree(clone / "config" / "demo")
    run = plans(clone)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [re.sub(r"\d+", "N", line) for line in run.stdout.splitlines()] == [
        "config/config.yaml: N jobs",
        "config/experiments/mmla-video.yaml: N jobs",
    ]
    assert not (clone / "results").exists()
    (clone / "config/experiments/wrong.yaml").write_text("name: wrong\nmodels: [{name: base}]\n")
    run = plans(clone)
    assert run.returncode == 2 and "wrong.yaml" in run.stdout + run.stderr


@pytest.mark.soak
def test_all_of_them_are(clone):
    run = plans(clone)
    assert run.returncode == 0, run.stdout + run.stderr
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "config").rglob("*.yaml")}
    planned = dict(line.removesuffix(" jobs").split(": ") for line in run.stdout.splitlines())
    assert planned.keys() == shipped and min(map(int, planned.values())) > 20
