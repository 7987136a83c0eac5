"""A Slurm of our own, what it is asked, and a working directory whose jobs go to it."""

import re
import subprocess
import time
from pathlib import Path

from moult.jobs.gpus import PRETENDED
from pico_build import ROOT, Folder

SCRIPT = Path(__file__).parent / "cluster" / "slurm.sh"


class Cluster:
    """What is asked of Slurm, and done to it."""

    def __init__(self, state):
        self.state = Path(state)

    def script(self, action, *arguments):
        run = subprocess.run([SCRIPT, action, self.state, *arguments], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr

    def ask(self, *command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def jobs(self, folder):
        """Return what `scontrol` tells of every job that runs in a folder, oldest first, as mappings."""
        told = self.ask("scontrol", "--oneliner", "--details", "show", "job")
        jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in told.splitlines() if "JobId=" in line]
        return sorted((job for job in jobs if job["WorkDir"] == str(folder)), key=lambda job: int(job["JobId"]))

    def wait(self, condition, seconds=300):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "it never happened: " + self.ask("squeue", "--states=all")
            time.sleep(0.1)
        return found


class ClusterFolder(Folder):
    """A working directory whose jobs go to the cluster."""

    def command(self, *arguments):
        base = super().command(*arguments)
        place = base.index("--cores")
        # Asked more often than a real cluster should be.
        eager = ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "1"]
        return [*base[:place], "--profile", ROOT / "profiles" / "slurm", *eager, *base[place + 2 :]]

    def environment(self):
        return super().environment() | {"SLURM_ACCOUNT": "", PRETENDED: "1"}

    def log(self, rule, name):
        return (self.path / "logs" / "pico" / rule / f"{name}.log").read_text()
