"""Models with `keep: false` are there until all that needs them is done, and again when something new does."""

import subprocess

import pytest
from moult.planning.verify import flaws_of_results
from pico_build import ROOT
from pico_variants import passing_config


@pytest.mark.soak
def test_weights_that_pass_are_gone_when_they_are_measured_and_come_back_for_a_new_suite(unbuilt):
    config = passing_config()
    unbuilt.config = config
    results = unbuilt.path / "results" / "brief"
    make = ["make", "--old-file=.venv/ready", "build", f"STUDY={unbuilt.path}", "CONFIG=pico.yaml", "KEEP=1"]
    run = subprocess.run(make, cwd=ROOT, env=unbuilt.environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    # What is made with the merge, then the rest; what is made with the other model is the merge alone.
    assert run.stderr.count("Using profiles") == 2 and "Nothing to be done" not in run.stderr
    assert [path.name for path in (results / "models").iterdir() if path.is_dir()] == ["base"]
    assert (results / "scores/labels/merged.csv").exists() and (results / "adapters/tuned").exists()
    assert "merged" in (results / "report/index.html").read_text()
    manifests = {path: path.read_bytes() for path in (results / "models").glob("*.manifest.json")}
    assert len(manifests) == 3
    assert list(filter(None, flaws_of_results(results))) == []
    assert "Nothing to be done" in unbuilt.snakemake("--dry-run").stdout

    config["suites"].append(config["suites"][0] | {"name": "again"})
    config["evaluations"].append({"suite": "again", "models": ["merged"]})
    unbuilt.config = config
    run = unbuilt.snakemake("results/brief/predictions/again/merged.jsonl")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "merge_briefly: " in run.stderr and "fold_briefly: " in run.stderr
    assert {path: path.read_bytes() for path in manifests} == manifests
    assert [path.name for path in (results / "models").iterdir() if path.is_dir()] == ["base"]
