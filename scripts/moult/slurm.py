"""What Slurm is asked and told beside what the executor plugin does."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

from moult.errors import UserError

# Seconds in which a cancelled job must be gone: Slurm waits KillWait (30 unless the site says otherwise), then kills.
PATIENCE = 120


def allocation():
    """Return where Slurm has put this job, as words; None outside of a Slurm job."""
    job = os.environ.get("SLURM_JOB_ID")
    return job and f"Slurm job {job} on {os.environ.get('SLURMD_NODENAME') or socket.gethostname()}"


def allocated():
    """Return (nodes, processors of all together) of the Slurm job around this process; (1, None) where there is none.

    Slurm is asked where the environment does not say: the executor's job step takes most of Slurm's variables away.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_JOB_NUM_NODES") == "1":
        return 1, None
    nodes, processors = _squeue(f"--jobs={job}", "--format=%D %C")[0].split()
    return int(nodes), int(processors)


def cancel_leftovers(markers, tell, patience=PATIENCE):
    """Cancel the jobs that a killed scheduler left in the queue or at work, and wait until they are gone.

    Else their successors would wait for them, each with an allocation that it does not use. What was at work goes on
    from its last checkpoint or answer. `markers` is where Snakemake notes unfinished outputs with the number of Slurm's
    job; a job counts only if it runs in this working directory. UserError if one is still there after `patience`
    seconds.
    """
    noted = set()
    for marker in Path(markers).rglob("*"):
        try:
            noted.add(json.loads(marker.read_text(encoding="utf-8"))["external_jobid"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if not (left := _in_queue(noted)):
        return
    tell(f"cancelling what a scheduler that is gone left behind: Slurm jobs {', '.join(left)}")
    subprocess.run(["scancel", *left], check=False)
    end = time.monotonic() + patience
    while left := _in_queue(noted):
        if time.monotonic() > end:
            raise UserError(f"Slurm jobs {', '.join(left)} do not end after scancel; see `squeue`, then run again.")
        time.sleep(1)


def _in_queue(noted):
    """Return those job numbers that wait or work in this directory, by whatever scheduler they were submitted."""
    lines = (line.split(maxsplit=1) for line in _squeue("--me", "--format=%A %Z"))
    return sorted({job for job, place in lines if job in noted and os.path.realpath(place) == os.path.realpath(".")})


def _squeue(*arguments):
    answer = subprocess.run(["squeue", "--noheader", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UserError(f"squeue does not answer: {answer.stderr.strip()}")
    return answer.stdout.splitlines()
