"""A server and a model that others made: what they answer is what the client takes it for."""

import json

import pytest
from moult.base.errors import UserError
from moult.inference.asking import ask_all
from moult.inference.journal import Journal
from moult.inference.remote import endpoint
from moult.inference.remote.endpoint import RemoteEndpoint
from moult.inference.requests import ChatRequest, Sampling


def request(text, max_tokens=32, temperature=0.0, **more):
    return ChatRequest(({"role": "user", "content": text},), Sampling(temperature, 1.0, 20, max_tokens), **more)


def settings(url, **more):
    plain = {"name": "llama", "url": url, "model": "smollm2", "key": None, "concurrency": 4, "timeout": 120}
    return plain | {"retries": 1} | more


def ask(server, requests):
    found = {}
    for arrived in RemoteEndpoint(settings(server.url)).answer(requests, range(len(requests))):
        found.update(arrived)
    return [found[index] for index in range(len(requests))]


def test_a_chat_is_answered(server):
    answer = ask(server, [request("What is the capital of France? One sentence.")])[0]
    assert "Paris" in answer.text and answer.finish_reason == "stop"
    assert 30 < answer.prompt_tokens < 60 and 3 < answer.completion_tokens < 32


def test_a_length_stop_is_recognised(server):
    answer = ask(server, [request("Count from one to a hundred in words.", max_tokens=6)])[0]
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 6) and answer.text


def test_choices_are_enforced(server):
    """Not one of them is a word that the model would say by itself."""
    choices = ("zebra", "xylophone", "quartz")
    answers = ask(server, [request(f"What is {i} + {i}?", choices=choices) for i in range(6)])
    assert all(answer.text in choices for answer in answers), answers


def test_a_json_schema_is_enforced(server):
    properties = {"city": {"type": "string", "maxLength": 20}, "rank": {"type": "integer", "minimum": 1, "maximum": 9}}
    schema = {"type": "object", "properties": properties, "required": ["city", "rank"], "additionalProperties": False}
    answers = ask(server, [request(f"Name city number {i}.", 96, schema=schema) for i in range(4)])
    for answer in answers:
        said = json.loads(answer.text)
        assert set(said) == {"city", "rank"} and 1 <= said["rank"] <= 9


def test_a_cut_schema_is_an_error(server):
    schema = {"type": "object", "properties": {"list": {"type": "array", "minItems": 50, "items": {"type": "integer"}}}}
    answer = ask(server, [request("Count.", 12, schema=schema | {"required": ["list"]})])[0]
    assert "cut at max_tokens" in answer.error and answer.completion_tokens == 12


def test_what_the_server_cannot_enforce_is_checked_after_it(server):
    """llama.cpp drops a pattern with a lookahead without a word."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!x)y$"}}, "required": ["a"]}
    answer = ask(server, [request("Is water wet?", 96, schema=schema)])[0]
    assert answer.error and ("breaks the schema at $.a" in answer.error or "not the JSON" in answer.error)


def test_several_are_in_flight(server):
    requests = [request(f"Write a sentence about the number {i}.", temperature=0.8, seed=i) for i in range(12)]
    arrived = list(RemoteEndpoint(settings(server.url)).answer(requests, range(12)))
    order = [index for part in arrived for index, _ in part]
    assert sorted(order) == list(range(12))
    texts = {answer.text for part in arrived for _, answer in part}
    assert len(texts) > 6 and all(answer.error is None for part in arrived for _, answer in part)


def test_a_prompt_that_is_too_long_is_told_and_not_tried_again(server):
    answer = ask(server, [request("word " * 3000)])[0]
    assert "HTTP 400 (exceed_context_size_error)" in answer.error and "context size" in answer.error


def test_a_wrong_url_stops(server):
    stream = RemoteEndpoint(settings(server.url + "/nowhere")).answer([request("q")], [0])
    with pytest.raises(UserError, match="refused \\(404\\)"):
        list(stream)


def test_the_journal_goes_on_after_the_server_was_killed(open_server, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.1)
    requests = [request(f"Write a sentence about the number {i}.", 16, 0.8, seed=i) for i in range(16)]
    first = open_server()

    class Killing(RemoteEndpoint):
        def answer(self, requests, missing):
            answers = 0
            for arrived in super().answer(requests, missing):
                yield arrived
                answers += len(arrived)
                if answers >= 5:
                    first.kill()

    def run(answerer):
        with Journal(tmp_path / "j.sqlite") as journal:
            return ask_all(requests, identity={"model": "smollm2"}, open_answerer=answerer, journal=journal)

    begun = run(lambda: Killing(settings(first.url)))
    kept = [index for index, value in enumerate(begun) if not value["error"]]
    assert 5 <= len(kept) < 16
    assert all("no connection" in begun[index]["error"] for index in range(16) if index not in kept)
    second = open_server()
    whole = run(lambda: RemoteEndpoint(settings(second.url)))
    assert [whole[index] for index in kept] == [begun[index] for index in kept]
    assert all(value["text"] and not value["error"] for value in whole)
