"""A thousand rows, a server that misbehaves, kill -9 at any moment: every row is accounted for, few are paid twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.corpora.generated import generate_corpus
from moult.data.prompts import load_template
from moult.inference.asking import Asker
from moult.inference.remote import endpoint
from openai_server import MISBEHAVIOURS, OpenAIServer, misbehaving

ROOT = Path(__file__).parents[2]
ROWS, CONCURRENCY = 1000, 16
# A fifth of all tries fails with 500, every other trouble comes now and then.
ODDS = {"500": 0.2} | dict.fromkeys(["429", "reset", "html", "half", "no choices", "refusal", "filtered"], 0.01)
ODDS |= dict.fromkeys(["length", "empty", "tools", "parts", "400"], 0.01) | {"timeout": 0.003, "drip": 0.003}

PROGRAM = """
import sys
from moult.inference.requests import ChatRequest, Sampling; from moult.inference.asking import ask_all
from moult.inference.remote.endpoint import RemoteEndpoint
from moult.inference.journal import Journal
url, path, rows, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
settings = {"name": "teacher", "url": url, "model": "m", "key": None, "concurrency": concurrency}
settings |= {"timeout": 5, "retries": 9}
requests = [ChatRequest(({"role": "user", "content": f"question {i}"},), Sampling(max_tokens=8)) for i in range(rows)]
with Journal(path) as journal:
    values = ask_all(requests, identity={"url": "u"}, open_answerer=lambda: RemoteEndpoint(settings), journal=journal)
assert len(values) == rows
"""


def start(server, journal):
    command = [sys.executable, "-c", PROGRAM, server.url, str(journal), str(ROWS), str(CONCURRENCY)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")}, stderr=subprocess.PIPE)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_kill_at_any_moment_pays_for_no_more_than_what_was_under_way(tmp_path, seed):
    """Three kills each, after a random number of answers; the fourth run ends."""
    chance = random.Random(seed)
    with OpenAIServer(misbehaving(seed, {"500": 0.05, "429": 0.01, "refusal": 0.01}), delay=0.005) as server:
        for kills, part in enumerate(sorted(chance.sample(range(1, ROWS - CONCURRENCY), 3)), start=1):
            process = start(server, tmp_path / "j.sqlite")
            while len(server.paid) < part:
                assert process.poll() is None, process.stderr.read().decode()
                time.sleep(0.001)
            time.sleep(chance.random() / 100)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert server.paid_twice() <= CONCURRENCY * kills
        last = start(server, tmp_path / "j.sqlite")
        assert last.wait() == 0, last.stderr.read().decode()
        paid = len(server.paid)
        assert paid - server.paid_twice() == ROWS and server.paid_twice() <= CONCURRENCY * 3
        # A refusal was paid for as well: nothing is left to ask.
        assert start(server, tmp_path / "j.sqlite").wait() == 0
        assert len(server.paid) == paid


def rows(n):
    plain = {"split": "train", "field": "machine learning", "question": "How is it done?"}
    return [plain | {"uid": f"q:{i}", "title": f"question {i}"} for i in range(n)]


def generate(server, journal, **client):
    recipe = {
        "endpoint": {"name": "teacher", "url": server.url, "model": "m"},
        "prompt": load_template("meteor/distill"),
        "decoding": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 8},
        "cut": "reject",
        "seed": 1,
    }
    settings = {"key": None, "concurrency": 32, "timeout": 2, "retries": 9, "price": None}
    with Asker(recipe["endpoint"], journal, settings | client) as asker:
        return generate_corpus(recipe, rows(ROWS), "answer", asker)


def test_every_row_is_an_answer_or_has_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.05)
    with OpenAIServer(misbehaving(7, ODDS)) as server:
        kept, rejects, usage = generate(server, tmp_path / "j.sqlite")
        assert sorted(row["uid"] for row in kept + rejects) == sorted(row["uid"] for row in rows(ROWS))
        assert {row["answer"] for row in kept} == {"a good answer", "a part"} and len(kept) > 850
        reasons = {reject["reason"] for reject in rejects}
        for told in ("refused", "content filter", "calls a tool", "HTTP 400", "no choices", "cut", "empty"):
            assert any(told in reason for reason in reasons), (told, reasons)
        assert usage["calls"] == ROWS
        # Run again, it asks only for what cost nothing.
        server.reply, asked = lambda body: "a good answer", len(server.asked)
        again, still_rejected, _ = generate(server, tmp_path / "j.sqlite")
        free = [reject for reject in rejects if "HTTP" in reject["reason"] or "tries" in reject["reason"]]
        assert len(server.asked) - asked == len(free) > 0
        assert len(still_rejected) == len(rejects) - len(free)


def test_a_wrong_key_in_the_middle_stops_at_once_and_keeps_what_was_answered(tmp_path):
    with OpenAIServer() as server:
        server.reply = lambda body: "fine" if len(server.asked) <= 500 else MISBEHAVIOURS["401"](body)
        with pytest.raises(UserError, match="refused \\(401\\)"):
            generate(server, tmp_path / "j.sqlite")
        assert len(server.asked) <= 500 + 32
        server.reply = lambda body: "fine"
        generate(server, tmp_path / "j.sqlite")
        assert len(server.paid) == ROWS and server.paid_twice() == 0
