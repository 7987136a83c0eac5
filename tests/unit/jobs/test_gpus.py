"""Two jobs never share a GPU: leases of pretended devices, taken by processes that come, wait and are killed."""

import os
import subprocess
import sys
import time

import pytest
from moult.base.errors import UserError
from moult.jobs.gpus import LOCKS, leased, visible_devices
from moult.jobs.slurm import allocation

HOLDER = """
import sys, time
from pathlib import Path
from moult.jobs.gpus import leased
with leased(int(sys.argv[1]), lambda words: print("waits", flush=True), Path(sys.argv[2])) as held:
    print("holds", *held, flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture(autouse=True)
def four(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def holder(tmp_path):
    """Return a function that starts a process which holds so many GPUs until its input ends."""
    started = []

    def start(count):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", HOLDER, str(count), tmp_path]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def says(process):
    return process.stdout.readline().split()


def test_leases_are_disjoint_and_a_killed_job_s_devices_are_free_at_once(holder, tmp_path):
    first, second = holder(2), holder(1)
    held = says(first)[1:] + says(second)[1:]
    assert len(set(held)) == 3
    third = holder(2)
    assert says(third) == ["waits"]
    # It holds nothing while it waits: what it could not use alone is another's.
    with leased(1, print, tmp_path) as last:
        assert set(last) | set(held) == {"0", "1", "2", "3"}
        assert os.environ["CUDA_VISIBLE_DEVICES"] == last[0]
    second.kill()
    assert says(third)[0] == "holds"


def test_a_device_is_held_until_the_last_process_that_was_given_it_has_ended(holder, tmp_path):
    with leased(4, print, tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=LOCKS)
    waiting = holder(1)
    assert says(waiting) == ["waits"]
    child.communicate(b"\n")
    assert says(waiting)[0] == "holds"


def test_it_gives_back_what_it_found(tmp_path):
    with leased(3, print, tmp_path) as held:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2" and held == ["0", "1", "2"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3" and not LOCKS


def test_more_than_there_are_is_refused(tmp_path):
    with (
        pytest.raises(UserError, match=r"needs 5 GPUs, and this machine shows 4 \(0, 1, 2, 3\)"),
        leased(5, print, tmp_path),
    ):
        pass


def test_no_gpu_is_no_lease(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_devices() == []
    with leased(1, print, tmp_path) as held:
        assert held == [] and not list(tmp_path.iterdir())


def test_a_cluster_has_chosen_already(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    assert allocation() == "Slurm job 17 on n1"
    with leased(1, print, tmp_path) as held:
        assert held == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_many_jobs_in_a_hurry(holder, tmp_path):
    """Twelve processes, four devices, each held for a moment: at any time a device has one holder."""
    code = HOLDER.replace(
        "sys.stdin.read(1)",
        "place = Path(sys.argv[2], 'in-use-' + held[0]); place.mkdir(); time.sleep(0.05); place.rmdir()",
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    jobs = [subprocess.Popen([sys.executable, "-c", code, "1", tmp_path], env=environment) for _ in range(12)]
    deadline = time.monotonic() + 60
    assert [job.wait(deadline - time.monotonic()) for job in jobs] == [0] * 12
