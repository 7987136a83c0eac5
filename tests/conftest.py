"""Fixtures every test may use."""

import pytest
from pico import build_pico_model


@pytest.fixture(scope="session")
def pico_model(tmp_path_factory):
    """A two-layer Llama with random weights and a ChatML tokenizer, in Hugging Face layout."""
    return build_pico_model(tmp_path_factory.mktemp("pico") / "model")
