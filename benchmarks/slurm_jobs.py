"""What a Slurm job costs beside its work, alone and in groups: `python benchmarks/slurm_jobs.py` (root, Debian).

Jobs that only touch a file go through profiles/slurm on a Slurm of our own (tests/cluster/slurm.sh), each alone and in
groups of eight, as the profile groups tiny jobs, and through profiles/local for comparison. Snakemake asks for their
state after 2 s, then 12, 22 and so on while none has ended: the whole time is one of few values, so that Slurm's own
times, from the first submission to the last end, are what tells ways apart.
"""

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "cluster" / "slurm.sh"
SNAKEFILE = """
rule all:
    input:
        expand("done/{number}", number=range(JOBS)),


rule touch:
    output:
        "done/{number}",
    resources:
        mem_mb=500,
        runtime=10,
    shell:
        "touch {output}"
"""
WAYS = {
    "on this machine": ["--profile", ROOT / "profiles" / "local", "--cores", "2"],
    "alone": ["--profile", ROOT / "profiles" / "slurm", "--groups", "none=none"],
    "groups of 8": ["--profile", ROOT / "profiles" / "slurm", "--groups", "touch=tiny", "--group-components", "tiny=8"],
}
EAGER = [
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--seconds-between-status-checks",
    "1",
    "--latency-wait",
    "10",
]


def run(way, jobs):
    """Return (seconds in all, Slurm's seconds, Slurm jobs) for a workflow of `jobs` jobs that touch a file."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Snakefile").write_text(SNAKEFILE.replace("JOBS", str(jobs)))
        before = {number for number, *_ in slurm_jobs()}
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            "Snakefile",
            "--workflow-profile",
            "none",
            *WAYS[way],
        ]
        command += EAGER if way != "on this machine" else []
        begun = time.monotonic()
        ended = subprocess.run(
            command, cwd=folder, env=os.environ | {"SLURM_ACCOUNT": ""}, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - begun
        if ended.returncode:
            sys.exit(ended.stdout + ended.stderr)
        spans = [span for number, *span in slurm_jobs() if number not in before]
    slurm = max(end for _, end in spans) - min(submitted for submitted, _ in spans) if spans else 0
    return seconds, slurm, len(spans)


def slurm_jobs():
    """Return (number, second of submission, second of its end) of each job that Slurm knows and that has ended."""
    told = subprocess.run(["scontrol", "--oneliner", "show", "job"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"JobId=(\d+) .*? SubmitTime=(\S+) .*? EndTime=(\S+) ", told)
    return [
        (number, *(datetime.fromisoformat(time).timestamp() for time in times))
        for number, *times in found
        if "Unknown" not in times
    ]


def main():
    """Measure each way in turn, several times over; write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    subprocess.run([SCRIPT, "install"], check=True)
    with tempfile.TemporaryDirectory() as state:
        subprocess.run([SCRIPT, "up", state], check=True)
        try:
            measured = {way: [] for way in WAYS}
            for _ in range(options.repetitions):
                for way, found in measured.items():
                    found.append(run(way, options.jobs))
        finally:
            subprocess.run([SCRIPT, "down", state], check=True)
    with open(Path(__file__).with_suffix(".csv"), "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow("way repetition jobs slurm_jobs seconds slurm_seconds".split())
        for way, found in measured.items():
            for number, (seconds, slurm, several) in enumerate(found):
                writer.writerow([way, number, options.jobs, several, f"{seconds:.1f}", f"{slurm:.0f}"])
            whole, slurm = (statistics.median(column) for column in list(zip(*found, strict=True))[:2])
            each = (slurm or whole) / options.jobs
            print(
                f"{way:16} {whole:6.1f} s, of which Slurm {slurm:3.0f} s; {each:5.2f} s a job, {found[0][2]} Slurm jobs"
            )


if __name__ == "__main__":
    main()
