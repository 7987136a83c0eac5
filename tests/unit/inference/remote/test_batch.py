"""A batch is asked once whatever happens to us or to it, and its answers are those of chat mode."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.inference.asking import Asker
from moult.inference.journal import Journal
from moult.inference.remote import batch
from moult.inference.requests import ChatRequest, Sampling
from moult.inference.spending import spending_in
from openai_batches import BatchServer
from openai_server import error

CLIENT = {"key": None, "concurrency": 2, "timeout": 5, "retries": 1, "poll": 0.02, "price": None, "mode": "batch"}
PRICE = {"input": 1.0, "output": 2.0}


def requests(count, **more):
    return [
        ChatRequest(({"role": "user", "content": f"question {i}"},), Sampling(temperature=0.7, max_tokens=9), **more)
        for i in range(count)
    ]


def ask(url, journal, wanted, **client):
    with Asker({"name": "teacher", "url": url, "model": "big"}, journal, CLIENT | client) as asker:
        return asker.ask(wanted)


@pytest.fixture
def server():
    with BatchServer(lambda body: "answer to " + body["messages"][-1]["content"]) as server:
        yield server


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "j.sqlite"


def texts(values):
    return [value["text"] or value["error"] for value in values]


def expected(count):
    return [f"answer to question {i}" for i in range(count)]


def left_in_batches(journal):
    with sqlite3.connect(journal) as connection:
        return connection.execute("SELECT COUNT(*) FROM in_batch").fetchone()[0]


def test_a_batch_answers_all_and_switching_the_mode_pays_for_nothing_again(server, journal):
    assert texts(ask(server.url, journal, requests(20))) == expected(20)
    assert len(server.batches) == 1 and len(server.paid) == 20
    line = server.lines("file-0")[0]
    assert line["body"]["max_tokens"] == 9 and line["body"]["model"] == "big" and line["method"] == "POST"
    assert texts(ask(server.url, journal, requests(20), mode="chat")) == expected(20)
    assert len(server.paid) == 20 and not server.asked and left_in_batches(journal) == 0


def test_answers_of_chat_mode_are_not_asked_again_in_a_batch(server, journal):
    ask(server.url, journal, requests(5), mode="chat")
    assert texts(ask(server.url, journal, requests(7))) == expected(7)
    assert len(server.lines("file-0")) == 2 and len(server.paid) == 7


def test_a_long_list_goes_in_several_batches(server, journal, monkeypatch):
    monkeypatch.setattr(batch, "MAX_ROWS", 8)
    assert texts(ask(server.url, journal, requests(20))) == expected(20)
    assert [len(server.lines(batch["input_file_id"])) for batch in server.batches.values()] == [8, 8, 4]
    monkeypatch.setattr(batch, "MAX_ROWS", 50_000)
    monkeypatch.setattr(batch, "MAX_BYTES", 700)
    ask(server.url, journal, requests(5, seed=1))
    sizes = [len(server.files[batch["input_file_id"]]) for batch in server.batches.values()][3:]
    assert len(sizes) > 1 and max(sizes) <= 700


def scrambled(lines):
    """Out of order, one twice with another text, one unknown, one cut, two missing."""
    other = lines[0].replace("question 0", "question zero")
    unknown = lines[1].replace(json.loads(lines[1])["custom_id"], "0" * 64)
    return [lines[4], unknown, lines[0], other, lines[1][:40], lines[5], "", '"no object"', lines[3]]


def test_lines_are_read_one_by_one(server, journal, caplog):
    server.endings = [{"mangle": scrambled}]
    with caplog.at_level("INFO"):
        found = texts(ask(server.url, journal, requests(6)))
    no_line = "the batch has no readable line for it"
    assert found == [expected(6)[0], no_line, no_line, *expected(6)[3:]]
    assert "1 lines for a request that has an answer already" in caplog.text
    assert "1 lines for a request that it is not asked" in caplog.text
    assert "2 lines that are no JSON object" in caplog.text
    # What has no line is asked again by the next run, and only that.
    assert texts(ask(server.url, journal, requests(6))) == expected(6)
    assert len(server.lines(server.batches["batch-1"]["input_file_id"])) == 2


def test_a_line_that_failed_is_an_error_with_its_reason(server, journal):
    said = {
        "question 1": (400, {"error": {"message": "content policy"}}),
        "question 2": (500, "<html>"),
        "question 3": "",
    }
    server.reply = lambda body: said.get(body["messages"][-1]["content"], "fine")
    found = ask(server.url, journal, requests(5))
    assert [value["error"] for value in found] == [None, "HTTP 400: content policy", "HTTP 500: <html>", None, None]
    assert [value["text"] for value in found] == ["fine", "", "", "", "fine"]


def test_refusals_and_cut_json_read_as_in_chat_mode(server, journal, tmp_path):
    wanted = requests(3, choices=("yes", "no"))
    said = {"question 1": '{"choice": "ye', "question 2": '{"choice": "perhaps"}'}
    server.reply = lambda body: said.get(body["messages"][-1]["content"], '{"choice": "yes"}')
    found = ask(server.url, journal, wanted)
    assert found == ask(server.url, tmp_path / "chat.sqlite", wanted, mode="chat")
    assert [value["finish_reason"] for value in found] == ["stop", "error", "error"]


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
def test_what_a_batch_left_over_goes_into_the_next(server, journal, status):
    server.endings = [{"status": status, "answered": 0.5}]
    assert texts(ask(server.url, journal, requests(10))) == expected(10)
    assert len(server.paid) == 10 and server.paid_twice() == 0 and not server.twice
    assert len(server.lines(server.batches["batch-1"]["input_file_id"])) == 5


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_batch_that_answered_nothing_is_not_tried_for_ever(server, journal, status):
    server.endings = [{"status": status, "answered": 0}]
    assert set(texts(ask(server.url, journal, requests(3)))) == {f"the batch ended as {status} before it was answered"}
    assert texts(ask(server.url, journal, requests(3))) == expected(3)


def test_a_refused_file_is_a_sentence_with_the_api_s_own_words(server, journal):
    server.endings = [{"status": "failed", "errors": [{"code": "invalid_json_line", "line": 2, "message": "not JSON"}]}]
    with pytest.raises(UserError, match="endpoint teacher .*batch-0 was refused: line 2: not JSON"):
        ask(server.url, journal, requests(3))
    assert texts(ask(server.url, journal, requests(3))) == expected(3)


def test_a_full_queue_takes_the_rest_later(server, journal, monkeypatch):
    monkeypatch.setattr(batch, "MAX_ROWS", 8)
    server.limit = 10
    assert texts(ask(server.url, journal, requests(20))) == expected(20)
    assert server.paid_twice() == 0 and not server.twice


def test_a_batch_that_is_too_much_for_the_queue_is_halved(server, journal):
    server.limit = 3
    assert texts(ask(server.url, journal, requests(12))) == expected(12)
    # The same, when the API says so only after the batch was created.
    server.limit, full = None, [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
    server.endings = [{"status": "failed", "errors": full}]
    assert texts(ask(server.url, journal, requests(4, seed=1))) == expected(4)
    server.limit = 0
    with pytest.raises(UserError, match="no room for one request .*Enqueued token limit reached"):
        ask(server.url, journal, requests(2, seed=2))


def test_passing_trouble_is_lived_with(server, journal):
    busy, broken = error(429, "slow down", "rate_limit_exceeded"), error(500, "boom")
    server.instead = {"create": [busy], "poll": [broken] * 3, "upload": [broken], "content": [broken]}
    assert texts(ask(server.url, journal, requests(3))) == expected(3)
    assert len(server.batches) == 1


def test_a_lost_reply_to_create_makes_no_second_batch(server, journal):
    server.instead = {"created": [error(500, "boom")]}
    assert texts(ask(server.url, journal, requests(3))) == expected(3)
    assert len(server.batches) == 1 and not server.twice


@pytest.mark.parametrize("stage", ["upload", "create", "poll", "content", "list"])
def test_a_wrong_key_is_a_sentence_and_nothing_is_lost(server, journal, stage):
    if stage == "list":
        server.instead = {"created": [error(500, "boom")]}
        server.instead["list"] = [error(401, "Incorrect API key")]
    else:
        server.instead = {stage: [error(401, "Incorrect API key")]}
    with pytest.raises(UserError, match="refused .401: .*Incorrect API key.*; check key"):
        ask(server.url, journal, requests(3))
    assert texts(ask(server.url, journal, requests(3))) == expected(3)
    assert server.paid_twice() == 0 and not server.twice and len(server.batches) == 1


def test_an_empty_account_an_unset_key_and_an_unreachable_server(server, journal, monkeypatch):
    server.instead = {"create": [error(429, "You exceeded your current quota", "insufficient_quota")]}
    with pytest.raises(UserError, match="no quota left"):
        ask(server.url, journal, requests(3))
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="variable MY_KEY is not set"):
        ask(server.url, journal, requests(3), key="MY_KEY")
    with pytest.raises(UserError, match="cannot be reached"):
        ask("http://127.0.0.1:9/v1", journal, requests(3), retries=0)


def test_answers_that_nobody_asks_for_now_wait_for_when_they_are_asked(server, journal):
    server.instead = {"poll": [error(401, "no")]}
    with pytest.raises(UserError):
        ask(server.url, journal, requests(6))
    # Two rows were edited away meanwhile, one is new.
    assert texts(ask(server.url, journal, requests(7)[2:])) == expected(7)[2:]
    assert left_in_batches(journal) == 2
    assert texts(ask(server.url, journal, requests(7))) == expected(7)
    assert len(server.paid) == 7 and left_in_batches(journal) == 0


# ---- kill -9

CHILD = """
import os, signal
from moult.inference import journal
from moult.inference.remote import batch
from test_batch import ask, requests

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if {place!r} == "read":
    journal.Journal.keep = die
