"""The job of a sweep makes what lacks, and keeps what stands by its own manifest."""

import json
from types import SimpleNamespace

import pytest
from moult.jobs.manifest import write_manifest
from moult.weights.sweeping import MADE, run, run_member
from pico import build_pico_model

PARENTS = ("left", "right")


def merge(weight):
    parents = [{"model": name, "weight": own} for name, own in zip(PARENTS, (weight, 1 - weight), strict=True)]
    recipe = {"method": "linear", "base": None, "parents": parents, "parameters": {}}
    return recipe | {"dtype": "float32", "seed": 7, "threads": 1}


def seal(home, name, recipe, parents=()):
    vouched = [home / f"{one}.manifest.json" for one in parents]
    path = home / f"{name}.manifest.json"
    write_manifest(path, rule="r", outputs=[home / name], parents=vouched, recipe=recipe, facts={})


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "models"
    for seed, name in enumerate(PARENTS):
        build_pico_model(home / name, seed)
        seal(home, name, {"of": seed})
    return home


def job(home, **further):
    inputs = {
        "models": [str(home / name) for name in PARENTS],
        "models_manifests": [str(home / f"{name}.manifest.json") for name in PARENTS],
    }
    return SimpleNamespace(
        params=SimpleNamespace(names=list(PARENTS)), inputs=SimpleNamespace(**inputs, get=inputs.get), **further
    )


def made(home, members):
    """Return what the job of the sweep makes of its members."""
    target = home.parent / "sweep"
    swept = job(home, recipe={"members": members}, outputs=SimpleNamespace(sweep=target))
    run(swept)
    assert sorted(path.parent.name for path in target.glob(f"*/{MADE}")) == sorted(swept.facts["made"])
    return swept.facts["made"]


def take(home, name, recipe):
    """Do the job of a member, as the workflow does."""
    one = job(home, name=name, recipe=recipe, outputs=SimpleNamespace(model=home / name), card=lambda facts: {})
    one.inputs.get = {"sweep": str(home.parent / "sweep")}.get
    run_member(one)
    seal(home, name, recipe, PARENTS)


def test_a_member_added_later_is_made_without_the_others(home):
    members = {"half": merge(0.5), "most": merge(0.9)}
    assert made(home, members) == ["half", "most"]
    for name, recipe in members.items():
        take(home, name, recipe)
    bytes_of = {path: path.read_bytes() for path in home.glob("*/model.safetensors")}
    members["least"] = merge(0.1)
    assert made(home, members) == ["least"]
    take(home, "least", members["least"])
    assert {path: path.read_bytes() for path in bytes_of} == bytes_of
    # Somebody forces them: all are made, in one pass.
    assert made(home, members) == list(members)


@pytest.mark.parametrize("how", ["another recipe", "cut", "changed", "gone", "unsealed", "another parent"])
def test_what_does_not_stand_is_made_again(home, how):
    members = {"half": merge(0.5), "most": merge(0.9), "least": merge(0.1)}
    made(home, members)
    for name, recipe in members.items():
        take(home, name, recipe)
    weights, manifest = home / "most/model.safetensors", home / "most.manifest.json"
    data = weights.read_bytes()
    # Not what it shares its bytes with.
    weights.unlink()
    weights.write_bytes({"cut": data[:-1], "changed": bytes([*data[:-1], data[-1] ^ 1])}.get(how, data))
    if how == "another recipe":
        members["most"] = merge(0.8)
    elif how == "gone":
        weights.unlink()
    elif how == "unsealed":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"rule": "x"}))
    elif how == "another parent":
        (home / "left/more.json").write_text("{}")
        seal(home, "left", {"of": 0})
    assert made(home, members) == (list(members) if how == "another parent" else ["most"])
