"""What was paid for is found again under another name or seed, and no answer stands for two requests of one job."""

import json
import os
import sqlite3
import subprocess
import sys
from itertools import count
from pathlib import Path

import moult
import pytest
from moult.inference.asking import Asker
from moult.inference.journal import Journal
from moult.inference.requests import ChatRequest, Sampling
from moult.inference.spending import Budget, spending_in
from openai_server import OpenAIServer

PRICE = {"input": 1.0, "output": 2.0}
CLIENT = {"key": None, "concurrency": 2, "timeout": 5, "retries": 0, "price": PRICE, "spending": "journal/spending/x"}


def requests(seed=0, temperature=0.0, texts=("a", "b", "c")):
    sampling = Sampling(temperature=temperature, max_tokens=9)
    return [ChatRequest(({"role": "user", "content": text},), sampling, seed) for text in texts]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Counts its answers, so that each is told from all others."""
    monkeypatch.chdir(tmp_path)
    numbers = count()
    with OpenAIServer(lambda body: f"answer {next(numbers)}") as server:
        yield server


def ask(server, name, wanted, model="m", **client):
    endpoint = {"name": "teacher", "url": server.url, "model": model}
    with Asker(endpoint, Path("journal/distill_answers", f"{name}.sqlite"), CLIENT | client) as asker:
        return [value["text"] for value in asker.ask(wanted)]


def paid_for(server, *arguments, **more):
    before = len(server.paid)
    texts = ask(server, *arguments, **more)
    return len(server.paid) - before, texts


def test_a_greedy_request_is_paid_once_whatever_its_name_and_seed(server):
    first = ask(server, "old", requests())
    assert paid_for(server, "old", requests(seed=5)) == (0, first)
    assert paid_for(server, "new", requests(seed=7)) == (0, first)
    # What was taken over is the new journal's own.
    Path("journal/distill_answers/old.sqlite").unlink()
    assert paid_for(server, "new", requests(seed=7)) == (0, first)
    assert paid_for(server, "newer", requests(seed=8, texts=("a", "x")))[0] == 1


def test_another_model_and_a_drawn_answer_are_asked_anew(server):
    ask(server, "old", requests())
    assert paid_for(server, "new", requests(), model="other")[0] == 3
    drawn = ask(server, "old", requests(seed=3, temperature=0.7))
    assert paid_for(server, "new", requests(seed=4, temperature=0.7))[0] == 3
    # The very same draw is the same answer.
    assert paid_for(server, "third", requests(seed=3, temperature=0.7)) == (0, drawn)


def test_requests_that_differ_in_their_seeds_alone_get_an_answer_each(server):
    """A judge is asked again to see whether it agrees with itself."""
    twice = [*requests(seed=1, texts="a"), *requests(seed=2, texts="a")]
    first = ask(server, "old", twice)
    assert len(set(first)) == 2
    renamed = [*requests(seed=3, texts="a"), *requests(seed=4, texts="a"), *requests(seed=5, texts="a")]
    paid, texts = paid_for(server, "new", renamed)
    assert paid == 1 and set(texts[:2]) == set(first) and len(set(texts)) == 3
    # Copies of one answer are one answer.
    paid, texts = paid_for(server, "third", [request for seed in (6, 7, 8, 9) for request in requests(seed, texts="a")])
    assert paid == 1 and len(set(texts)) == 4


def test_a_journal_that_is_written_to_is_left_alone_and_one_of_a_killed_run_is_read(server):
    ask(server, "old", requests())
    program = "import sys, time; from moult.inference.journal import Journal; j = Journal(sys.argv[1]); "
    program += "j.keep([('k', {}, {})]); print('held', flush=True); time.sleep(600)"
    held = [sys.executable, "-c", program, "journal/distill_answers/old.sqlite"]
    environment = os.environ | {"PYTHONPATH": str(Path(moult.__file__).parents[1])}
    with subprocess.Popen(held, stdout=subprocess.PIPE, text=True, env=environment) as build:
        assert build.stdout.readline() == "held\n"
        assert paid_for(server, "new", requests(seed=7))[0] == 3
        build.kill()
    Path("journal/distill_answers/new.sqlite").unlink()
    before = {path: path.read_bytes() for path in Path("journal/distill_answers").iterdir()}
    assert any(path.name.endswith("-wal") for path in before)
    assert paid_for(server, "newer", requests(seed=8))[0] == 0
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_no_journal_and_what_older_code_wrote_stop_nobody(server):
    ask(server, "old", requests())
    with sqlite3.connect("journal/distill_answers/old.sqlite") as old:
        old.execute("DROP TABLE payments")
        old.execute("DROP TABLE copies")
    Path("journal/distill_answers/odd.sqlite").write_bytes(b"no journal" * 1000)
    Path("journal/distill_answers/empty.sqlite").touch()
    assert paid_for(server, "new", requests(seed=7))[0] == 0


# ---- what was spent stands in the journals; the small files are copies of it


def test_what_was_spent_is_counted_anew_by_the_journals(server):
    ask(server, "one", requests(texts="abc"))
    ask(server, "two", requests(texts="de"))
    spent = spending_in("journal/spending/x")
    assert spent > 0
    one, two = (Path(f"journal/spending/x/distill_answers.{name}") for name in ("one", "two"))
    one.unlink()
    two.write_text("much")
    ask(server, "three", requests(texts="f"))
    more = spending_in("journal/spending/x") - spent
    assert 0 < more < spent / 3
    # A copy costs nothing, an answer that is superseded was paid for; another experiment has spent nothing.
    ask(server, "four", requests(seed=4, texts="abcdef"))
    assert spending_in("journal/spending/x") == pytest.approx(spent + more)
    ask(server, "one", requests(texts="xyz"), spending="journal/spending/y")
    assert spending_in("journal/spending/x") == pytest.approx(spent + more)


def test_what_older_code_counted_is_kept_when_its_file_goes(server):
    """Such a journal says nothing of payments, such a file nothing of answers."""
    spending = Path("journal/spending/x")
    spending.mkdir(parents=True)
    (spending / "distill_answers.one").write_text(f"{0.5:20.9f} {0.25:20.9f}\n")
    ask(server, "one", requests(texts="a"))
    spent = spending_in(spending)
    assert spent > 0.75
    (spending / "distill_answers.one").unlink()
    ask(server, "two", requests(texts="b"))
    # What batches have cost stands in a table of their own, which this journal never had.
    assert spending_in(spending) == pytest.approx(spent - 0.25, abs=1e-4)


def test_a_reply_that_was_paid_for_and_lost_is_in_the_journal(tmp_path):
    path = tmp_path / "spending" / "job"
    with Journal(tmp_path / "j.sqlite") as journal:
        budget = Budget(None, PRICE, path, journal)
        budget.calls = 3.0
        budget.settle()
        path.parent.mkdir(exist_ok=True)
        assert journal.spent(str(path.parent)) == (3.0, 0.0)
        assert Budget(None, PRICE, path, journal).calls == 3.0


# ---- a reply is kept before anybody looks into it

ENDED = """
import os, sys
from pathlib import Path
from moult.inference.remote import endpoint
from moult.inference.asking import Asker
from moult.inference.requests import ChatRequest, Sampling

