"""Every answer is kept, none is asked for twice, and failures are told apart."""

import json
import sqlite3
from dataclasses import asdict

import pytest
from moult.base.errors import UserError
from moult.base.files import digest
from moult.inference import asking
from moult.inference.asking import ask_all
from moult.inference.journal import Journal
from moult.inference.remote.endpoint import RemoteEndpoint
from moult.inference.requests import Answer, ChatRequest, LabelRequest, Sampling, request_key
from moult.inference.spending import summed_usage
from openai_server import MISBEHAVIOURS, OpenAIServer, Reply, completion


def request(text, **more):
    return ChatRequest(({"role": "user", "content": text},), Sampling(), **more)


def settings(server, **more):
    url = server.url if hasattr(server, "url") else server
    plain = {"name": "teacher", "url": url, "model": "m", "key": None, "concurrency": 4, "timeout": 5, "retries": 0}
    return plain | {"price": None} | more


def ask(journal_path, requests, server, **more):
    endpoint = settings(server, **more)
    with Journal(journal_path) as journal:
        return ask_all(
            requests, identity={"url": "same"}, open_answerer=lambda: RemoteEndpoint(endpoint), journal=journal
        )


def test_answers_come_back_in_the_order_of_the_requests(tmp_path):
    with OpenAIServer() as server:
        found = ask(tmp_path / "j.sqlite", [request(f"question {i}") for i in range(20)], server)
    assert [value["text"] for value in found] == [f"answer to question {i}" for i in range(20)]
    assert all(value["prompt_tokens"] > 0 for value in found)


def test_nothing_is_asked_twice(tmp_path):
    requests = [request(f"question {i}") for i in range(6)]
    with OpenAIServer() as server:
        first = ask(tmp_path / "j.sqlite", requests, server)
        assert len(server.asked) == 6
        again = ask(tmp_path / "j.sqlite", requests[::-1], server)
        assert again == first[::-1] and len(server.asked) == 6
        edited = [*requests[:5], request("another question")]
        ask(tmp_path / "j.sqlite", edited, server)
        assert len(server.asked) == 7


def test_equal_requests_are_asked_once(tmp_path):
    with OpenAIServer() as server:
        found = ask(tmp_path / "j.sqlite", [request("same")] * 5, server)
    assert len(server.asked) == 1 and len(found) == 5


def test_seed_schema_and_decoding_are_part_of_the_key(tmp_path):
    variants = [
        request("q"),
        request("q", seed=1),
        request("q", choices=("a", "b")),
        request("q", schema={"type": "object"}),
    ]
    variants.append(ChatRequest(variants[0].messages, Sampling(max_tokens=7)))
    with OpenAIServer(lambda body: '{"choice": "a"}') as server:
        ask(tmp_path / "j.sqlite", variants, server)
    assert len(server.asked) == len(variants)


def test_failed_rows_are_told_and_asked_again_next_time(tmp_path):
    broken = lambda body: (500, {"error": {"message": "boom"}}) if "3" in str(body) else "fine"  # noqa: E731
    requests = [request(f"question {i}") for i in range(5)]
    with OpenAIServer(broken) as server:
        found = ask(tmp_path / "j.sqlite", requests, server)
        assert [value["finish_reason"] for value in found] == ["stop", "stop", "stop", "error", "stop"]
        assert "500" in found[3]["error"]
        server.reply = lambda body: "fine"
        asked = len(server.asked)
        assert ask(tmp_path / "j.sqlite", requests, server)[3]["text"] == "fine"
        assert len(server.asked) == asked + 1


def test_what_failed_but_was_paid_for_is_kept_with_its_reason(tmp_path):
    requests = [request(f"question {i}") for i in range(3)]
    with OpenAIServer(MISBEHAVIOURS["refusal"]) as server:
        first = ask(tmp_path / "j.sqlite", requests, server)
        assert all("refused" in value["error"] and value["prompt_tokens"] for value in first)
        assert ask(tmp_path / "j.sqlite", requests, server) == first
        assert len(server.asked) == 3


def test_keys_are_those_of_journals_that_exist():
    plain = request("é", seed=3, choices=("a", "b"))
    asked = asdict(plain)
    # Beam search, a penalty on repetition and log-probabilities came later; a request without them keeps its key.
    for later in ("beams", "length_penalty", "repetition_penalty"):
        del asked["sampling"][later]
    del asked["top_logprobs"]
    assert request_key(plain, {"url": "u"}) == digest({"request": asked, "identity": {"url": "u"}})
    labels = LabelRequest(plain.messages, ("a", "b"))
    assert request_key(labels, {}) == digest({"request": asdict(labels), "identity": {}})


def test_the_log_tells_the_way_in_few_lines(tmp_path, caplog):
    class Answering:
        price = {"input": 2.0, "output": 4.0}

        def answer(self, requests, missing):
            for index in missing:
                failed = {"finish_reason": "error", "error": "no"} if index % 100 == 0 else {}
                yield [(index, Answer("", prompt_tokens=10, completion_tokens=5, **failed))]

    caplog.set_level("INFO")
    with Journal(tmp_path / "j.sqlite") as journal:
        ask_all([request(str(i)) for i in range(1000)], identity={}, open_answerer=Answering, journal=journal)
    lines = [record.getMessage() for record in caplog.records]
    assert 20 <= len(lines) <= 24
    assert lines[-1].startswith("1000 of 1000 answered, ") and "10 failed, $0.0400 so far" in lines[-1]


