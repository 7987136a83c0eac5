"""Publishing by the real Snakefile: refused in one sentence, whole, on with it after a kill, and nothing sent twice."""

import json
import os
import signal
import subprocess
import time

import pytest
from hub_server import PublishingHub
from pico_build import ROOT, Folder

TOKEN = "hf_canary_0123456789"


class Publisher(Folder):
    """A folder whose builds find a hub, and have a token for it."""

    variables = {}

    def environment(self):
        return super().environment() | {"HF_HUB_OFFLINE": "0", "MY_TOKEN": TOKEN} | self.variables


@pytest.fixture
def hub():
    with PublishingHub({TOKEN: {"me"}}) as running:
        yield running


@pytest.fixture
def folder(unbuilt, hub):
    folder = Publisher(unbuilt.path, unbuilt.server)
    folder.variables = {"HF_ENDPOINT": hub.url}
    config = folder.config
    config["models"] = [config["models"][0] | {"publish": {"hub": "me/pico", "token": "MY_TOKEN"}}]
    config = {key: config[key] for key in ("name", "seed", "compute", "models")}
    folder.config = config
    return folder


def publish(folder, *settings):
    command = ["make", "--old-file=.venv/ready", "publish", f"STUDY={folder.path}", "CONFIG=pico.yaml", *settings]
    return subprocess.run(command, cwd=ROOT, env=folder.environment(), capture_output=True, text=True, check=False)


PUSH = ("--config", "push=true")


def test_a_push_is_refused_without_the_flag_before_anything_is_made(folder, hub):
    run = publish(folder)
    assert run.returncode == 2
    assert "base is not published: to send it to me/pico, add `--config push=true` to the command" in run.stderr
    assert "Traceback" not in run.stderr
    assert hub.asked == [] and not (folder.path / "results/pico/models").exists()


def test_a_model_is_published_and_nothing_is_sent_twice(folder, hub):
    # Killed in the middle of the weights, which are sent in parts.
    waiting = []

    def stop_here(what):
        waiting.append(what)
        while len(waiting) == 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        return False

    hub.cut, deadline = stop_here, time.monotonic() + 120
    run = folder.start("publish", *PUSH)
    while len(waiting) < 3 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(waiting) == 3, (folder.path / "run.log").read_text()
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    deadline = 0
    assert hub.repos["me/pico"].files.keys() == {".gitattributes"}
    assert not (folder.path / "results/pico/published/base.json").exists()

    hub.cut = lambda what: False
    run = publish(folder, "PUSH=yes")
    assert run.returncode == 0, run.stdout + run.stderr
    record = json.loads((folder.path / "results/pico/published/base.json").read_text())
    repo = hub.repos["me/pico"]
    assert repo.private and record["revision"] == repo.commits[-1][0] and record["hub"] == "me/pico"
    model = folder.path / "results/pico/models/base"
    names = {path.name for path in model.iterdir() if path.name != ".snakemake_timestamp"}
    assert repo.files.keys() == {*names, ".gitattributes"}
    assert repo.files["model.safetensors"][0] == (model / "model.safetensors").read_bytes()
    assert b"license: cc0-1.0\n" in repo.files["README.md"][0]

    hub.received.clear()
    run = folder.snakemake("results/pico/published/base.json", "--force", *PUSH)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads((folder.path / "results/pico/published/base.json").read_text()) == record
    assert hub.received == [] and len(repo.commits) == 2
    texts = [path.read_text(errors="replace") for path in folder.path.rglob("*") if path.is_file()]
    assert not any(TOKEN in text for text in [*texts, run.stdout, run.stderr])
