"""A Slurm of our own, what it is asked, and a working directory whose jobs go to it."""

import itertools
import math
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from moult.jobs.gpus import PRETENDED
from pico_build import ROOT, Folder

SCRIPT = Path(__file__).parent / "cluster" / "slurm.sh"
PROFILE = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())
GROUPS, COMPONENTS = PROFILE["groups"], PROFILE["group-components"]
# What takes minutes is no part of `make test`.
AT_LENGTH = pytest.mark.skipif(not os.environ.get("MOULT_CLUSTER_FAULTS"), reason="MOULT_CLUSTER_FAULTS is not set")
# Snakemake, whose executor asks for the state of its jobs more often than a real cluster should be asked. The plugin
# waits ten seconds longer after each question at which no job had ended, up to three minutes, whatever it is told.
EAGER = """
from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda self: 0.5, lambda self, seconds: None)
main()
"""


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
        module, cores = base.index("-m"), base.index("--cores")
        eager = [*base[:module], "-c", EAGER, *base[module + 2 : cores]]
        return [*eager, "--profile", str(ROOT / "profiles" / "slurm"), *base[cores + 2 :]]

    def environment(self):
        return super().environment() | {"SLURM_ACCOUNT": "", PRETENDED: "1"}

    def log(self, rule, name):
        return (self.path / "logs" / "pico" / rule / f"{name}.log").read_text()


def logs(folder):
    """Yield (rule, name, text) of every job of the workflow, by its log."""
    place = folder.path / "logs" / folder.config["name"]
    for path in sorted(place.rglob("*.log")):
        rule, *names = path.relative_to(place).with_suffix("").parts
        yield (rule, "/".join(names), path.read_text()) if names else (rule, "all", path.read_text())


def slurm_job(log, jobs):
    """Return Slurm's job that a rule's log leads to."""
    number, node = re.search(r"\(Slurm job (\d+) on (\w+)\)", log).groups()
    assert jobs[number]["NodeList"] == node
    return jobs[number]


def devices(log):
    """Return the GPUs that a rule's log names."""
    found = re.search(r" GPU ([\d,]+)$", log, re.MULTILINE)
    return set(found[1].split(",")) if found else set()


def disjoint(pairs):
    """Compare the devices of (Slurm's job, its rule's log) pairs; return how many shared a node at the same time."""
    together = 0
    for (job, log), (other, another) in itertools.combinations(pairs, 2):
        apart = job["StartTime"] >= other["EndTime"] or other["StartTime"] >= job["EndTime"]
        if job["NodeList"] == other["NodeList"] and not apart:
            together += 1
            assert not devices(log) & devices(another), (job, other)
    return together


def built_where_it_belongs(folder, cluster, place_of):
    """Compare all jobs that a folder's build was with where they should have run; return Slurm's and those of GPUs.

    place_of(rule, name): (GPUs, GB of each, partition, card) of a job, by the name of its log. Returned are number →
    Slurm's job, and (Slurm's job, log of its rule) pairs.
    """
    jobs = {job["JobId"]: job for job in cluster.jobs(folder.path)}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert {job["Requeue"] for job in jobs.values()} == {"0"}
    alone, grouped, on_gpus = [], {}, []
    for rule, name, log in logs(folder):
        job = slurm_job(log, jobs)
        gpus, _, partition, card = place_of(rule, name)
        expected = (partition, f"gres:gpu:{card}:{gpus}" if gpus else None, gpus)
        assert (job["Partition"], job.get("TresPerJob"), len(devices(log))) == expected, (rule, name)
        if rule in GROUPS:
            # Scores of what was chosen by scores are a group of their own.
            kind, times = re.match(rf"rule_({GROUPS[rule]}(?:_(\d+))?)_", job["Comment"]).groups()
            assert bool(times) == (kind != GROUPS[rule])
            grouped.setdefault(kind, {}).setdefault(name, set()).add(job["JobId"])
        else:
            alone.append(job["JobId"])
        if gpus:
            on_gpus.append((job, log))
    # Tiny jobs of a kind share Slurm jobs; all others have one of their own.
    shared = {kind: set().union(*places.values()) for kind, places in grouped.items()}
    for kind, places in grouped.items():
        # What is done to one thing is done in one place, and several things share it; so do data sets of which one is
        # looked through for rows of the other.
        assert {len(numbers) for numbers in places.values()} == {1}
        most = math.ceil(len(places) / COMPONENTS[re.sub(r"_\d+$", "", kind)])
        assert len(shared[kind]) == most or (kind == "datasets" and len(shared[kind]) < most), kind
    assert sorted(itertools.chain(alone, *shared.values())) == sorted(jobs)
    return jobs, on_gpus
