"""Fixtures every test may use."""

import os

import pytest
from openai_server import OpenAIServer
from pico import build_pico_model
from pico_build import write_inputs

# Tests fetch what they test the fetching of, and leave nothing in the user's cache.
os.environ["MOULT_CACHE"] = ""


@pytest.fixture(scope="session")
def pico_model(tmp_path_factory):
    """A two-layer Llama with random weights and a ChatML tokenizer, in Hugging Face layout."""
    return build_pico_model(tmp_path_factory.mktemp("pico") / "model")


@pytest.fixture(scope="session")
def server():
    """An OpenAI-compatible teacher on loopback; `server.asked` is what it was asked."""
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, server):
    """A folder with config, data and model of the pico build."""
    folder = tmp_path_factory.mktemp("inputs")
    model = build_pico_model(tmp_path_factory.mktemp("model") / "base", max_position_embeddings=8192)
    write_inputs(folder, model, server.url)
    return folder
