"""Merges that are traced and reckoned in blocks have the bits of mergekit's methods on the tensors themselves."""

import os
import random

import pytest
import torch
from mergekit import merge_methods
from mergekit.merge_methods.base import ParameterScope, TensorGroup
from moult.weights import blocks, graph, tracing
from moult.weights.blocks import Blocks
from moult.weights.graph import Graph, NotTracedError
from moult.weights.largest import Largest
from moult.weights.tracing import Traced, Tracing, WantedError

# What sweeps are made of most often; other methods may be traced or not.
TRACED = ("linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "sce")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small tensors are traced, in several blocks."""
    monkeypatch.setattr(blocks, "ENTRIES", 64)
    for module in (graph, tracing):
        monkeypatch.setattr(module, "MOST", 16)


def bits(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 1: torch.int8}[tensor.element_size()])


def in_blocks(functions, given, state, stable=True):
    """Return what functions of tensors make of the given, in blocks, and the generator's state behind each."""
    made = Graph(given)
    reckoning, results = Blocks(made), {}
    while len(results) < len(functions):
        for number, function in enumerate(functions):
            if number not in results:
                mode = Tracing(made, state, stable)
                try:
                    with mode:
                        results[number] = function([mode.given(one) for one in given]).node, mode.stream
                except WantedError:
                    pass
        reckoning.find_few()
    nodes = [results[number][0] for number in range(len(functions))]
    parts = list(reckoning.run(nodes))
    values = [torch.cat([part[place] for part in parts], dim=node.lead) for place, node in enumerate(nodes)]
    after = [
        reckoning.after(results[number][1]) if results[number][1].drawn else state for number in range(len(functions))
    ]
    return values, after


def drawn_merge(draw, method, parents):
    """Return a function that merges [base, *parents] by a method, with settings that were drawn."""
    made = merge_methods.get(method)
    own = {"density": [0.0, 0.1, 0.37, 0.8, 1.0], "weight": [0.5, 1.0, -0.3, 0.0], "gamma": [0.01, 0.2, 0.0]}
    shared = {"int8_mask": [True, False], "normalize": [True, False], "rescale": [True, False], "lambda": [1.0, 0.7]}
    shared |= {"select_topk": [0.0, 0.2, 0.5, 1.0]}
    settings = {}
    for parameter in made.spec.parameters:
        if parameter.name in own:
            inputs = parents + (parameter.scope == ParameterScope.INPUT)
            settings[parameter.name] = [draw.choice(own[parameter.name]) for _ in range(inputs)]
        elif parameter.name in shared:
            settings[parameter.name] = draw.choice(shared[parameter.name])

    def merge(tensors):
        return made((TensorGroup.from_tensors(tensors, base_index=0),), parameters=settings)[0]

    return merge, (method, settings)


