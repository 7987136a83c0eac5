"""Faults on a real Slurm: each ends in the right result, with one writer at a time and nothing done twice.

Opt-in (MOULT_CLUSTER_FAULTS=1, `make test-cluster`): Slurm itself takes its time to notice most of them.
"""

import os
import re
import shutil
import signal
import subprocess

import pytest
from pico_build import Folder
from slurm_cluster import AT_LENGTH, ClusterFolder

pytestmark = AT_LENGTH

TARGET = "results/pico/adapters/moods_sft"


@pytest.fixture(scope="module")
def prepared(inputs, tmp_path_factory, server):
    """The inputs of every training, made on this machine."""
    folder = Folder(shutil.copytree(inputs, tmp_path_factory.mktemp("prepared") / "work"), server)
    run = folder.snakemake("datasets", "results/pico/models/base")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared):
    """The bytes of the adapter that every fault must end in."""
    slow_training(prepared)
    run = prepared.snakemake(TARGET)
    assert run.returncode == 0, run.stdout + run.stderr
    bytes_of = adapter(prepared)
    shutil.rmtree(prepared.path / TARGET)
    (prepared.path / f"{TARGET}.manifest.json").unlink()
    return bytes_of


def slow_training(folder, steps=400, **needs):
    config = folder.config
    config["models"][2]["finetune"] |= {"max_steps": steps, "evaluate_every": 20}
    config["models"][2]["needs"] = {"gpus": 1, "gpu_mem_gb": 16} | needs
    folder.config = config


