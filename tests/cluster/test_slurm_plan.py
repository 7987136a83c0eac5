"""What a build would be on Slurm: planned through the slurm profile, which needs no Slurm."""

import os
import re
import sys

import pytest
import warm
from pico_build import ROOT
from pico_variants import write_swept
from slurm_cluster import ClusterFolder

# The table of docs/cluster.md: config, jobs, how many of them share how many Slurm jobs, Slurm jobs in all.
TABLE = re.findall(
    r"^\| `(config/\S+)`.*? \| (\d+) \| (\d+), in (\d+) groups \| (\d+)",
    (ROOT / "docs" / "cluster.md").read_text(),
    re.MULTILINE,
)


OTHERS = {str(path.relative_to(ROOT)) for path in (ROOT / "config").glob("*/*.yaml")} - {row[0] for row in TABLE}


def planned(config):
    """Return what Snakemake prints of a whole build on Slurm; it refuses one in which a group is entered again."""
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--configfile", config, "--dry-run"]
    command += ["--forceall", "--nolock"]
    run = warm.run(command, cwd=ROOT, env=os.environ | {"SLURM_ACCOUNT": ""})
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(("config", "jobs", "grouped", "groups", "slurm_jobs"), TABLE)
def test_tiny_jobs_share_slurm_jobs_and_catch_nothing_between_them(config, jobs, grouped, groups, slurm_jobs):
    told = planned(config)
    inside, alone = (re.findall(rf"^{indent}Job \d+: (\w+):", told, re.MULTILINE) for indent in ("    ", ""))
    together = re.findall(r" Group job (\w+) ", told)
    assert [len(inside) + len(alone), len(inside), len(together), len(alone) + len(together)] == [
        int(number) for number in (jobs, grouped, groups, slurm_jobs)
    ]


@pytest.mark.soak
@pytest.mark.parametrize("config", sorted(OTHERS))
def test_every_experiment_is_planned_on_slurm(config):
    assert "This was a dry-run" in planned(config)


def test_scores_that_choose_share_no_slurm_job_with_scores_of_what_is_chosen(tmp_path):
    """By the same suite, and chosen twice: Snakemake would refuse to put these thirteen into two Slurm jobs."""
    write_swept(tmp_path)
    folder = ClusterFolder(tmp_path, None)
    config = folder.config
    config["models"].append({"name": "last", "select": {"among": ["soup", "left"], "suite": "dev"}})
    config["evaluations"][0]["models"] += ["best", "soup", "last"]
    config["evaluations"][1]["models"] += ["last"]
    folder.config = config
    run = folder.snakemake("--dry-run")
    assert run.returncode == 0, run.stdout + run.stderr
    scored = {}
    for name, jobs in re.findall(r"Group job (scores\w*) .*\n((?:    .*\n|\n)+)", run.stdout):
        scored[name] = {" on ".join(one) for one in re.findall(r": scoring (\S+) on (\S+) ", jobs)}
    assert {name: {one for one in made if "grid" not in one} for name, made in scored.items()} == {
        "scores": {"left on dev"},
        "scores_1": {"best on dev", "soup on dev", "best on test", "soup on test"},
        "scores_2": {"last on dev", "last on test"},
    }
    assert len(scored["scores"]) == 7
