"""What a build shows while it runs: live bars on a terminal, a line for each finished job elsewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAKEFILE = """
rule all:
    input: "b.txt"
rule make_a:
    output: "a.txt", "more.txt"
    shell: "sleep 1; touch {output}"
rule make_b:
    input: "a.txt"
    output: "b.txt"
    log: "b.log"
    shell: "echo why > {log}; test ! -e wrong; touch {output}"
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command of `make demo`, with two jobs of our own in place of the workflow's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    Path("Snakefile").write_text(SNAKEFILE)
    logger = re.search(r"\bsnakemake .*(--logger \w+)", (ROOT / "Makefile").read_text())[1]
    return [sys.executable, "-m", "snakemake", "--cores", "1", *logger.split()]


def test_a_log_has_a_line_for_each_finished_job(command):
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in run.stderr.splitlines() if re.match(r" *\d+ of 3 ", line)]
    assert [(line[0], line[3], *line[6:]) for line in lines] == [
        ("1", "make_a", "a.txt"),
        ("2", "make_b", "b.txt"),
        ("3", "all"),
    ]
    assert 1 <= float(lines[0][4]) < 60 and lines[0][5] == "s"


def test_a_job_that_fails_is_told_with_its_log_and_has_no_line(command):
    Path("wrong").touch()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "1 of 3" in run.stderr and "2 of 3" not in run.stderr
    assert "Failed make_b" in run.stderr and "\nwhy\n" in run.stderr


def test_a_terminal_has_live_bars_instead(command):
    environment = os.environ | {"TERM": "xterm"}
    run = subprocess.run(["script", "-qec", shlex.join(command), "typescript"], env=environment, capture_output=True)
    shown = run.stdout.decode()
    assert run.returncode == 0 and "Total Progress" in shown and "1 of 3" not in shown
