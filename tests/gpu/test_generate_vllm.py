"""The vLLM engine on a GPU: the same requests and the same form of answers as transformers."""

import itertools
import json

import pytest
from moult.inference.engines.loading import load_engine
from moult.inference.requests import (
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    LabelRequest,
    Sampling,
)
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


def test_structure_leaves_no_room_for_blanks(engines):
    """A random model would write blanks between the parts of a reply until its tokens are used up."""
    vllm, _ = engines
    texts = [
        one.text for one in results(vllm.answer([request("x", 1.0, seed, schema=SCHEMA) for seed in range(8)])).values()
    ]
    assert all(text == json.dumps(json.loads(text)) for text in texts)


@pytest.fixture(scope="module")
def exact(engines, tmp_path_factory):
    """Both engines in float32, vLLM with its cache of prefixes, in which greedy decoding has no ties."""
    first, _ = engines
    first.close()
    sizes = {"hidden_size": 256, "intermediate_size": 256, "initializer_range": 0.1}
    model = build_pico_model(tmp_path_factory.mktemp("exact") / "model", **sizes)
    vllm = load_engine(model, engine="vllm", dtype="float32", several=True)
    return vllm, load_engine(model, dtype="float32")


def test_samples_of_a_prompt_are_those_of_their_seeds(exact):
    vllm, _ = exact
    asked = [request("a question about data " * 20, 0.8, seed) for seed in range(5)]
    together = {row: one.text for row, one in results(vllm.answer(asked)).items()}
    assert together == {row: results(vllm.answer([one]))[0].text for row, one in enumerate(asked)}
    assert len(set(together.values())) > 1


def test_greedy_answers_and_texts_that_end_at_a_string_are_those_of_transformers(exact):
    asked = [request(f"question {number} " + "data " * number) for number in range(6)]
    theirs, ours = ({row: one.text for row, one in results(engine.answer(asked)).items()} for engine in exact)
    assert theirs == ours
    context = tuple(range(5, 60))
    (whole,) = results(exact[0].completions([CompletionRequest(context, (), Sampling(0.0, max_tokens=12))])).values()
    until = whole.text[len(whole.text) // 2 :][:2]
    asked = [CompletionRequest(context, (until,), Sampling(0.0, max_tokens=12))]
    theirs, ours = (results(engine.completions(asked))[0].text.partition(until)[:2] for engine in exact)
    assert theirs == ours and theirs[1] == until


def test_continuations_have_the_likelihoods_of_transformers(exact):
    asked = [ContinuationRequest(tuple(range(5, 60)), tuple(range(begin, begin + 3))) for begin in (7, 9, 30)]
    theirs, ours = (results(engine.continuations(asked)) for engine in exact)
    for row in range(3):
        assert theirs[row][0] == pytest.approx(ours[row][0], abs=1e-2) and theirs[row][1] == ours[row][1]
