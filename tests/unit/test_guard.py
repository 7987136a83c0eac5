"""Jobs die with their scheduler, wait for each other, and locks of the dead are cleared; with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from moult.guard import clear_stale_locks

SCRIPTS = Path(__file__).parents[2] / "scripts"


def start(code, *arguments, **options):
    """Run Python code in a process of its own, its output to be read line by line."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


HOLD = """
import time
from moult.guard import only_writer
with only_writer(sys.argv[1], lambda sentence: print(sentence, flush=True)):
    print("at work", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_second_writer_waits_and_says_for_whom(tmp_path):
    first = start(HOLD, tmp_path / "a.lock", 60)
    assert first.stdout.readline() == "at work\n"
    second = start(HOLD, tmp_path / "a.lock", 0)
    assert f"waiting for process {first.pid} on " in second.stdout.readline()
    first.kill()
    assert second.stdout.readline() == "at work\n"
    assert second.wait(30) == 0
    first.wait()


def test_writers_of_other_artefacts_do_not_wait(tmp_path):
    first = start(HOLD, tmp_path / "a.lock", 60)
    assert first.stdout.readline() == "at work\n"
    second = start(HOLD, tmp_path / "b.lock", 0)
    assert second.communicate(timeout=30)[0] == "at work\n"
    first.kill()
    first.wait()


def test_a_job_dies_with_its_scheduler(tmp_path):
    job = tmp_path / "job.py"
    job.write_text(
        f"import os, sys, time; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from moult.guard import die_with_scheduler\n"
        "die_with_scheduler()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    # Snakemake starts jobs through bash, which outlives it.
    snakemake = tmp_path / "snakemake"
    snakemake.write_text(f"import subprocess\nsubprocess.run(['bash', '-c', '{sys.executable} {job}; true'])\n")
    scheduler = subprocess.Popen([sys.executable, snakemake], stdout=subprocess.PIPE, text=True, start_new_session=True)
    pid = int(scheduler.stdout.readline())
    os.kill(pid, 0)
    scheduler.kill()
    scheduler.wait()
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end, "the job outlived its scheduler"
        time.sleep(0.02)


def test_a_process_without_a_scheduler_lives_on():
    code = "from moult.guard import die_with_scheduler; die_with_scheduler(); print('alive')"
    assert start(code).communicate(timeout=30)[0] == "alive\n"


SCHEDULE = """
import time
from moult.guard import clear_stale_locks
alive = clear_stale_locks(sys.argv[1])
print("up", flush=True)
time.sleep(60)
"""


def test_locks_are_cleared_only_when_no_scheduler_is_alive(tmp_path):
    schedulers = [start(SCHEDULE, tmp_path) for _ in range(2)]
    assert [scheduler.stdout.readline() for scheduler in schedulers] == ["up\n", "up\n"]
    lock = tmp_path / "locks" / "0.output.lock"
    lock.parent.mkdir()
    lock.write_text("results/a")
    schedulers[0].kill()
    schedulers[0].wait()
    clear_stale_locks(tmp_path).close()
    assert lock.exists()
    schedulers[1].send_signal(signal.SIGKILL)
    schedulers[1].wait()
    clear_stale_locks(tmp_path).close()
    assert not lock.exists()
