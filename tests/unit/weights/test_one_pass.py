"""Merges in one pass: each has the bytes that it has alone, traced or not."""

import pytest
from moult.weights import one_pass
from moult.weights.merging import merge_models
from moult.weights.sweeping import merge_sweep
from moult.weights.tracing import Tracing
from pico_build import ROOT

NAMES = ("base", "a", "b", "c")
FOLDERS = {name: f"models/{name}" for name in NAMES}


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(ROOT / "tests" / "reference" / "mergekit" / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(method, base="base", parents=("a", "b"), parameters=None, **own):
    """Return the recipe of a merge."""
    recipe = {"method": method, "base": base, "parents": [{"model": name} | own for name in parents]}
    recipe |= {"parameters": parameters or {}, "dtype": "bfloat16", "seed": 3, "threads": 1}
    return recipe | ({"order": "stable"} if method in ("ties", "breadcrumbs", "sce") else {})


RECIPES = {
    "ties": merge("ties", weight=0.5, density=0.3),
    "ties of three": merge("ties", parents=("a", "b", "c"), weight=0.5, density=0.7),
    "rounded later": merge("ties", weight=0.5, density=0.3) | {"dtype": "float32", "out_dtype": "bfloat16"},
    "breadcrumbs": merge("breadcrumbs", weight=1.0, density=0.3, gamma=0.1),
    "one stream of draws": merge("dare_ties", weight=0.5, density=0.3),
    "draws by name": merge("dare_ties", weight=0.5, density=0.3) | {"masks": "by_name"},
    "other draws by name": merge("dare_linear", weight=0.7, density=0.8) | {"masks": "by_name"},
    "linear": merge("linear", base=None, weight=0.5),
    "slerp": merge("slerp", base="a", parameters={"t": 0.4}),
    "della": merge("della", weight=0.5, density=0.5, epsilon=0.1),
    "sce": merge("sce", parameters={"select_topk": 0.4}),
}


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors*")}


@pytest.fixture
def swept(project):
    merge_sweep(RECIPES, FOLDERS, project / "swept")
    return {name: weights(project / "swept" / name) for name in RECIPES}


def test_a_merge_has_the_bytes_that_it_has_alone(project, swept, monkeypatch):
    # Blocks of other sizes, too.
    monkeypatch.setattr("moult.weights.blocks.ENTRIES", 200)
    for name, recipe in RECIPES.items():
        merge_models(recipe, FOLDERS, project / name)
        assert weights(project / name) == swept[name], name


@pytest.mark.parametrize("fails", ["at once", "at the third function"])
def test_what_cannot_be_traced_is_made_of_the_tensors_themselves(project, swept, monkeypatch, fails):
    traced, calls = Tracing.__torch_function__, []

    def failing(self, func, types, args=(), kwargs=None):
        if not calls or calls[-1][0] is not self:
            calls.append([self, 0])
        calls[-1][1] += 1
        if fails == "at once" or calls[-1][1] == 3:
            raise ZeroDivisionError
        return traced(self, func, types, args, kwargs)

    monkeypatch.setattr(Tracing, "__torch_function__", failing)
    merge_sweep(RECIPES, FOLDERS, project / "again")
    assert calls
    assert {name: weights(project / "again" / name) for name in RECIPES} == swept


def test_small_tensors_are_not_traced(project, swept, monkeypatch):
    monkeypatch.setattr(one_pass, "MOST", 1 << 30)
    merge_sweep(RECIPES, FOLDERS, project / "again")
    assert {name: weights(project / "again" / name) for name in RECIPES} == swept
