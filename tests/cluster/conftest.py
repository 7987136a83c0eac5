"""A real Slurm on loopback, brought up once per session, and the pico build through the `slurm` profile."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from workflow.conftest import ROOT, Folder, inputs, pytest_collection_modifyitems, server  # noqa: F401

SCRIPT = Path(__file__).parent / "slurm.sh"


class Cluster:
    """What is asked of Slurm, and done to it."""

    def __init__(self, state):
        self.state = state

    def script(self, action, *arguments):
        run = subprocess.run([SCRIPT, action, self.state, *arguments], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr

    def ask(self, *command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def jobs(self, comment=""):
        """Return what `scontrol` tells of every job whose comment begins so, oldest first, as mappings."""
        told = self.ask("scontrol", "--oneliner", "--details", "show", "job")
        jobs = [
            dict(re.findall(r"(\\S+?)=(\\S*)".replace("\\\\", "\\"), line))
            for line in told.splitlines()
            if "JobId=" in line
        ]
        return sorted((job for job in jobs if job["Comment"].startswith(comment)), key=lambda job: int(job["JobId"]))

    def wait(self, condition, seconds=90):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"it never happened; Slurm's jobs: {self.jobs()}"
            time.sleep(0.1)
        return found

    def running(self, comment):
        """Wait for a job whose comment begins so to run; return it."""
        return self.wait(lambda: [job for job in self.jobs(comment) if job["JobState"] == "RUNNING"])[-1]


class ClusterFolder(Folder):
    """A working directory whose jobs go to the cluster."""

    def command(self, *arguments):
        base = super().command(*arguments)
        place = base.index("--cores")
        # Asked more often than a real cluster should be.
        eager = ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "1"]
        return [*base[:place], "--profile", ROOT / "profiles" / "slurm", *eager, *base[place + 2 :]]

    def environment(self):
        return super().environment() | {"SLURM_ACCOUNT": ""}

    def log(self, rule, name):
        return (self.path / "logs" / "pico" / rule / f"{name}.log").read_text()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running cluster; skipped, and said so, where it cannot be brought up."""
    if os.geteuid() != 0:
        pytest.skip("a Slurm of our own needs root")
    if not shutil.which("apt-get"):
        pytest.skip("Slurm comes from Debian's packages, and there is no apt-get")
    installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"Slurm cannot be installed here: {installed.stderr.strip().splitlines()[-1]}")
    if os.path.exists("/etc/slurm/slurm.conf"):
        pytest.skip("this machine has a Slurm already (/etc/slurm/slurm.conf)")
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        running.script("up")
        yield running
    finally:
        running.script("down")


@pytest.fixture
def folder(inputs, tmp_path, server, cluster):  # noqa: F811
    """The inputs of the pico build, nothing made of them; its jobs go to the cluster."""
    return ClusterFolder(shutil.copytree(inputs, tmp_path / "work"), server)
