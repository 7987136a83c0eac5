"""A sweep through the real Snakefile: merged in one job, measured, raced."""

import contextlib
import json
import shutil
import sqlite3

import pytest
from pico_build import MOODS, Folder
from pico_variants import write_swept

# The bytes of members and the choice are tested by tests/unit/weights and tests/unit/evaluation in seconds.
pytestmark = pytest.mark.soak
MEMBERS = [
    f"grid-{method}-w{weight}" for method in ("ties-d0.5", "dare_ties-d0.5", "linear") for weight in ("0.5", "0.2-0.8")
]


@pytest.fixture(scope="module")
def swept(build_once):
    return build_once("swept", write_swept, None)


@pytest.fixture
def edited(swept, tmp_path):
    return Folder(shutil.copytree(swept.path, tmp_path / "copy", symlinks=True), None)


def manifest(folder, key):
    return json.loads((folder.path / "results/swept" / f"{key}.manifest.json").read_text())


def built(folder, *targets):
    run = folder.snakemake(*targets)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_a_sweep_is_one_job_and_each_of_its_merges_a_model(swept):
    results = swept.path / "results/swept"
    assert sorted(path.name for path in (results / "models").glob("grid*") if path.is_dir()) == sorted(MEMBERS)
    assert not (results / "sweeps/grid").exists()
    for name in MEMBERS:
        made = manifest(swept, f"models/{name}")
        assert made["recipe"]["method"] in name and f"models/{name}/model.safetensors" not in made["parents"]
        assert {"README.md", "mergekit_config.yml"} <= {path.name for path in (results / "models" / name).iterdir()}
        assert "taken out of the sweep grid" in (swept.path / f"logs/swept/merge_models/{name}.log").read_text()
    log = (swept.path / "logs/swept/merge_sweep/grid.log").read_text()
    assert log.count("mergekit is loaded") == 1
    assert "Nothing to be done" in swept.snakemake("--dry-run").stdout


def test_what_was_chosen_stands_in_the_manifest_and_is_a_parent(swept):
    best, raced = manifest(swept, "models/best")["facts"], manifest(swept, "models/raced")["facts"]
    assert set(best["among"]) == {"left", *MEMBERS} and set(raced["among"]) == set(MEMBERS)
    for facts in (best, raced):
        assert facts["among"][facts["chosen"]] == max(facts["among"].values())
        assert facts["by"] == pytest.approx(facts["among"][facts["chosen"]] - facts["among"][facts["runner_up"]])
    results = swept.path / "results/swept"
    chosen = (results / "models" / best["chosen"] / "model.safetensors").read_bytes()
    assert (results / "models/best/model.safetensors").read_bytes() == chosen
    assert raced["judgements"] <= raced["of"] == len(MEMBERS) * MOODS["dev"]
    assert "results/swept/models/best" in manifest(swept, "models/soup")["parents"]
    assert "chosen: " + best["chosen"] in (results / "models/best/README.md").read_text()
    page = (results / "report/index.html").read_text()
    assert "best of 7 by accuracy on dev" in page


def test_a_merge_alone_has_the_bytes_of_a_member(edited):
    alone = edited.config
    merge = {
        "method": "ties",
        "base": "base",
        "parents": [{"model": name, "weight": 0.5, "density": 0.5} for name in ("left", "right")],
        "dtype": "float32",
    }
    alone["models"].append({"name": "alone", "merge": merge})
    edited.config = alone
    built(edited, "results/swept/models/alone")
    files = [edited.path / "results/swept/models" / name / "model.safetensors" for name in ("alone", MEMBERS[0])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_method_added_later_is_merged_measured_and_chosen_among_alone(edited):
    results, config = edited.path / "results/swept", edited.config
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files_of_members(results)}
    answers = {name: answered(edited, name) for name in ("predict_labels/dev", "select_model")}
    config["models"][3]["sweep"]["methods"].append("task_arithmetic")
    edited.config = config
    new = [f"grid-task_arithmetic-w{weight}" for weight in ("0.5", "0.2-0.8")]
    planned = edited.planned()
    of_members = {path for path in planned if any(part.startswith("grid") for part in path.split("/"))}
    assert {path.split("/")[-1].split(".")[0] for path in of_members if path != "sweeps/grid"} == {
        name.split(".")[0] for name in new
    }
    built(edited)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert "2 of 8 are made" in (edited.path / "logs/swept/merge_sweep/grid.log").read_text()
    for name in new:
        assert "taken out of the sweep grid" in (edited.path / f"logs/swept/merge_models/{name}.log").read_text()
    best, raced = manifest(edited, "models/best")["facts"], manifest(edited, "models/raced")["facts"]
    assert set(best["among"]) == {"left", *MEMBERS, *new} and set(raced["among"]) == {*MEMBERS, *new}
    assert best["among"][best["chosen"]] == max(best["among"].values())
    # The race asked the new ones alone; whoever was asked before is not asked again.
    assert answered(edited, "predict_labels/dev") == answers["predict_labels/dev"] + 2 * MOODS["dev"]
    assert answered(edited, "select_model") <= answers["select_model"] + 2 * MOODS["dev"]
    assert "Nothing to be done" in edited.snakemake("--dry-run").stdout

    # One that is taken away comes back by itself, with the bytes that it had.
    away = results / "models" / MEMBERS[0]
    weights = (away / "model.safetensors").read_bytes()
    shutil.rmtree(away)
    built(edited)
    assert "1 of 8 are made" in (edited.path / "logs/swept/merge_sweep/grid.log").read_text()
    assert (away / "model.safetensors").read_bytes() == weights


def files_of_members(results):
    """Return all files of the members and of what was measured of them, but pictures of all of them."""
    return [path for path in results.rglob("grid-*/*") if path.is_file()] + [
        path for path in results.rglob("grid-*") if path.is_file()
    ]


def answered(folder, rule):
    """Return how many answers the journals of a rule have."""
    found = 0
    for path in (folder.path / "journal" / rule).rglob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found += connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    return found
