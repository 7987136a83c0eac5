"""The pico build through the slurm profile, on a real Slurm: every job where it belongs, with devices of its own."""

import json

import pytest
from slurm_cluster import AT_LENGTH, disjoint, slurm_job
from slurm_parts import PARTS


@pytest.mark.parametrize("name", ["small", pytest.param("whole", marks=AT_LENGTH)])
def test_the_pico_build_runs_where_its_needs_call_for(name, build):
    folder, jobs, on_gpus = build(name)
    # Every card that a model asks for was given.
    places = PARTS[name].places
    cards = {places[model["name"]][3] for model in folder.config["models"] if model["name"] in places}
    assert {job["TresPerJob"].split(":")[2] for job, _ in on_gpus} == cards
    kinds = {job["Comment"].removeprefix("rule_").partition("_")[0] for job in jobs.values()}
    assert kinds >= {"datasets", "scores", "plots"}
    # Jobs of one node, at the same time, saw different devices.
    assert disjoint(on_gpus) >= 1
    if name == "whole":
        # Two processes trained one model, started inside the allocation.
        made = json.loads((folder.path / "results/pico/models/moods_full/train.json").read_text())
        assert made["recipe"]["devices"] == 2


@AT_LENGTH
def test_many_jobs_side_by_side_see_disjoint_devices(folder, cluster):
    """Six jobs of one GPU on nodes of four: those of a node at the same time have different devices."""
    config = folder.config
    tuned = config["models"][2]
    names = [f"tuned_{number}" for number in range(6)]
    config["models"] += [tuned | {"name": name, "needs": {"gpus": 1, "gpu_mem_gb": 20}} for name in names]
    folder.config = config
    run = folder.snakemake(*(f"results/pico/adapters/{name}" for name in names))
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = {job["JobId"]: job for job in cluster.jobs(folder.path)}
    pairs = [(slurm_job(log, jobs), log) for log in (folder.log("finetune_lora", name) for name in names)]
    assert {job["Partition"] for job, _ in pairs} == {"gpu-24gb"}
    assert disjoint(pairs) >= 3
