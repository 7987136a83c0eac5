"""A real Slurm on loopback, brought up once per session, and the pico build through the `slurm` profile."""

import os
import shutil
import subprocess

import pytest
from openai_server import OpenAIServer
from slurm_cluster import SCRIPT, Cluster, ClusterFolder, built_where_it_belongs, logs
from slurm_parts import PARTS


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running cluster; skipped, and said so, where it cannot be brought up.

    MOULT_CLUSTER names the folder of one that `slurm.sh up` has brought up, and that is to be left up.
    """
    if standing := os.environ.get("MOULT_CLUSTER"):
        yield Cluster(standing)
        return
    if os.geteuid() != 0:
        pytest.skip("a Slurm of our own needs root")
    if not shutil.which("apt-get"):
        pytest.skip("Slurm comes from Debian's packages, and there is no apt-get")
    installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True, check=False)
    if installed.returncode:
        reason = installed.stderr.strip().splitlines() or [f"status {installed.returncode}"]
        pytest.skip(f"Slurm cannot be installed here: {reason[-1]}")
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    started = subprocess.run([SCRIPT, "up", running.state], capture_output=True, text=True, check=False)
    if started.returncode == 3:
        pytest.skip(started.stderr.strip().splitlines()[-1])
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield running
    finally:
        running.script("down")


@pytest.fixture
def folder(inputs, tmp_path, server, cluster):
    """The inputs of the pico build, nothing made of them; its jobs go to the cluster."""
    return ClusterFolder(shutil.copytree(inputs, tmp_path / "work"), server)


@pytest.fixture
def build(tmp_path, cluster, monkeypatch):
    """Return a function that builds a part by its name, and returns its folder, Slurm's jobs, and those on GPUs."""

    def run(name):
        part = PARTS[name]
        (tmp_path / "work").mkdir()
        with OpenAIServer(part.reply) as server:
            folder = part.folder(tmp_path / "work", server)
            run = folder.snakemake(*part.targets)
            assert run.returncode == 0, run.stdout + run.stderr
            assert "Nothing to be done" in folder.snakemake(*part.targets, "--dry-run").stdout
        monkeypatch.chdir(folder.path)
        assert "all" not in part.targets or {rule for rule, _, _ in logs(folder)} == part.rules(folder.config)
        return folder, *built_where_it_belongs(folder, cluster, part.place_of(folder.config))

    return run
