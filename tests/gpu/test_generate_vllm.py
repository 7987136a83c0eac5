"""The vLLM engine on a GPU: the same requests and the same form of answers as transformers."""

import itertools
import json

import pytest
from moult.inference.engines.loading import load_engine
from moult.inference.requests import ChatRequest, LabelRequest, Sampling
from pico import build_pico_model

pytestmark = pytest.mark.gpu

SCHEMA = {
    "type": "object",
    "properties": {"winner": {"enum": ["A", "B", "Tie"]}, "score": {"enum": [1, 2, 3]}},
    "required": ["winner", "score"],
    "additionalProperties": False,
}


def results(batches):
    return dict(itertools.chain.from_iterable(batches))


def request(text, temperature=0.0, seed=0, **rest):
    return ChatRequest(({"role": "user", "content": text},), Sampling(temperature, max_tokens=40), seed, **rest)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Both engines over one pico model whose heads are of a size that vLLM has kernels for."""
    pytest.importorskip("vllm")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    sizes = {"hidden_size": 256, "intermediate_size": 256, "initializer_range": 0.1}
    model = build_pico_model(tmp_path_factory.mktemp("vllm") / "model", **sizes)
    # vLLM first: it takes its share of a device that is still free.
    vllm = load_engine(model, engine="vllm", dtype="bfloat16")
    return vllm, load_engine(model, dtype="float32")


def test_structure_is_enforced_and_errors_are_answers(engines):
    vllm, _ = engines
    asked = [request("a", 1.0, choices=("no", "not")), request("b", 1.0, schema=SCHEMA), request("long " * 300)]
    found = results(vllm.answer(asked))
    assert found[0].text in ("no", "not") and found[0].finish_reason == "stop"
    assert set(json.loads(found[1].text)) == {"winner", "score"}
    assert found[2].finish_reason == "error"


def test_the_seed_decides_a_sampled_answer(engines):
    vllm, _ = engines
    found = results(vllm.answer([request("data", 1.0, seed) for seed in (1, 2, 1)]))
    assert found[0].text == found[2].text != found[1].text


def test_both_engines_count_and_score_alike(engines):
    asked = [request("a fox"), request("the quick brown fox")]
    labelled = [LabelRequest(one.messages, ("joy", "joyful", "no")) for one in asked]
    ours, reference = ([results(engine.answer(asked)), results(engine.label_logprobs(labelled))] for engine in engines)
    for row in range(2):
        assert ours[0][row].prompt_tokens == reference[0][row].prompt_tokens
        assert ours[1][row] == pytest.approx(reference[1][row], abs=0.5)
