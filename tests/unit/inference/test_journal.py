"""The journal keeps what it has returned from, whatever happens to its process."""

import os
import subprocess
import sys
from pathlib import Path

import moult
from moult.inference.journal import Journal

# The answer is kept, and the process killed before it could close anything.
KILLED = """
import os, signal, sys
from moult.inference.journal import Journal
journal = Journal(sys.argv[1])
journal.keep([("k", {"q": "é"}, {"text": "kept"})])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_kept_outlives_a_killed_process(tmp_path):
    path = tmp_path / "j.sqlite"
    environment = os.environ | {"PYTHONPATH": str(Path(moult.__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
    assert killed.returncode == -9
    with Journal(path) as journal:
        assert journal.known(["k"]) == {"k": {"text": "kept"}}
    assert [file.name for file in tmp_path.iterdir()] == ["j.sqlite"]


def test_many_answers_are_found_again(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        for start in range(0, 1200, 100):
            journal.keep([(f"k{i}", {"q": i}, {"text": str(i)}) for i in range(start, start + 100)])
        found = journal.known([f"k{i}" for i in range(1300)])
    assert len(found) == 1200 and found["k777"] == {"text": "777"}


def test_a_second_answer_to_the_same_request_replaces_the_first(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.keep([("k", {}, "first")])
        journal.keep([("k", {}, "second")])
        assert journal.known(["k"]) == {"k": "second"}
