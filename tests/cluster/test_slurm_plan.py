"""What a build would be on Slurm: planned through the slurm profile, which needs no Slurm."""

import os
import re
import sys

import pytest
import warm
from pico_build import ROOT

# The table of docs/cluster.md: config, jobs, how many of them share how many Slurm jobs, Slurm jobs in all.
TABLE = re.findall(
    r"^\| `(config/\S+)`.*? \| (\d+) \| (\d+), in (\d+) groups \| (\d+)",
    (ROOT / "docs" / "cluster.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize(("config", "jobs", "grouped", "groups", "slurm_jobs"), TABLE)
def test_tiny_jobs_share_slurm_jobs_and_catch_nothing_between_them(config, jobs, grouped, groups, slurm_jobs):
    """Snakemake refuses a plan in which a group is left and entered again."""
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--configfile", config, "--dry-run"]
    command += ["--forceall", "--nolock"]
    run = warm.run(command, cwd=ROOT, env=os.environ | {"SLURM_ACCOUNT": ""})
    assert run.returncode == 0, run.stdout + run.stderr
    inside, alone = (re.findall(rf"^{indent}Job \d+: (\w+):", run.stdout, re.MULTILINE) for indent in ("    ", ""))
    together = re.findall(r" Group job (\w+) ", run.stdout)
    assert [len(inside) + len(alone), len(inside), len(together), len(alone) + len(together)] == [
        int(number) for number in (jobs, grouped, groups, slurm_jobs)
    ]