def adapter(folder):
    return (folder.path / TARGET / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def training(prepared, undisturbed, tmp_path, server, cluster):
    """A folder in which one training is left to do, on the cluster."""
    folder = ClusterFolder(shutil.copytree(prepared.path, tmp_path / "work"), server)
    shutil.rmtree(folder.path / "scratch", ignore_errors=True)
    slow_training(folder)
    return folder


def checkpointed(training, cluster):
    """Start the build, and wait until its training has left a checkpoint; return (scheduler, Slurm's job)."""
    scheduler = training.start(TARGET)
    cluster.wait(lambda: any((training.path / "scratch").rglob("whole.json")))
    return scheduler, cluster.jobs(training.path)[-1]


def ends_well(training, scheduler, undisturbed, cluster):
    """Wait for the build; whole, of the right bytes, resumed, and with one job at a time. Return what it said."""
    status = scheduler.wait(600)
    said = (training.path / "run.log").read_text()
    assert status == 0, said
    assert adapter(training) == undisturbed
    assert re.search(r"resuming after checkpoint-\d+", training.log("finetune_lora", "moods_sft")), said
    one_at_a_time(training, cluster)
    return said


def one_at_a_time(training, cluster):
    spans = [(job["StartTime"], job["EndTime"]) for job in cluster.jobs(training.path) if "finetune" in job["Comment"]]
    assert len(spans) > 1 and all(earlier[1] <= later[0] for earlier, later in zip(spans, spans[1:], strict=False)), (
        spans
    )


def process_of(training):
    lock = training.path / "scratch/locks/finetune_lora/moods_sft.lock"
    return int(re.search(r"process (\d+)", lock.read_text())[1])


def state(cluster, job):
    return next(one["JobState"] for one in cluster.jobs(job["WorkDir"]) if one["JobId"] == job["JobId"])


def test_a_killed_job_is_submitted_again_and_resumes(training, cluster, undisturbed):
    scheduler, job = checkpointed(training, cluster)
    os.kill(process_of(training), signal.SIGKILL)
    said = ends_well(training, scheduler, undisturbed, cluster)
    assert state(cluster, job) == "FAILED"
    # The run's log leads to Slurm's, which is there.
    log = re.search(rf"logs/slurm/\S+/{job['JobId']}\.log", said)[0]
    assert (training.path / log).exists()


def test_scancel_is_a_failure_like_another(training, cluster, undisturbed):
    scheduler, job = checkpointed(training, cluster)
    cluster.ask("scancel", job["JobId"])
    ends_well(training, scheduler, undisturbed, cluster)
    assert state(cluster, job) == "CANCELLED"


def test_a_dead_node_s_job_goes_on_elsewhere(training, cluster, undisturbed):
    scheduler, job = checkpointed(training, cluster)
    cluster.script("kill-node", job["NodeList"])
    try:
        ends_well(training, scheduler, undisturbed, cluster)
        assert state(cluster, job) == "NODE_FAIL"
        assert cluster.jobs(training.path)[-1]["NodeList"] != job["NodeList"]
    finally:
        cluster.script("start-node", job["NodeList"])
        cluster.wait(lambda: "idle" in cluster.ask("sinfo", "-h", "-N", "-n", job["NodeList"], "-o", "%t"))


def test_too_little_memory_is_more_the_next_time(training, cluster, undisturbed):
    slow_training(training, mem_gb=0.45)
    scheduler = training.start(TARGET)
    assert scheduler.wait(600) == 0, (training.path / "run.log").read_text()
    jobs = cluster.jobs(training.path)
    assert [one["MinMemoryNode"] for one in jobs] == ["450M", "675M", "1013M"][: len(jobs)] and len(jobs) > 1
    # The step is ended for it; whether the job is then OUT_OF_MEMORY or FAILED depends on whose memory it was.
    assert {one["JobState"] for one in jobs[:-1]} <= {"OUT_OF_MEMORY", "FAILED"}
    assert "exceeded memory limit" in (cluster.state / "log" / f"slurmd-{jobs[0]['NodeList']}.log").read_text()
    assert adapter(training) == undisturbed
    one_at_a_time(training, cluster)


def test_a_time_limit_is_where_the_next_job_goes_on(training, cluster, undisturbed):
    """Four minutes, so that a busy machine has begun by then; the training is frozen for the rest of them."""
    slow_training(training, hours=4 / 60)
    scheduler, job = checkpointed(training, cluster)
    os.kill(process_of(training), signal.SIGSTOP)
    cluster.wait(lambda: state(cluster, job) == "TIMEOUT", 400)
    ends_well(training, scheduler, undisturbed, cluster)
    assert [one["TimeLimit"] for one in cluster.jobs(training.path)[:2]] == ["00:04:00", "00:08:00"]


def test_a_killed_scheduler_s_successor_takes_over(training, cluster, undisturbed):
    """The job outlives its scheduler; the next one cancels it, and its own goes on from the checkpoint."""
    scheduler, job = checkpointed(training, cluster)
    scheduler.kill()
    scheduler.wait()
    assert "Nothing" not in training.snakemake(TARGET, "--dry-run").stdout and state(cluster, job) == "RUNNING"
    scheduler = training.start(TARGET)
    said = ends_well(training, scheduler, undisturbed, cluster)
    assert f"cancelling what a scheduler that is gone left behind: Slurm jobs {job['JobId']}" in said
    assert state(cluster, job) == "CANCELLED"


def test_another_experiment_of_the_folder_leaves_its_jobs_alone(training, cluster, undisturbed):
    """Whether the first one's scheduler is alive or gone: its job goes on, and its successor alone cancels it."""
    scheduler, job = checkpointed(training, cluster)
    # Else it may be done before the others are.
    os.kill(process_of(training), signal.SIGSTOP)
    first = training.config
    second = ClusterFolder(training.path, training.server)
    for number, gone in enumerate((False, True)):
        if gone:
            scheduler.kill()
            scheduler.wait()
        second.config = first | {"name": "second", "seed": number}
        run = second.snakemake("results/second/datasets/moods")
        assert run.returncode == 0, run.stdout + run.stderr
        assert "cancel" not in run.stdout + run.stderr and state(cluster, job) == "RUNNING"
    second.config = first
    said = ends_well(training, training.start(TARGET), undisturbed, cluster)
    assert f"left behind: Slurm jobs {job['JobId']}" in said and state(cluster, job) == "CANCELLED"


def test_what_finished_without_a_scheduler_is_not_made_again(training, cluster, undisturbed):
    scheduler, job = checkpointed(training, cluster)
    scheduler.kill()
    scheduler.wait()
    cluster.wait(lambda: state(cluster, job) == "COMPLETED")
    run = training.snakemake(TARGET)
    assert "Nothing to be done" in run.stdout + run.stderr
    assert adapter(training) == undisturbed and cluster.jobs(training.path)[-1]["JobId"] == job["JobId"]


def test_a_controller_that_is_away_for_a_while_loses_nothing(training, cluster, undisturbed):
    """Longer than five questions in a row, after which the executor plugin would forget its jobs."""
    scheduler, job = checkpointed(training, cluster)
    cluster.script("restart-controller", "75")
    assert scheduler.wait(600) == 0, (training.path / "run.log").read_text()
    assert adapter(training) == undisturbed
    assert state(cluster, job) == "COMPLETED" and cluster.jobs(training.path)[-1]["JobId"] == job["JobId"]


def test_no_fitting_place_is_said_before_anything_is_submitted(training, cluster):
    slow_training(training, gpu_mem_gb=200)
    run = training.snakemake(TARGET)
    assert run.returncode != 0 and not cluster.jobs(training.path)
    assert "finetune_lora moods_sft needs 1 GPU of 200 GB" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_several_nodes_train_one_model(training, cluster, undisturbed):
    """Two nodes with two GPUs each: four processes, started by srun, that end as one."""
    config = training.config
    config["models"][2]["finetune"] |= {"devices": 4, "max_steps": 6, "evaluate_every": 3, "batch_size": 1}
    config["models"][2]["needs"] = {"gpus": 4, "gpu_mem_gb": 70, "nodes": 2}
    training.config = config
    run = training.snakemake(TARGET)
    log = training.log("finetune_lora", "moods_sft")
    assert run.returncode == 0, run.stdout + run.stderr + log
    job = cluster.jobs(training.path)[-1]
    nodes = cluster.ask("scontrol", "show", "hostnames", job["NodeList"]).split()
    assert (nodes, job["Partition"]) == (["a8001", "a8002"], "gpu-80gb")
    assert job["TresPerJob"] == "gres:gpu:a800:4"
    assert "step 6 of 6" in log and re.search(r" GPU \d+,\d+$", log, re.MULTILINE)
    assert subprocess.run(["pgrep", "-f", "moult.training.worker"], capture_output=True, check=False).returncode == 1