elif {place!r} == "journalled":
    batch.Underway.release = die
elif {place!r} == "noted":
    batch.Underway.note = die
ask({url!r}, {journal!r}, requests(10), price={price!r}, spending={spending!r})
"""


def run_until_killed(server, journal, place, spending):
    program = CHILD.format(place=place, url=server.url, journal=str(journal), price=PRICE, spending=str(spending))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment)
    if place not in ("read", "journalled", "noted"):
        server.hold = place
        assert server.held.wait(60), "it never came so far"
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    server.hold = None


@pytest.mark.parametrize(
    ("place", "uploads"),
    [
        ("upload", 1),
        ("uploaded", 2),
        ("noted", 2),
        ("create", 2),
        ("created", 1),
        ("poll", 1),
        ("content", 1),
        ("read", 1),
        ("journalled", 1),
    ],
)
def test_killed_at_any_moment_it_finds_its_batch_again(server, journal, tmp_path, place, uploads):
    spending = tmp_path / "spending"
    run_until_killed(server, journal, place, spending)
    assert texts(ask(server.url, journal, requests(10), price=PRICE, spending=str(spending))) == expected(10)
    assert len(server.batches) == 1 and server.paid_twice() == 0 and not server.twice
    assert sum(b"custom_id" in data and b'"method"' in data for data in server.files.values()) == uploads
    # It is counted once: prompt of 4 words by the server's count, answer of 4.
    tokens = [len(str(body["messages"]).split()) for body in server.paid]
    assert spending_in(spending) == pytest.approx((sum(tokens) * 1.0 + 10 * 4 * 2.0) / 1e6)


# ---- budget


def worst(server_url, journal, count):
    """Return the dollars that a batch of so many requests is counted with at most."""
    with Journal(journal.with_name("other.sqlite")) as kept:
        endpoint = batch.BatchEndpoint(
            CLIENT | {"name": "t", "url": server_url, "model": "big", "price": PRICE},
            batches_budget(),
            kept,
            {"url": server_url, "model": "big"},
        )
        return endpoint._fitting({f"{i:064}": request for i, request in enumerate(requests(count))})[1]


def batches_budget():
    from moult.inference.spending import Budget

    return Budget(None, PRICE, None)


def test_only_what_surely_fits_is_submitted_and_the_rest_follows(server, journal, tmp_path, caplog):
    spending = tmp_path / "spending"
    limit = worst(server.url, journal, 6) * 1.01
    more = {"price": PRICE, "budget": limit, "spending": str(spending)}
    with caplog.at_level("INFO"):
        assert texts(ask(server.url, journal, requests(10), **more)) == expected(10)
    assert [len(server.lines(batch["input_file_id"])) for batch in server.batches.values()] == [6, 4]
    assert "6 of 10 requests surely fit" in caplog.text and spending_in(spending) < limit
    with pytest.raises(UserError, match="budget of .* is spent: .* raise `budget`"):
        ask(server.url, journal, requests(400, seed=1), **more)
    spent = spending_in(spending)
    assert spent <= limit
    # Raised, it goes on; what was answered is not asked again.
    found = ask(server.url, journal, requests(400, seed=1), **(more | {"budget": 100 * limit}))
    assert texts(found) == expected(400) and server.paid_twice() == 10
