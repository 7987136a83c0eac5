"""What a plan has of a sweep whose merges are there in part. They stand as manifests say; nothing is merged here."""

import shutil
from pathlib import Path

import pytest
from moult.config.load import load
from moult.jobs.manifest import write_manifest
from moult.planning.standing import Standing
from moult.stages import BY_RULE
from pico import build_pico_model
from pico_build import MOODS, Folder
from pico_variants import SWEPT, sweep_config

MODELS = Path("results/swept/models")


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """A folder with data, and models as if they were fetched and merged; the config of its sweep."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for split in MOODS:
        Path("data", f"{split}.tsv").write_text("id\ttext\tlabel\n1\tx\tgood\n2\ty\tbad\n")
    build_pico_model("models/base")
    for name in SWEPT[1:]:
        shutil.copytree("models/base", f"models/{name}")
    folder = Folder(tmp_path, None)
    folder.config = sweep_config()
    for name in SWEPT:
        seal(folder, "fetch_model", name)
    for name in members(folder):
        seal(folder, "merge_models", name)
    return folder


def config_of(folder):
    return load(folder.config, "pico.yaml", print)


def members(folder):
    return config_of(folder).sweeps["grid"]


def seal(folder, rule, name, text="weights"):
    """Write a model that its manifest vouches for."""
    cfg, model = config_of(folder), MODELS / name
    model.mkdir(parents=True, exist_ok=True)
    (model / "weights").write_text(text)
    parents = [MODELS / f"{one}.manifest.json" for one in cfg.find("models", name).parents]
    path, recipe = MODELS / f"{name}.manifest.json", BY_RULE[rule].recipe(cfg, name)
    write_manifest(path, rule=rule, outputs=[model], parents=parents, recipe=recipe, facts={})


def add(folder, method="task_arithmetic"):
    """Add a method to the sweep; return the merges that are new."""
    before, config = members(folder), folder.config
    config["models"][3]["sweep"]["methods"].append(method)
    folder.config = config
    return set(members(folder)) - set(before)


def lacking(folder):
    """Return the merges that are to be made, and those that stand without what the sweep's job makes."""
    cfg, stage = config_of(folder), BY_RULE["merge_models"]
    standing = Standing(cfg, Path("results/swept"), print, lambda: True)
    names = [(name,) for name in members(folder)]
    lacks = {name for (name,) in names if standing.lacks(stage, (name,))}
    shared = stage.inputs(cfg, names[0][0])["sweep"]
    return lacks, {name for (name,) in names if standing.does_without(stage, (name,), shared)}


@pytest.mark.parametrize("before", ["whole", "killed", "a parent gone"])
def test_a_method_added_later_adds_its_own_jobs(merged, before):
    if before == "a parent gone":
        # It is made again for the new ones, and for them alone.
        shutil.rmtree(MODELS / "left")
    if before == "killed":
        # The build before was killed, and what its sweep's job made is there still.
        Path("results/swept/sweeps/grid").mkdir(parents=True)
        write_manifest(
            "results/swept/sweeps/grid.manifest.json",
            rule="merge_sweep",
            outputs=["results/swept/sweeps/grid"],
            parents=[MODELS / f"{name}.manifest.json" for name in SWEPT],
            recipe=BY_RULE["merge_sweep"].recipe(config_of(merged), "grid"),
            facts={},
        )
    new = add(merged)
    assert len(new) == 2
    run = merged.snakemake("--dry-run", *(str(MODELS / name) for name in members(merged)))
    assert run.returncode == 0, run.stdout + run.stderr
    table = [line.split() for line in run.stdout.split("Job stats:")[1].splitlines()[3:]]
    assert ["merge_sweep", "1"] in table and ["merge_models", "2"] in table
    assert ["total", "4" if before == "a parent gone" else "3"] in table
    for name in new:
        assert f"merging {name} out of its parents" in run.stdout


def test_what_stands_does_without_the_sweep_as_long_as_another_lacks(merged):
    every = set(members(merged))
    assert lacking(merged) == (set(), set())
    new = add(merged)
    assert lacking(merged) == (new, every)
    gone, changed, *_ = sorted(every)
    shutil.rmtree(MODELS / gone)
    (MODELS / changed / "weights").write_text("weighty")
    assert lacking(merged) == (new | {gone, changed}, every - {gone, changed})


@pytest.mark.parametrize("how", ["made anew", "to be made again"])
def test_all_lack_whose_parent_is_another_one(merged, how):
    new, every = add(merged), set(members(merged))
    if how == "made anew":
        seal(merged, "fetch_model", "left", "other weights")
    else:
        (MODELS / "left/weights").write_text("w")
    assert new < every and lacking(merged) == (every, set())
