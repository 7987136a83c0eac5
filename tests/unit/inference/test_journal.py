"""The journal keeps what it has returned from, whatever happens to its process."""

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import moult
from moult.base.errors import UserError
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


def test_no_flipped_bit_changes_an_answer(tmp_path):
    path, chance = tmp_path / "j.sqlite", random.Random(3)
    keys = [f"{number:064x}" for number in range(40)]
    truth = {key: {"text": f"the label of {key} is positive"} for key in keys}
    with Journal(path) as journal:
        journal.keep([(key, {"q": key}, truth[key]) for key in keys])
    whole, answered = path.read_bytes(), Counter()
    for _ in range(1000 if os.environ.get("MOULT_SOAK") else 40):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            with Journal(path) as journal:
                found = journal.known(keys)
        except UserError as error:
            assert "j.sqlite" in str(error)
            answered["told"] += 1
            continue
        assert all(found[key] == truth[key] for key in found)
        answered["absent" if len(found) < len(keys) else "harmless"] += 1
    assert answered["absent"], answered


def test_a_damaged_row_is_told_and_asked_for_again(tmp_path, caplog):
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.keep([("k", {}, {"text": "first"}), ("l", {}, {"text": "second"})])
        journal.connection.execute("UPDATE answers SET answer = replace(answer, 'first', 'First')")
        journal.connection.commit()
        assert journal.known(["k", "l"]) == {"l": {"text": "second"}}
        assert dict(journal.rows()) == {"k": False, "l": True}
    assert "j.sqlite: 1 stored answers are damaged; they are asked for again" in caplog.text


def test_rows_of_before_have_no_digest_and_are_taken(tmp_path):
    path = tmp_path / "j.sqlite"
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT)")
        old.execute("INSERT INTO answers VALUES ('k', '{}', '{\"text\": \"paid for\"}')")
    old.close()
    with Journal(path) as journal:
        journal.keep([("l", {}, {"text": "new"})])
        assert journal.known(["k", "l"]) == {"k": {"text": "paid for"}, "l": {"text": "new"}}
        assert dict(journal.rows()) == {"k": True, "l": True}
