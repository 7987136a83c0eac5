"""What Slurm is asked and told beside what the executor plugin does."""

import os
import socket
import subprocess
import time
from collections.abc import Callable

from moult.base.errors import UserError

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


def cancel_leftovers(tell: Callable[[str], None], patience: float = PATIENCE) -> None:
    """Cancel the jobs that a killed scheduler left in the queue or at work here, and wait until they are gone.

    Else their successors would wait for them, each with an allocation that it does not use. What was at work goes on
    from its last checkpoint or answer. To be called by the only scheduler of this working directory: every job of this
    user that runs there, and has the comment that the executor gives, is a leftover then. UserError if one is still
    there after `patience` seconds.
    """
    if not (left := _in_queue()):
        return
    tell(f"cancelling what a scheduler that is gone left behind: Slurm jobs {', '.join(left)}")
    subprocess.run(["scancel", *left], check=False)
    end = time.monotonic() + patience
    while left := _in_queue():
        if time.monotonic() > end:
            raise UserError(f"Slurm jobs {', '.join(left)} do not end after scancel; see `squeue`, then run again.")
        time.sleep(1)


def keep_to_squeue() -> None:
    """Let the executor plugin ask `squeue` for the state of jobs whatever happens to the controller.

    Before each such question it looks up how long squeue remembers jobs that ended, takes no answer for "too short",
    and turns to `sacct`; where no accounting database is behind that, it asks in vain for as long as
    `slurm-status-attempts` says. What it was told at the start is what it is told from then on.
    """
    import snakemake_executor_plugin_slurm as plugin

    if (seconds := plugin.get_min_job_age()) is not None:
        plugin.get_min_job_age = lambda: seconds


def _in_queue():
    """Return the numbers of the executor's jobs that wait or work in this directory."""
    lines = (line.split("|", maxsplit=2) for line in _squeue("--me", "--format=%A|%k|%Z"))
    here = os.path.realpath(".")
    return sorted(job for job, comment, place in lines if comment[:5] == "rule_" and os.path.realpath(place) == here)


def _squeue(*arguments):
    answer = subprocess.run(["squeue", "--noheader", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UserError(f"squeue does not answer: {answer.stderr.strip()}")
    return answer.stdout.splitlines()