def test_a_server_error_is_retried(tmp_path):
    replies = iter([(503, {"error": {"message": "busy"}}), "fine"])
    with OpenAIServer(lambda body: next(replies)) as server:
        found = ask(tmp_path / "j.sqlite", [request("q")], server, retries=2)
    assert found[0]["text"] == "fine" and len(server.asked) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_at_once(tmp_path, status):
    with OpenAIServer(lambda body: (status, {"error": {"message": "no"}})) as server:
        with pytest.raises(UserError, match=f"endpoint teacher.*refused \\({status}\\)"):
            ask(tmp_path / "j.sqlite", [request(f"q{i}") for i in range(50)], server, retries=3)
        assert len(server.asked) <= 8


def test_an_empty_account_stops_at_once(tmp_path):
    empty = {"error": {"message": "no", "code": "insufficient_quota"}}
    with OpenAIServer(lambda body: (429, empty)) as server, pytest.raises(UserError, match="no quota"):
        ask(tmp_path / "j.sqlite", [request("q")], server)


def test_an_unreachable_server_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="endpoint teacher .*cannot be reached"):
        ask(tmp_path / "j.sqlite", [request("q")], "http://127.0.0.1:9/v1")


def test_an_unset_key_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="variable MY_KEY is not set"):
        ask(tmp_path / "j.sqlite", [request("q")], "http://127.0.0.1:9/v1", key="MY_KEY")


def test_the_key_is_sent_but_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "canary-secret")
    with OpenAIServer() as server:
        ask(tmp_path / "j.sqlite", [request("q")], server, key="MY_KEY")
    assert b"canary-secret" not in (tmp_path / "j.sqlite").read_bytes()


def test_choices_are_asked_as_a_schema_and_unwrapped(tmp_path):
    with OpenAIServer(lambda body: '{"choice": "yes"}') as server:
        found = ask(tmp_path / "j.sqlite", [request("q", choices=("yes", "no"))], server)
    assert found[0]["text"] == "yes"
    sent = server.asked[0]["response_format"]["json_schema"]["schema"]
    assert sent["properties"]["choice"]["enum"] == ["yes", "no"]


@pytest.mark.parametrize(
    ("called", "arguments", "text"),
    [("answer", '{"choice": "yes"}', "yes"), ("answer", '{"choice": "perhaps"}', ""), ("other", "{}", "")],
)
def test_a_model_that_knows_no_schema_must_call_a_function(tmp_path, called, arguments, text):
    def reply(body):
        call = {"id": "1", "type": "function", "function": {"name": called, "arguments": arguments}}
        return Reply(completion(body, None, tool_calls=[call]))

    with OpenAIServer(reply) as server:
        asked = [request("q", choices=("yes", "no")), request("in words")]
        found = ask(tmp_path / "j.sqlite", asked, server, structured="function")
    assert [value["text"] for value in found] == [text, ""]
    assert bool(found[0]["error"]) == (not text) and "calls a tool" in found[1]["error"]
    forced, plain = sorted(server.asked, key=lambda body: "tools" not in body)
    assert "response_format" not in forced and "tools" not in plain
    (tool,) = forced["tools"]
    assert forced["tool_choice"]["function"]["name"] == tool["function"]["name"]
    assert tool["function"]["parameters"]["properties"]["choice"]["enum"] == ["yes", "no"]


def test_what_arrived_before_a_crash_is_on_disk(tmp_path):
    class Crashing:
        def answer(self, requests, missing):
            yield [(0, Answer("kept"))]
            raise RuntimeError("killed")

    requests = [request("a"), request("b")]
    with pytest.raises(RuntimeError), Journal(tmp_path / "j.sqlite") as journal:
        ask_all(requests, identity={}, open_answerer=Crashing, journal=journal)
    stored = sqlite3.connect(tmp_path / "j.sqlite").execute("SELECT answer FROM answers").fetchall()
    assert [json.loads(answer)["text"] for (answer,) in stored] == ["kept"]


def test_a_second_writer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("moult.inference.journal.PATIENCE", 0.1)
    with (
        Journal(tmp_path / "j.sqlite"),
        pytest.raises(UserError, match=r"j.sqlite.lease: process \d+ on .* has it still"),
    ):
        Journal(tmp_path / "j.sqlite")


def test_a_file_that_is_no_journal_is_named(tmp_path):
    (tmp_path / "j.sqlite").write_text("not a database, " * 100)
    with pytest.raises(UserError, match="is not a journal"):
        Journal(tmp_path / "j.sqlite")


def test_usage_adds_up():
    values = [asking.as_stored(Answer("a", prompt_tokens=1000, completion_tokens=500)) for _ in range(4)]
    priced = summed_usage(values, settings("http://x", price={"input": 30, "output": 60}))
    assert (priced["calls"], priced["prompt_tokens"], priced["cost_usd"]) == (4, 4000, 0.24)
    assert summed_usage(values, settings("http://x"))["cost_usd"] is None
    assert summed_usage(values, {"name": "s", "serve": "m"})["cost_usd"] == 0
