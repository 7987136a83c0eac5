"""Fixtures every test may use."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from openai_server import OpenAIServer
from pico import build_pico_model
from pico_build import write_inputs

# Tests fetch what they test the fetching of, and leave nothing in the user's cache.
os.environ["MOULT_CACHE"] = ""


def pytest_collection_modifyitems(items):
    """Leave what takes long, and what shorter tests cover in the main, to `make test-soak`."""
    for item in items:
        if item.get_closest_marker("soak") and not os.environ.get("MOULT_SOAK"):
            item.add_marker(pytest.mark.skip(reason="make test-soak runs it"))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Return a function that returns a copy of a folder which one process makes for all of this run of pytest.

    `once(name, make)`: the first process that asks runs `make(folder)` in an empty folder, which is moved when it is
    whole; the others wait. Where `make` raises, the next process tries.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def copy(name, make):
        made = shared / f"once-{name}"
        with open(shared / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                begun = tmp_path_factory.mktemp(name)
                make(begun)
                begun.rename(made)
        return Path(shutil.copytree(made, tmp_path_factory.mktemp(name) / "copy", symlinks=True))

    return copy


@pytest.fixture(scope="session")
def pico_model(tmp_path_factory):
    """A two-layer Llama with random weights and a ChatML tokenizer, in Hugging Face layout."""
    return build_pico_model(tmp_path_factory.mktemp("pico") / "model")


@pytest.fixture(scope="session")
def two_devices():
    """Two processes train on two GPUs, or where there is none: one is too few."""
    import torch

    if torch.cuda.device_count() == 1:
        pytest.skip("two processes need two GPUs, or none")


@pytest.fixture(scope="session")
def server():
    """An OpenAI-compatible teacher on loopback; `server.asked` is what it was asked."""
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="session")
def inputs(once):
    """A folder with config, data and model of the pico build."""
    return once("inputs", write_inputs)
