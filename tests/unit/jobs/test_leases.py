"""Leases hold where the disk grants every lock: between real processes, on one machine and as between two."""

import os
import subprocess
import sys
import time

import pytest
from moult.base.errors import UserError
from moult.base.processes import Process
from moult.jobs import leases, locks
from moult.jobs.leases import Lease, Presence
from moult.jobs.locks import Alive, clear_stale_locks, only_writer

# Stands for a disk that grants every lock.
GRANTS_ALL = "import fcntl; fcntl.flock = lambda *given: None\n"
COUNT = """
import sys, time
from pathlib import Path
from moult.jobs.locks import only_writer
for _ in range(5):
    with only_writer(sys.argv[1], lambda sentence: None):
        count = int(Path(sys.argv[2]).read_text())
        time.sleep(0.02)
        Path(sys.argv[2]).write_text(str(count + 1))
"""
HOLD = """
import sys, time
from moult.jobs.leases import Lease
Lease(sys.argv[1]).take()
print("held", flush=True)
time.sleep(60)
"""
# As on another machine: in a container, whose processes are not seen from outside.
ELSEWHERE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
apart = pytest.mark.skipif(
    subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode != 0,
    reason="no process may have a numbering of its own here",
)


def start(code, *arguments, before=()):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("elsewhere", [pytest.param(ELSEWHERE, marks=apart, id="two machines"), ()])
def test_one_process_at_a_time_where_every_lock_is_granted(tmp_path, elsewhere):
    (tmp_path / "count").write_text("0")
    given = tmp_path / "a.lock", tmp_path / "count"
    writers = [start(GRANTS_ALL + COUNT, *given, before=before) for before in (elsewhere, (), ())]
    assert [writer.wait(60) for writer in writers] == [0] * 3
    assert (tmp_path / "count").read_text() == "15"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "count"]


@pytest.mark.parametrize("before", [pytest.param(ELSEWHERE, marks=apart, id="two machines"), ()])
def test_the_lease_of_a_dead_process_is_taken_over(monkeypatch, tmp_path, before):
    monkeypatch.setattr(leases, "LAPSE", 2.0)
    holder = start(HOLD, tmp_path / "a", before=before)
    assert holder.stdout.readline() == "held\n"
    lease = Lease(tmp_path / "a")
    assert lease.take().alive
    holder.kill()
    holder.wait()
    told, begun = [], time.monotonic()
    lease.wait(told.append)
    # Where its end is seen nobody waits; else a sign of life is waited for.
    assert bool(told) == bool(before) == (time.monotonic() - begun > 1)
    lease.give_up()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_grants_every_lock_is_found_out(tmp_path):
    holder = start(HOLD, tmp_path / "a.lock.lease")
    assert holder.stdout.readline() == "held\n"
    told = []

    def tell(sentence):
        told.append(sentence)
        holder.kill()

    with only_writer(tmp_path / "a.lock", tell):
        (sentence,) = told
        assert sentence.startswith(f"{locks.ODD}waiting for process {holder.pid} on {Process.own().host}, which is at")
    holder.wait()


def test_a_wait_that_has_an_end_says_for_whom(tmp_path):
    first = Lease(tmp_path / "a")
    first.take()
    with pytest.raises(UserError, match=rf"a: process {os.getpid()} on .* has it still after 0 s; end that"):
        Lease(tmp_path / "a").wait(print, patience=0)
    first.give_up()


def test_who_was_taken_for_dead_ends(tmp_path):
    """A process that was stopped for long goes on: another one has its place, and it must not write any more."""
    code = "from moult.jobs import leases\nleases.BEAT = 0.05\n" + HOLD
    holder = start(code, tmp_path / "a")
    assert holder.stdout.readline() == "held\n"
    (tmp_path / "a").write_text("elsewhere-7-00000000-7\nx\n")
    assert holder.wait(30) == 1


def test_a_lease_that_another_took_meanwhile_is_put_back(tmp_path):
    dead = leases.Holder("vm-1-00000000-1\nx\n", None, False)
    other = Lease(tmp_path / "a")
    other.take()
    Lease(tmp_path / "a")._remove(dead)
    assert (tmp_path / "a").read_text() == other.text and len(list(tmp_path.iterdir())) == 1
    other.give_up()


def test_a_disk_without_links_has_leases_too(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "link", lambda *given: exec("raise PermissionError"))
    first, second = Lease(tmp_path / "a"), Lease(tmp_path / "a")
    assert first.take() is None and str(second.take()) == f"process {os.getpid()} on {Process.own().host}"
    first.give_up()
    assert second.take() is None
    second.give_up()


def test_what_is_no_file_to_lock_is_told(tmp_path):
    (tmp_path / "a.lock").mkdir()
    with (
        pytest.raises(UserError, match="is no file to lock .*; remove it"),
        only_writer(tmp_path / "a.lock", print),
    ):
        pass


def test_of_schedulers_that_all_have_the_lock_one_is_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(locks.fcntl, "flock", lambda *given: None)
    with clear_stale_locks(tmp_path) as first:
        assert first.alone
        lock = tmp_path / "locks" / "0.output.lock"
        lock.parent.mkdir()
        lock.write_text("results/a")
        with clear_stale_locks(tmp_path) as second:
            assert not second.alone and lock.exists()
    with clear_stale_locks(tmp_path) as third:
        assert third.alone and not lock.exists()


@apart
def test_a_scheduler_of_another_machine_is_waited_for_as_long_as_it_may_be_alive(monkeypatch, tmp_path):
    for module in (leases, locks):
        monkeypatch.setattr(module, "LAPSE", 2.0)
    code = HOLD.replace("Lease(sys.argv[1])", "Presence(Path(sys.argv[1]))").replace("import Lease", "import Presence")
    there = start("from pathlib import Path\n" + code, tmp_path / "alive", before=ELSEWHERE)
    assert there.stdout.readline() == "held\n"
    there.kill()
    there.wait()
    told = []
    with Alive(tmp_path, told.append) as here:
        assert here.alone
    assert len(told) == 1 and "waiting for 2 s to see whether process " in told[0]


def test_those_who_are_there_see_each_other(tmp_path):
    one, other = Presence(tmp_path), Presence(tmp_path)
    assert [holder.runs for holder in one.others()] == [True]
    other.give_up()
    assert one.others() == []
    one.give_up()
