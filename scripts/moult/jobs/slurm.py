"""What Slurm is asked and told beside what the executor plugin does."""

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import write_text_atomic

# Seconds in which a cancelled job must be gone: Slurm waits KillWait (30 unless the site says otherwise), then kills.
PATIENCE = 120


def allocation() -> str | None:
    """Return where Slurm has put this job, as words; None outside of a Slurm job."""
    job = os.environ.get("SLURM_JOB_ID")
    return job and f"Slurm job {job} on {os.environ.get('SLURMD_NODENAME') or socket.gethostname()}"


def allocated() -> tuple[int, int | None]:
    """Return (nodes, processors of all together) of the Slurm job around this process; (1, None) where there is none.

    Slurm is asked where the environment does not say: the executor's job step takes most of Slurm's variables away.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_JOB_NUM_NODES") == "1":
        return 1, None
    nodes, processors = _squeue(f"--jobs={job}", "--format=%D %C")[0].split()
    return int(nodes), int(processors)


def cancel_leftovers(
    runs: Path, experiment: str, alone: bool, tell: Callable[[str], None], patience: float = PATIENCE
) -> None:
    """Cancel the jobs that earlier schedulers of an experiment left in the queue or at work; wait until they are gone.

    Else their successors would wait for them, each with an allocation that it does not use. What was at work goes on
    from its last checkpoint or answer. runs: a folder with a file for each scheduler's run (`record_run`); a job of no
    such run is somebody else's. alone: this is the only scheduler of this working directory; else one of the others may
    be at work on them, and nothing is cancelled. UserError if a job is still there after `patience` seconds.
    """
    ours = [path for path in runs.glob("*") if path.read_text(encoding="utf-8") == experiment]
    if left := _in_queue(names := {path.name for path in ours}):
        numbers = ", ".join(left)
        if not alone:
            tell(f"another build is at work in this folder: Slurm jobs {numbers} of {experiment} are not cancelled")
            return
        tell(f"cancelling what a scheduler that is gone left behind: Slurm jobs {numbers}")
        subprocess.run(["scancel", *left], check=False)
        end = time.monotonic() + patience
        while left := _in_queue(names):
            if time.monotonic() > end:
                raise UserError(f"Slurm jobs {', '.join(left)} do not end after scancel; see `squeue`, then run again.")
            time.sleep(1)
    if alone:
        for path in ours:
            path.unlink(missing_ok=True)


def record_run(runs: Path, experiment: str, run: str) -> None:
    """Record before its first job that a scheduler's run, by which the executor names all jobs, is an experiment's."""
    write_text_atomic(runs / run, experiment)


def keep_to_squeue() -> None:
    """Let the executor plugin ask `squeue` for the state of jobs whatever happens to the controller.

    Before each such question it looks up how long squeue remembers jobs that ended, takes no answer for "too short",
    and turns to `sacct`; where no accounting database is behind that, it asks in vain for as long as
    `slurm-status-attempts` says. What it was told at the start is what it is told from then on.
    """
    import snakemake_executor_plugin_slurm as plugin

    if (seconds := plugin.get_min_job_age()) is not None:
        plugin.get_min_job_age = lambda: seconds


def _in_queue(names):
    """Return the numbers of the jobs of some runs that wait or work in this directory."""
    if not names:
        return []
    lines = [line.split("|", maxsplit=2) for line in _squeue("--me", "--format=%A|%j|%Z")]
    here = os.path.realpath(".")
    return sorted(job for job, name, place in lines if name in names and os.path.realpath(place) == here)


def _squeue(*arguments):
    answer = subprocess.run(["squeue", "--noheader", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UserError(f"squeue does not answer: {answer.stderr.strip()}")
    return answer.stdout.splitlines()
