"""Two jobs never share a GPU: leases of pretended devices, taken by processes that come, wait and are killed."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time

import pytest
from moult.base.errors import UserError
from moult.jobs.gpus import LOCKS, PRETENDED, check_cuda, leased, shared_folder, visible_devices
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
    assert visible_devices() == {}
    with leased(1, print, tmp_path) as held:
        assert held == [] and not list(tmp_path.iterdir())


def machine(folder, cards, files, models=()):
    """Write what a driver and /dev show: (place on the bus, minor, UUID) of each card; numbers of the device files."""
    for (place, minor, uuid), model in itertools.zip_longest(cards, models, fillvalue="NVIDIA H100"):
        information = folder / "proc/gpus" / place / "information"
        information.parent.mkdir(parents=True)
        information.write_text(f"Model: \t\t {model}\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n")
    (folder / "dev").mkdir()
    for number in files:
        (folder / f"dev/nvidia{number}").touch()
    for name in ("nvidiactl", "nvidia-uvm"):
        (folder / "dev" / name).touch()
    return {"proc": folder / "proc", "dev": folder / "dev"}


CARDS = [("0000:17:00.0", 1, "GPU-b"), ("0000:65:00.0", 0, "GPU-a"), ("0000:ca:00.0", 10, "GPU-c")]


@pytest.mark.parametrize(
    ("cards", "files", "found"),
    [
        (CARDS, [0, 1, 10], {"GPU-b": "0", "GPU-a": "1", "GPU-c": "2"}),
        # A container that was given one card of three: its file keeps the host's number, CUDA counts from 0.
        (CARDS, [10], {"GPU-c": "0"}),
        (CARDS[2:], [10], {"GPU-c": "0"}),
        ([], [0, 2, 10], {"0": "0", "2": "1", "10": "2"}),
        (CARDS, [], {}),
        # Before a card is first used, the driver may not tell its UUID.
        ([(*CARDS[0][:2], "GPU-????????"), CARDS[1]], [0, 1], {"1": "0", "GPU-a": "1"}),
    ],
)
def test_cards_are_named_by_uuid_and_counted_as_cuda_counts_them(monkeypatch, tmp_path, cards, files, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_devices(**machine(tmp_path, cards, files)) == found


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        # A card has one name for all jobs of the machine, whichever way each of them is limited to it.
        ("0,2", {"GPU-b": "0", "GPU-c": "2"}),
        ("GPU-c", {"GPU-c": "GPU-c"}),
        ("GPU-12ab-x, GPU-b", {"GPU-12ab-x": "GPU-12ab-x", "GPU-b": "GPU-b"}),
        ("MIG-4f,MIG-GPU-a/1/0", {"MIG-4f": "MIG-4f", "MIG-GPU-a/1/0": "MIG-GPU-a/1/0"}),
        # CUDA leaves out what follows a word that it does not know.
        ("1,-1,2", {"GPU-a": "1"}),
        ("1,3,2", {"GPU-a": "1"}),
        ("", {}),
        ("NoDevFiles", {}),
        ("all", {}),
    ],
)
def test_a_limit_changes_no_card_s_name(monkeypatch, tmp_path, limit, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", limit)
    assert visible_devices(**machine(tmp_path, CARDS, [0, 1, 10])) == found


def test_a_number_names_no_card_where_cuda_may_count_otherwise(monkeypatch, tmp_path):
    """Of unequal cards the fastest is CUDA's first, unless it is told to count by the bus."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    shown = machine(tmp_path, CARDS, [0, 1, 10], ["NVIDIA H100", "NVIDIA T4"])
    assert visible_devices(**shown) == {"1": "1"}
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert visible_devices(**shown) == {"GPU-a": "1"}


def test_the_beginning_of_a_uuid_is_enough(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa1,GPU-a")
    cards = [("0000:17:00.0", 0, "GPU-aa12"), ("0000:65:00.0", 1, "GPU-ab34")]
    assert visible_devices(**machine(tmp_path, cards, [0, 1])) == {"GPU-aa12": "GPU-aa1", "GPU-a": "GPU-a"}


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """A system's temporary place, and a folder of this user's that nobody else may change."""
    place, private = tmp_path / "tmp", tmp_path / "private"
    place.mkdir()
    private.mkdir(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place, private


def test_the_shared_folder_is_made_for_all_users_and_locks_are_no_more_than_readable(temporary):
    mask = os.umask(0o077)
    try:
        with leased(1, print):
            (folder,) = temporary[0].iterdir()
            (lock,) = folder.iterdir()
            assert (folder.name, folder.stat().st_mode & 0o7777) == ("moult-gpus", 0o1777)
            assert lock.stat().st_mode & 0o7777 == 0o644
    finally:
        os.umask(mask)


def test_no_link_is_followed_and_nothing_that_exists_changes_its_mode(temporary):
    place, private = temporary
    (place / "moult-gpus").symlink_to(private)
    with leased(1, print):
        assert (place / f"moult-gpus-{os.getuid()}" / "0.lock").exists()
    assert private.stat().st_mode & 0o7777 == 0o700 and not list(private.iterdir())
    own = private / "own"
    own.write_text("mine")
    own.chmod(0o600)
    lock = place / f"moult-gpus-{os.getuid()}" / "0.lock"
    for make in (lambda: lock.symlink_to(own), lambda: lock.hardlink_to(own), lambda: os.mkfifo(lock), lock.mkdir):
        shutil.rmtree(lock) if lock.is_dir() and not lock.is_symlink() else lock.unlink()
        make()
        with pytest.raises(UserError, match="0.lock: does not serve as lock of a GPU"), leased(1, print):
            pass
        assert own.stat().st_mode & 0o7777 == 0o600 and own.read_text() == "mine"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_used_only_where_nobody_can_remove_another_s_files(temporary):
    shared = temporary[0] / "moult-gpus"
    shared.mkdir()
    os.chown(shared, 12345, 12345)
    shared.chmod(0o777)
    assert shared_folder().name == "moult-gpus-0"
    shared.chmod(0o1777)
    assert shared_folder() == shared
    shared.chmod(0o777)
    os.chown(temporary[0] / "moult-gpus-0", 12345, 12345)
    with pytest.raises(UserError, match="are no folders of this user.*export TMPDIR"):
        shared_folder()


def test_a_wait_has_an_end(holder, tmp_path):
    assert says(holder(4))[0] == "holds"
    told = []
    with (
        pytest.raises(UserError, match="needs 1 GPUs, and others have had 0, 1, 2, 3 for .* hours .*run again later"),
        leased(1, told.append, tmp_path, patience=0.3),
    ):
        pass
    assert len(told) == 1 and told[0].startswith("waiting for 1 of the GPUs 0, 1, 2, 3")


def test_a_job_whose_gpus_torch_cannot_use_says_so(monkeypatch, tmp_path):
    """This torch is built for the CPU, or this machine has no driver: both are told with driver, CUDA and remedy."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n")
    with pytest.raises(UserError) as caught:
        check_cuda(["GPU-a"], tmp_path)
    assert str(caught.value).startswith(
        "this job was given GPUs (GPU-a), and torch cannot use them (driver: 550.54.14; torch"
    )
    assert "its CUDA: " in str(caught.value) and str(caught.value).endswith("`needs: {gpus: 0}`.")
    with pytest.raises(UserError, match="driver: none that is to be seen here"):
        check_cuda(["GPU-a"], tmp_path / "nowhere")
    monkeypatch.setenv(PRETENDED, "1")
    check_cuda(["GPU-a"], tmp_path)


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
