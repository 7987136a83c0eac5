"""Entries chosen by rank, against a stable sort; and the merges that choose so, against mergekit's own."""

import os
import random

import pytest
import torch
from moult.weights.exact import variance
from moult.weights.largest import Largest, Order
from moult.weights.merging import merge_models
from moult.weights.methods import BY_MAGNITUDE, DRAWING, METHODS, selects
from pico_build import ROOT
from torch.overrides import TorchFunctionMode

REFERENCE = ROOT / "tests" / "reference" / "mergekit"
NAMES = ("base", "a", "b")


def drawn(draw):
    """Return a flat tensor of magnitudes: of any 16 or 32 bits, with few or many equal entries."""
    dtype = draw.choice([torch.bfloat16, torch.float16, torch.float32])
    size = draw.choice([1, 2, 7, 300, 5000])
    random_ = torch.Generator().manual_seed(draw.randrange(10**6))
    values = torch.randn(size, generator=random_) * draw.choice([1e-8, 1e-3, 1, 1e4])
    if draw.random() < 0.3:
        values = torch.randint(0, 3, (size,), generator=random_).float()
    values = values.to(draw.choice([torch.bfloat16, torch.float16, torch.float32])).to(dtype).abs()
    if draw.random() < 0.2:
        values[draw.randrange(size)] = float("inf")
    return values.float() if draw.random() < 0.5 else values


def order(values, descending, block=1 << 17):
    return Order(lambda: values.split(block), len(values), descending)


def test_entries_of_ranks_are_those_of_a_stable_sort():
    draw = random.Random(1)
    for _ in range(100_000 if os.environ.get("MOULT_SOAK") else 300):
        values, descending = drawn(draw), draw.random() < 0.5
        first, last = sorted(draw.randint(0, len(values)) for _ in "ab")
        expected = torch.zeros(len(values), dtype=torch.bool)
        expected[torch.argsort(values, descending=descending, stable=True)[first:last]] = True
        chosen = order(values, descending, draw.choice([3, 64, 10_000]))[first:last]
        assert chosen.equal(expected), (values, descending, first, last)


def test_a_tensor_is_looked_through_in_parts():
    values = torch.randint(0, 3, (1000,), generator=torch.Generator().manual_seed(0)).bfloat16()
    for rank in range(0, 1001, 7):
        expected = torch.zeros(1000, dtype=torch.bool)
        expected[torch.argsort(values, descending=True, stable=True)[:rank]] = True
        assert order(values, True, 16)[:rank].equal(expected)


def test_rows_that_are_sorted_each_are_sorted():
    table = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    with Largest():
        assert torch.argsort(table, dim=1).tolist() == [[1, 0], [0, 1]]


def test_variances_between_tensors_have_the_bits_of_torch():
    draw = random.Random(2)
    for _ in range(5000 if os.environ.get("MOULT_SOAK") else 60):
        shape = (draw.choice([1, 2, 3, 5, 8]), draw.choice([1, 3, 40]), draw.choice([7, 400]))
        made = torch.randn(shape, generator=torch.Generator().manual_seed(draw.randrange(10**6)))
        values = made * 10.0 ** draw.randint(-6, 3) + draw.choice([0, 0, 100])
        values = values.to(draw.choice([torch.bfloat16, torch.float16, torch.float32]))
        if not values.isfinite().all():
            continue
        expected = torch.var(values, dim=0, unbiased=False)
        assert variance(values).equal(expected), (values.dtype, shape)
        with Largest():
            assert torch.var(values, dim=0, unbiased=False).equal(expected)


def settings_of(method):
    """Return a recipe by a method over the pico models that leaves entries out where the method can."""
    known = METHODS[method].settings
    values = {"weight": 0.5, "density": 0.5, "t": 0.5, "select_topk": 0.5}
    own = {key: values[key] for key, one in known.items() if one.scope != "shared" and key in values}
    shared = {key: values[key] for key, one in known.items() if one.scope == "shared" and key in values}
    base = None if METHODS[method].base == "ignored" else "base" if METHODS[method].task_vectors else "a"
    parents = [{"model": name} | own for name in ("a", "b")]
    if METHODS[method].inputs[1] == 1:
        parents = parents[:1]
    return {"method": method, "base": base, "parents": parents, "parameters": shared, "dtype": "bfloat16"}


class Watch(TorchFunctionMode):
    """Notes which functions of torch are called, and whether flat tensors are put in order by them."""

    def __init__(self):
        super().__init__()
        self.ordered, self.drew = False, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.argsort, torch.topk) or (func is torch.sort and "descending" in (kwargs or {})):
            self.ordered |= args[0].dim() == 1
        self.drew |= func in (torch.bernoulli, torch.randint)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(REFERENCE / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(recipe, target):
    recipe = {"seed": 3, "threads": 1} | recipe
    merge_models(recipe, {name: f"models/{name}" for name in NAMES}, target)


@pytest.mark.slow
def test_which_methods_choose_by_magnitude_and_which_draw(project, monkeypatch):
    # A tensor of more entries than this is sampled by one method.
    monkeypatch.setattr("mergekit.merge_methods.arcee_fusion._QUANTILE_SAMPLE_SIZE", 16)
    found = {"ordered": set(), "drew": set()}
    for method in METHODS:
        recipe = settings_of(method)
        with Watch() as watch:
            made(recipe, project / method)
        found["ordered"] |= {method} if watch.ordered else set()
        found["drew"] |= {method} if watch.drew else set()
        assert selects(recipe) == watch.ordered, method
    assert found == {"ordered": set(BY_MAGNITUDE), "drew": set(DRAWING)}


def test_what_leaves_nothing_out_chooses_nothing():
    recipe = settings_of("ties")
    assert selects(recipe)
    assert not selects(recipe | {"parents": [one | {"density": 1.0} for one in recipe["parents"]]})
    gradient = [one | {"density": [1.0, 0.5]} for one in recipe["parents"]]
    assert selects(recipe | {"parents": gradient})
    assert not selects({"method": "dare_ties", "parents": gradient, "parameters": {}})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ties", "breadcrumbs_ties"])
def test_what_differs_from_mergekit_s_sort_are_equal_entries_at_the_edge(project, method):
    from safetensors.torch import load_file

    recipe = settings_of(method)
    made(recipe, project / "theirs")
    made(recipe | {"order": "stable"}, project / "ours")
    tensors = {name: load_file(f"models/{name}/model.safetensors") for name in NAMES}
    ours, theirs = (load_file(project / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    differing = 0
    for name in ours:
        other = ours[name] != theirs[name]
        at_edge = torch.zeros_like(other)
        for parent in ("a", "b"):
            size = (tensors[parent][name] - tensors["base"][name]).abs().float()
            ranked = size.flatten().sort(descending=True).values
            kept = max(1, int(0.5 * len(ranked)))
            above = int(0.01 * len(ranked)) if method == "breadcrumbs_ties" else 0
            for rank in (above, above + kept):
                at_edge |= size == ranked[min(rank, len(ranked) - 1)]
                at_edge |= size == ranked[max(rank - 1, 0)]
        assert not (other & ~at_edge).any(), name
        differing += int(other.sum())
    # In bfloat16 nearly every tensor has such entries.
    assert differing > 0