endpoint.answer_of = lambda *_: os._exit(7)
client = {"key": None, "concurrency": 1, "timeout": 5, "retries": 0, "price": None}
teacher, journal = {"name": "teacher", "url": sys.argv[1], "model": "m"}, Path("journal/distill_answers/one.sqlite")
with Asker(teacher, journal, client) as asker:
    asker.ask([ChatRequest(({"role": "user", "content": "a"},), Sampling(max_tokens=9))])
"""


def test_a_reply_whose_reading_ends_the_run_is_not_paid_again(server):
    environment = os.environ | {"PYTHONPATH": str(Path(moult.__file__).parents[1])}

    def ended():
        return subprocess.run([sys.executable, "-c", ENDED, server.url], env=environment, check=False).returncode

    assert ended() == 7 and len(server.paid) == 1
    # It is read by the next run, which was ended by something else.
    assert paid_for(server, "one", requests(texts="ab")) == (1, ["answer 0", "answer 1"])
    with sqlite3.connect("journal/distill_answers/one.sqlite") as journal:
        journal.execute("DELETE FROM answers")
        assert journal.execute("SELECT COUNT(*) FROM arrived").fetchone() == (0,)
    # Where it is the reply itself that ends each run, it becomes a reject that has it.
    paid = len(server.paid)
    assert [ended() for _ in range(3)] == [7, 7, 7] and len(server.paid) == paid + 1
    endpoint = {"name": "teacher", "url": server.url, "model": "m"}
    with Asker(endpoint, Path("journal/distill_answers/one.sqlite"), CLIENT) as asker:
        (value,) = asker.ask(requests(texts="a"))
    assert value["error"] == "reading the reply has ended 3 runs" and "answer 2" in value["raw"]
    assert len(server.paid) == paid + 1


@pytest.mark.parametrize(
    "odd",
    [5, None, "x", {}, ["x"], [None], {"text": 1}, {"text": "x", "finish_reason": ["stop"]}, {"text": "x", "error": 5}]
    + [{"text": "x", "finish_reason": "error", "error": None, "prompt_tokens": 1, "completion_tokens": 1}],
)
def test_a_stored_value_that_is_none_is_asked_for_again(server, odd):
    ask(server, "one", requests(texts="ab"))
    with Journal("journal/distill_answers/one.sqlite") as journal:
        key, request = journal.connection.execute("SELECT key, request FROM answers LIMIT 1").fetchone()
        journal.keep([(key, json.loads(request), odd)])
    assert paid_for(server, "two", requests(texts="ab"))[0] == 1
    assert paid_for(server, "one", requests(texts="ab"))[0] == 0


@pytest.mark.parametrize("column", ["request", "answer"])
def test_a_text_that_is_no_text_any_more_is_asked_for_again(server, column):
    first = ask(server, "old", requests())
    with sqlite3.connect("journal/distill_answers/old.sqlite") as connection:
        broken = f"UPDATE answers SET {column} = CAST(CAST({column} AS BLOB) || x'ff' AS TEXT) WHERE answer LIKE ?"
        assert connection.execute(broken, (f"%{first[1]}%",)).rowcount == 1
    paid, texts = paid_for(server, "old", requests(seed=5))
    assert paid == 1 and [texts[0], texts[2]] == [first[0], first[2]] and texts[1] != first[1]