def drawn_tensors(draw, dtype):
    """Return a base and parents of it, of which many entries are equal, none, or all."""
    random_ = torch.Generator().manual_seed(draw.randrange(10**6))
    shape = draw.choice([(37,), (128,), (5, 40), (33, 7), (1, 70), (90, 1), (6, 5, 4)])
    base = torch.randn(shape, generator=random_)
    kind = draw.choice(["near", "far", "few values", "equal", "small"])
    parents = []
    for _ in range(draw.choice([1, 2, 2, 3, 4, 6])):
        noise = torch.randn(shape, generator=random_)
        spread = {"near": 1e-3, "far": 2.0, "few values": 1.0, "equal": 0.0, "small": 1e-9}[kind]
        parents.append(base + spread * (noise.round() if kind == "few values" else noise))
    if draw.random() < 0.2:
        parents[0] = parents[0] * 0
    return [one.to(dtype) for one in (base, *parents)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_merges_have_the_bits_of_mergekit_s_methods(dtype):
    draw = random.Random(str(dtype))
    for _ in range(3000 if os.environ.get("MOULT_SOAK") else 25):
        given = drawn_tensors(draw, dtype)
        merges = [drawn_merge(draw, draw.choice(TRACED), len(given) - 1) for _ in range(draw.choice([1, 4, 9]))]
        state = torch.Generator().manual_seed(draw.randrange(1000)).get_state()
        made, after = in_blocks([merge for merge, _ in merges], given, state)
        for (merge, told), result, behind in zip(merges, made, after, strict=True):
            torch.set_rng_state(state)
            with Largest():
                expected = merge(given)
            assert result.dtype == expected.dtype and bits(result).equal(bits(expected)), (told, given)
            assert behind.equal(torch.get_rng_state()), told


@pytest.fixture
def threads():
    """Sets how many threads torch works on, for a while."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", TRACED)
def test_bits_do_not_hang_on_the_number_of_threads(method, monkeypatch, threads):
    # As large as it takes torch to share a tensor out.
    monkeypatch.setattr(blocks, "ENTRIES", 1 << 17)
    random_ = torch.Generator().manual_seed(3)
    base = torch.randn(701, 999, generator=random_)
    given = [base, *(base + 1e-2 * torch.randn(base.shape, generator=random_) for _ in range(5))]
    given = [one.bfloat16() for one in given]
    own = {"density": [0.4] * 5, "weight": [0.3] * 5, "select_topk": 0.4}
    made = merge_methods.get(method)
    settings = {parameter.name: own[parameter.name] for parameter in made.spec.parameters if parameter.name in own}
    if method == "linear":
        settings["weight"] = [0.3] * 6
    results = []
    for number in (1, 2, 3):
        threads(number)
        group = [lambda tensors: made((TensorGroup.from_tensors(tensors, base_index=0),), parameters=settings)[0]]
        ((result,), _) = in_blocks(group, given, torch.Generator().manual_seed(1).get_state())
        results.append(bits(result))
    assert results[0].equal(results[1]) and results[0].equal(results[2])


def test_tensors_of_several_dtypes():
    base, other = torch.randn(9, 10).bfloat16(), torch.randn(9, 10)

    def merge(tensors):
        return merge_methods.get("ties")(
            (TensorGroup.from_tensors(tensors, base_index=0),), parameters={"weight": 0.5, "density": 0.5}
        )[0]

    (made,), _ = in_blocks([merge], [base, other], torch.get_rng_state())
    with Largest():
        assert made.equal(merge([base, other]))


# What is done with two tensors [8, 10], and may be done in blocks.
DONE = {
    "a mask": lambda a, b: (a > b).to(torch.int8),
    "a mask of few": lambda a, b: a * (a.abs() >= 0.5) - 1,
    "zeros of either sign": lambda a, b: torch.stack([a * 0.0, a * -0.0])[1] + (b * 0.0 == 0),
    "a number first": lambda a, b: 1 - a / 2,
    "no and": lambda a, b: a.clamp(-0.5, max=0.5) * -b.sign(),
    "written through a view": lambda a, b: written_through(a, b),
    "written before a view is taken": lambda a, b: written_before(a, b),
    "sums decide": lambda a, b: a if a.sum() > b.abs().sum() else b - a,
    "a sum as a factor": lambda a, b: a * b.sum(),
    "a number for each column": lambda a, b: a * torch.arange(10, dtype=a.dtype),
    "the mean of masks": lambda a, b: a * (a > 0).sum() / a.numel(),
    "variance": lambda a, b: torch.var(torch.stack([a, b, a - b]), dim=0, unbiased=False),
    "a part of a stack": lambda a, b: torch.stack([a, b])[1] + a,
    "draws": lambda a, b: torch.bernoulli(torch.full_like(a, 0.3)) * torch.bernoulli(torch.full_like(b, 0.6)),
    "ranks between": lambda a, b: between(a),
    "ranks of what was rounded": lambda a, b: between(a.bfloat16()),
    "ranks of what was rounded otherwise": lambda a, b: between(a.half()),
    "ranks of what was widened": lambda a, b: between(a.half().float()),
    "ranks of what was rounded last": lambda a, b: chosen_by(a.abs().view(-1).bfloat16(), a),
    "ranks of halves that were rounded": lambda a, b: chosen_by((1 + a.half() / 50).abs().view(-1).bfloat16(), a),
}


def written_through(a, b):
    result = torch.zeros_like(a)
    result.view(-1)[torch.argsort((a - b).abs().view(-1), descending=True)[:7]] = 1
    return result * b


def written_before(a, b):
    result = a * 2
    flat = result.view(-1)
    result += b
    flat.mul_(3)
    result[result == 0] = 5
    return result + flat.view(8, 10)


def chosen_by(sizes, a):
    result = torch.zeros_like(a)
    result.view(-1)[torch.argsort(sizes, descending=True)[:33]] = 1
    return result


def between(a):
    result = torch.zeros(a.numel(), dtype=a.dtype)
    result[torch.sort(a.abs().view(-1), descending=False).indices[5:60]] = 1
    return result.reshape_as(a)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("what", DONE)
def test_what_is_traced_comes_out_the_same(what, dtype):
    given = [torch.randn(8, 10, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (1, 2)]
    given[0][3] = 0.25
    state = torch.Generator().manual_seed(5).get_state()
    (made,), (after,) = in_blocks([lambda tensors: DONE[what](*tensors)], given, state)
    torch.set_rng_state(state)
    # The last functions take entries out by an order of their own.
    with Largest():
        expected = DONE[what](*given)
    assert made.dtype == expected.dtype and bits(made).equal(bits(expected))
    assert after.equal(torch.get_rng_state())


REFUSED = {
    "an unknown function": lambda a, b: torch.softmax(a, dim=0),
    "writing to what is given": lambda a, b: a.mul_(2),
    "writing through a view of it": lambda a, b: a.view(-1).mul_(2),
    "writing to a part": lambda a, b: torch.stack([a, b])[0].mul_(2),
    "writing to what a part was taken of": lambda a, b: written_to_whole(a, b),
    "rows": lambda a, b: a[2:4],
    "the bits": lambda a, b: a.view(torch.int32),
    "a product that is added": lambda a, b: torch.add(a, b, alpha=3),
    "the other way round": lambda a, b: a.t(),
    "a number for each row": lambda a, b: a * torch.arange(8, dtype=a.dtype)[:, None],
    "a sum of columns": lambda a, b: a - a.sum(dim=1, keepdim=True),
    "sorting rows": lambda a, b: torch.argsort(a, dim=1),
    "an order of what has signs": lambda a, b: torch.argsort(a.view(-1))[:3],
    "values": lambda a, b: a * float(b[0, 0]),
    "lists": lambda a, b: torch.tensor(a.tolist()),
    "numpy": lambda a, b: torch.from_numpy(a.numpy()),
    "what is not filled": lambda a, b: a.new_empty((2, 8, 10)) * 2,
    "probabilities of its own": lambda a, b: torch.bernoulli(a.abs().clamp(0, 1)),
}


def written_to_whole(a, b):
    both = torch.stack([a, b])
    first = both[0]
    both.mul_(2)
    return first


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_reckoned_in_blocks_is_not_traced(what):
    given = [torch.randn(8, 10), torch.randn(8, 10)]
    with pytest.raises(NotTracedError):
        made, _ = in_blocks([lambda tensors: REFUSED[what](*tensors)], given, torch.get_rng_state())


def test_an_order_is_traced_only_where_it_may_be_stable():
    given = [torch.randn(8, 10)]
    with pytest.raises(NotTracedError):
        in_blocks([lambda tensors: between(*tensors)], given, torch.get_rng_state(), stable=False)


def test_a_graph_lets_go_of_values():
    tensor = torch.randn(8, 10)
    made = Graph([tensor])
    with Tracing(made, torch.get_rng_state(), True) as mode:
        kept = mode.given(tensor) * 2
    made.close()
    assert isinstance(kept, Traced) and kept.node.inputs[0].value is None
