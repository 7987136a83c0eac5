"""Jobs die with their scheduler, wait for each other, and locks of the dead are cleared; with real processes."""

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from moult.jobs.locks import clear_stale_locks
from moult.jobs.manifest import write_manifest

SCRIPTS = Path(__file__).parents[3] / "scripts"


def start(code, *arguments, **options):
    """Run Python code in a process of its own, its output to be read line by line."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


HOLD = """
import time
from moult.jobs.locks import only_writer
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
        "from moult.jobs.locks import die_with_scheduler\n"
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
    code = "from moult.jobs.locks import die_with_scheduler; die_with_scheduler(); print('alive')"
    assert start(code).communicate(timeout=30)[0] == "alive\n"


SCHEDULE = """
import time
from moult.jobs.locks import clear_stale_locks
from moult.jobs.manifest import write_manifest
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


def test_what_finished_after_its_scheduler_died_is_not_incomplete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    markers = tmp_path / ".snakemake" / "incomplete"

    def mark(path):
        code = base64.urlsafe_b64encode(path.encode()).decode()
        pieces = [code[start : start + 254] for start in range(0, len(code), 254)]
        marker = markers.joinpath(*(f"@{piece}" for piece in pieces[:-1]), pieces[-1])
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text("{}")
        return marker

    name = "results/" + "/".join(["long" * 20] * 3)
    gone = []
    for path in (name, "results/x/models/cut"):
        Path(path).mkdir(parents=True)
        Path(path, "weights").write_text("1, 2, 3")
        write_manifest(f"{path}.manifest.json", rule="r", outputs=[path], parents=[], recipe={}, facts={})
        gone += [mark(path), mark(f"{path}.manifest.json")]
    Path("results/x/models/cut/weights").write_text("1, 2")
    kept = [*gone[2:], mark("results/x/scores/never.csv")]
    with clear_stale_locks(".snakemake"):
        assert not any(marker.exists() for marker in gone[:2])
        assert all(marker.exists() for marker in kept)
