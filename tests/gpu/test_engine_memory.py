"""A card that holds one model is enough for a job of two: the first one's memory is free before the second loads."""

import itertools

import pytest
from moult.inference.asking import EnginePool
from moult.inference.engines.loading import load_engine
from moult.inference.requests import ChatRequest, Sampling
from pico import build_pico_model

pytestmark = pytest.mark.gpu


def test_two_models_fit_one_card_one_after_the_other(tmp_path):
    """vLLM takes nine tenths of the card for each, and says so where less is free."""
    pytest.importorskip("vllm")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    sizes = {"hidden_size": 256, "intermediate_size": 256}
    models = [build_pico_model(tmp_path / name, **sizes) for name in ("student", "judge")]
    pool = EnginePool(tmp_path / "j.sqlite")
    for name, engine in itertools.product(models, ("vllm", "transformers")):
        loaded = pool.load((name, engine), lambda: load_engine(name, engine=engine, dtype="bfloat16"))  # noqa: B023
        assert list(loaded.answer([ChatRequest(({"role": "user", "content": "a fox"},), Sampling(max_tokens=4))]))
        free, total = torch.cuda.mem_get_info()
        assert (free < 0.2 * total) == (engine == "vllm")
    pool.close()
    assert torch.cuda.mem_get_info()[0] > 0.9 * total
