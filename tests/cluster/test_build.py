"""The pico build through the slurm profile, on a real Slurm: every job where it belongs, with devices of its own."""

import json
import os
import re

import pytest

# Per model: GPUs, memory of each, and where that is in profiles/slurm/partitions.yaml.
PLACES = {
    "base": (1, 16, "gpu-24gb", "rtx_4090"),
    "advisor": (1, 40, "gpu-80gb", "a800"),
    "moods_sft": (2, 90, "gpu-96gb", "rtx_pro_6000"),
    "moods_full": (2, 70, "gpu-80gb", "a800"),
    "merged": (0, None, "cpu", None),
}


# Jobs that are given GPUs, by Slurm's comment, and their rules' logs.
LOGS = {
    "predict_labels_wildcards_labels_base": ("predict_labels", "labels/base"),
    "generate_guidelines_wildcards_own_words": ("generate_guidelines", "own_words"),
    "finetune_lora_wildcards_moods_sft": ("finetune_lora", "moods_sft"),
    "finetune_lora_wildcards_advisor": ("finetune_lora", "advisor"),
    "finetune_full_wildcards_moods_full": ("finetune_full", "moods_full"),
}


def asking(config):
    """Return a config whose models ask for GPUs as if they were large."""
    for model in config["models"]:
        gpus, memory, _, _ = PLACES[model["name"]]
        model["needs"] = {"gpus": gpus} | ({"gpu_mem_gb": memory} if memory else {})
    config["models"][4]["finetune"]["devices"] = 2
    return config


def disjoint(jobs):
    """Compare the devices of (Slurm's job, rule's log) pairs; return how many pairs shared a node at the same time."""
    seen = [
        (
            job["NodeList"],
            set(re.search(r" GPU ([\d,]+)$", log, re.MULTILINE)[1].split(",")),
            job["StartTime"],
            job["EndTime"],
        )
        for job, log in jobs
    ]
    together = 0
    for number, (node, devices, start, end) in enumerate(seen):
        for other_node, others, begin, finish in seen[:number]:
            if node == other_node and start < finish and begin < end:
                together += 1
                assert not devices & others, seen
    return together


def test_the_pico_build_runs_where_its_needs_call_for(folder, cluster):
    folder.config = asking(folder.config)
    run = folder.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Nothing to be done" in folder.snakemake("--dry-run").stdout
    jobs = {job["Comment"]: job for job in cluster.jobs(folder.path)}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert {job["Requeue"] for job in jobs.values()} == {"0"}

    at_work = {
        "predict_labels_wildcards_labels_base": "base",
        "predict_labels_wildcards_labels_merged": "merged",
        "generate_guidelines_wildcards_own_words": "base",
        "finetune_lora_wildcards_advisor": "advisor",
        "finetune_lora_wildcards_moods_sft": "moods_sft",
        "finetune_full_wildcards_moods_full": "moods_full",
    }
    for comment, model in at_work.items():
        gpus, _, partition, card = PLACES[model]
        job = jobs[f"rule_{comment}"]
        assert job["Partition"] == partition, comment
        if gpus:
            assert job["TresPerJob"] == f"gres:gpu:{card}:{gpus}", job
        else:
            assert "TresPerJob" not in job
    # What has no model at work has no GPU.
    rest = [job for comment, job in jobs.items() if comment.removeprefix("rule_") not in at_work]
    assert {job["Partition"] for job in rest} == {"cpu"} and not any("TresPerJob" in job for job in rest)
    # Tiny jobs share Slurm jobs: 24 jobs of the workflow, the last of which makes nothing.
    assert len(jobs) < 18

    # What was given GPUs saw so many of them; two jobs of one GPU on a node, at the same time, saw different ones.
    logs = {comment: folder.log(*place) for comment, place in LOGS.items()}
    assert re.search(r" GPU \d+,\d+$", logs["finetune_lora_wildcards_moods_sft"], re.MULTILINE)
    assert disjoint([(jobs[f"rule_{comment}"], log) for comment, log in logs.items()]) >= 1
    # Two processes trained one model, started inside the allocation.
    made = json.loads((folder.path / "results/pico/models/moods_full/train.json").read_text())
    assert made["recipe"]["devices"] == 2
    # A rule's log leads to Slurm's job.
    job = jobs["rule_finetune_lora_wildcards_advisor"]
    assert f"(Slurm job {job['JobId']} on {job['NodeList']})" in folder.log("finetune_lora", "advisor")


@pytest.mark.skipif(not os.environ.get("MOULT_CLUSTER_FAULTS"), reason="MOULT_CLUSTER_FAULTS is not set")
def test_many_jobs_side_by_side_see_disjoint_devices(folder, cluster):
    """Six jobs of one GPU on nodes of four: those of a node at the same time have different devices."""
    config = folder.config
    tuned = config["models"][2]
    names = [f"tuned_{number}" for number in range(6)]
    config["models"] += [tuned | {"name": name, "needs": {"gpus": 1, "gpu_mem_gb": 20}} for name in names]
    folder.config = config
    run = folder.snakemake(*(f"results/pico/adapters/{name}" for name in names))
    assert run.returncode == 0, run.stdout + run.stderr
    found = {job["Comment"]: job for job in cluster.jobs(folder.path)}
    jobs = {name: found[f"rule_finetune_lora_wildcards_{name}"] for name in names}
    assert {job["Partition"] for job in jobs.values()} == {"gpu-24gb"}
    assert disjoint([(job, folder.log("finetune_lora", name)) for name, job in jobs.items()]) >= 3
