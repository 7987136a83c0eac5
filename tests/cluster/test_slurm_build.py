"""The pico build through the slurm profile, on a real Slurm: every job where it belongs, with devices of its own."""

import itertools
import json
import math
import os
import re

import pytest
import yaml
from pico_build import ROOT

# Per model: GPUs, memory of each, and where that is in profiles/slurm/partitions.yaml. Other models ask for none.
PLACES = {
    "base": (1, 16, "gpu-24gb", "rtx_4090"),
    "advisor": (1, 40, "gpu-80gb", "a800"),
    "moods_sft": (2, 90, "gpu-96gb", "rtx_pro_6000"),
    "moods_full": (2, 70, "gpu-80gb", "a800"),
}
NOWHERE = (0, None, "cpu", None)
# What takes minutes is no part of `make test`.
AT_LENGTH = pytest.mark.skipif(not os.environ.get("MOULT_CLUSTER_FAULTS"), reason="MOULT_CLUSTER_FAULTS is not set")
PROFILE = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())
GROUPS, COMPONENTS = PROFILE["groups"], PROFILE["group-components"]


def whole(config):
    """Return a config as it is, with a further judge of corpora, which is a model of the build and also judges two
    models head to head."""
    judge = config["suites"][2]["judge"]
    judge["judges"] = [judge.pop("endpoint"), "student"]
    judge["decoding"] = {"max_tokens": 1000}
    questions = str(ROOT / "resources/demo/head_to_head/alpaca.json")
    heads = {"kind": "alpaca", "questions": questions, "endpoint": "student", "decoding": {"max_tokens": 8}}
    config["suites"].append({"name": "heads", "head_to_head": heads})
    config["evaluations"].append({"suite": "heads", "models": ["base", "advisor"]})
    return config


def small(config):
    """Return the least of a config that is a build still: one training, and two predictions to run side by side."""
    config["datasets"], config["corpora"], config["endpoints"] = config["datasets"][1:], [], []
    config["models"] = [model for model in config["models"] if model["name"] in ("base", "moods_sft")]
    config["suites"] = [config["suites"][0], config["suites"][0] | {"name": "again"}]
    config["evaluations"] = [{"suite": suite["name"], "models": ["base"]} for suite in config["suites"]]
    return config


def asking(config):
    """Return a config whose models ask for GPUs as if they were large."""
    for model in config["models"]:
        gpus, memory, _, _ = PLACES.get(model["name"], NOWHERE)
        model["needs"] = {"gpus": gpus} | ({"gpu_mem_gb": memory} if memory else {})
        if model["name"] == "moods_full":
            model["finetune"]["devices"] = gpus
    return config


def model_at_work(config, rule, name):
    """Return the model that a job loads by what its rule does, None if it loads none; `name` is that of its log."""

    def find(kind, name):
        return next(one for one in config[kind] if one["name"] == name)

    if rule == "judge_battles":
        return "base"
    if rule in ("predict_labels", "answer_questions", "answer_turns", "finetune_lora", "finetune_full"):
        return name.rpartition("/")[2]
    if rule in ("generate_guidelines", "distill_answers"):
        return find("endpoints", find("corpora", name)["endpoint"]).get("serve")
    if rule == "judge_again":
        return find("endpoints", name.rpartition("/")[2]).get("serve")
    if rule == "judge_answers":
        judge = find("suites", name.partition("/")[0])["judge"]
        return find("endpoints", judge.get("endpoint") or judge["judges"][0]).get("serve")
    return None


def logs(folder):
    """Yield (rule, name, text) of every job of the workflow, by its log."""
    place = folder.path / "logs" / "pico"
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


@pytest.mark.parametrize("part", [small, pytest.param(whole, marks=AT_LENGTH)])
def test_the_pico_build_runs_where_its_needs_call_for(part, folder, cluster):
    folder.config = config = asking(part(folder.config))
    run = folder.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Nothing to be done" in folder.snakemake("--dry-run").stdout
    jobs = {job["JobId"]: job for job in cluster.jobs(folder.path)}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert {job["Requeue"] for job in jobs.values()} == {"0"}

    alone, grouped, on_gpus = [], {}, []
    for rule, name, log in logs(folder):
        job = slurm_job(log, jobs)
        gpus, _, partition, card = PLACES.get(model_at_work(config, rule, name), NOWHERE)
        expected = (partition, f"gres:gpu:{card}:{gpus}" if gpus else None, gpus)
        assert (job["Partition"], job.get("TresPerJob"), len(devices(log))) == expected, (rule, name)
        if rule in GROUPS:
            grouped.setdefault(GROUPS[rule], {}).setdefault(name, set()).add(job["JobId"])
        else:
            alone.append(job["JobId"])
        if gpus:
            on_gpus.append((job, log))
    # Every card that a model asks for was given.
    cards = {PLACES.get(model["name"], NOWHERE)[3] for model in config["models"]} - {None}
    assert {job["TresPerJob"].split(":")[2] for job, _ in on_gpus} == cards
    # Tiny jobs of a kind share Slurm jobs; all others have one of their own.
    assert set(grouped) >= {"datasets", "scores", "plots"}
    shared = {kind: set().union(*places.values()) for kind, places in grouped.items()}
    for kind, places in grouped.items():
        # What is done to one thing is done in one place, and several things share it.
        assert {len(numbers) for numbers in places.values()} == {1}
        assert len(shared[kind]) == math.ceil(len(places) / COMPONENTS[kind]), kind
    assert sorted(itertools.chain(alone, *shared.values())) == sorted(jobs)
    # Jobs of one node, at the same time, saw different devices.
    assert disjoint(on_gpus) >= 1
    if part is whole:
        # Two processes trained one model, started inside the allocation.
        made = json.loads((folder.path / "results/pico/models/moods_full/train.json").read_text())
        assert made["recipe"]["devices"] == 2


@AT_LENGTH
def test_samples_their_scores_and_pairs_run_where_their_needs_call_for(folder, cluster):
    config = folder.config
    config["corpora"] = [
        {"name": "said", "kind": "samples", "dataset": "questions", "endpoint": "student", "samples": 3}
        | {"decoding": {"temperature": 1.0, "max_tokens": 8}},
        {"name": "graded", "kind": "scored", "corpus": "said", "endpoint": "teacher"},
        {"name": "paired", "kind": "preferences", "target": "graded", "pairing": "best_worst", "truncated": "keep"},
    ]
    config["models"], config["suites"], config["evaluations"] = config["models"][:1], [], []
    folder.config = asking(config)
    run = folder.snakemake("corpora")
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = {job["JobId"]: job for job in cluster.jobs(folder.path)}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    wanted = {"sample_responses": "gpu-24gb", "score_responses": "cpu", "build_preferences": "cpu"}
    found = {rule: slurm_job(log, jobs)["Partition"] for rule, _, log in logs(folder) if rule in wanted}
    assert found == wanted


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
