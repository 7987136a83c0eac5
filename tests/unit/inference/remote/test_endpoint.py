"""The client against a server that misbehaves: every row ends as an answer or with its reason, and is paid for once."""

import json
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise

import pytest
from moult.base.errors import UserError
from moult.base.paths import CODE
from moult.inference.remote import endpoint
from moult.inference.remote.endpoint import RemoteEndpoint
from moult.inference.requests import ChatRequest, Sampling
from openai_server import MISBEHAVIOURS, OpenAIServer, Reply, completion, error, misbehaving

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def request(text="q", **more):
    return ChatRequest(({"role": "user", "content": text},), Sampling(max_tokens=8), **more)


def settings(server, **more):
    plain = {"name": "teacher", "url": server.url, "model": "m", "key": None, "concurrency": 4, "timeout": 5}
    return plain | {"retries": 0} | more


def ask(server, requests, budget=None, **more):
    """Return the answers in the order of the requests."""
    found = {}
    for arrived in RemoteEndpoint(settings(server, **more), budget).answer(requests, range(len(requests))):
        found.update(arrived)
    return [found[index] for index in range(len(requests))]


def ask_one(reply, **more):
    with OpenAIServer(lambda body: reply(body) if callable(reply) else reply) as server:
        return ask(server, [request(**more)])[0], server


class Counted:
    """A budget of so many requests."""

    def __init__(self, limit=10**9):
        self.limit, self.checks, self.added = limit, 0, []

    def check(self):
        self.checks += 1
        if self.checks > self.limit:
            raise UserError("the budget is spent")

    def settle(self):
        pass

    def add(self, answer):
        self.added.append(answer)


@pytest.fixture
def quick(monkeypatch):
    """Further tries come soon."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.02)


# What is told of each failure, and whether the reply was paid for.
@pytest.mark.parametrize(
    "kind, reason, paid",
    [
        ("refusal", "refused: I will not say that.", True),
        ("filtered", "refused: stopped by the content filter", True),
        ("tools", "calls a tool", True),
        ("no choices", "no choices", True),
        ("400", "HTTP 400 (context_length_exceeded): too many tokens", False),
        ("500", "HTTP 500 (error): the server had an error; tries: 1", False),
        ("429", "HTTP 429 (rate_limit_exceeded): slow down; tries: 1", False),
        ("html", "a reply that is not JSON: '<html>", False),
        ("half", "a reply that is not JSON", False),
    ],
)
def test_each_failure_has_its_reason(kind, reason, paid):
    answer, server = ask_one(MISBEHAVIOURS[kind])
    assert answer.finish_reason == "error" and answer.text == "" and reason in answer.error
    assert bool(answer.prompt_tokens) == paid and len(server.asked) == 1


def test_a_length_stop_is_no_error_but_in_a_schema_it_is():
    answer, _ = ask_one(MISBEHAVIOURS["length"])
    assert (answer.finish_reason, answer.text) == ("length", "an answer that goes on")
    answer, _ = ask_one(lambda body: Reply(completion(body, '{"n": 1', "length")), schema=SCHEMA)
    assert answer.finish_reason == "error" and "cut at max_tokens" in answer.error and answer.completion_tokens


@pytest.mark.parametrize(
    "said, form, reason",
    [
        ('{"choice": "ye', {"choices": ("yes", "no")}, "not the JSON that was asked for"),
        ('{"choice": "maybe"}', {"choices": ("yes", "no")}, "not one of the choices"),
        ('["yes"]', {"choices": ("yes", "no")}, "not one of the choices"),
        ('{"n": "one"}', {"schema": SCHEMA}, "breaks the schema at $.n: 'one' is not of type 'integer'"),
    ],
)
def test_a_reply_in_another_form_is_an_error(said, form, reason):
    answer, _ = ask_one(said, **form)
    assert reason in answer.error and answer.completion_tokens


def test_a_schema_that_is_kept_passes():
    assert ask_one('{"n": 3}', schema=SCHEMA)[0].text == '{"n": 3}'


def test_sloppy_servers_break_nothing():
    for body in (b"[]", b'"text"', b"null", b"7", b"{}"):
        answer, _ = ask_one(Reply(body))
        assert answer.finish_reason == "error" and answer.prompt_tokens == 0
    # What looks like an answer was paid for, whatever it reports.
    for body in (b'{"choices": [null]}', b'{"choices": [{"message": null}], "usage": 7}'):
        answer, _ = ask_one(Reply(body))
        assert answer.finish_reason == "error" and answer.assumed and answer.completion_tokens == 8
        assert json.loads(answer.raw) == json.loads(body)
    odd = ask_one(lambda body: Reply(completion(body, "half", "insufficient_system_resource")))[0]
    assert "insufficient_system_resource" in odd.error
    no_usage = ask_one(lambda body: Reply(completion(body, "fine") | {"usage": None}))[0]
    assert (no_usage.text, no_usage.completion_tokens, no_usage.assumed) == ("fine", 8, True)


def test_as_many_are_in_flight_as_were_asked_for():
    with OpenAIServer(delay=0.3) as server:
        ask(server, [request(f"q{i}") for i in range(12)], concurrency=4)
    # A slot asks again when its answer is there, 0.3 s later: never a fifth before that.
    assert all(later - earlier > 0.29 for earlier, later in zip(server.times, server.times[4:], strict=False))
    assert server.times[-1] - server.times[0] < 6 * 0.3


def test_a_slow_drip_ends_at_the_timeout():
    begun = time.monotonic()
    with OpenAIServer(MISBEHAVIOURS["drip"]) as server:
        answer = ask(server, [request()], timeout=0.5)[0]
    assert answer.error == "no answer within 0.5 s; tries: 1" and time.monotonic() - begun < 5


def test_what_passes_is_tried_again(quick):
    for kind in ("500", "reset", "html", "429"):
        replies = iter([MISBEHAVIOURS[kind]] * 3)
        with OpenAIServer(lambda body, replies=replies: next(replies, lambda _: "fine")(body)) as server:
            server.reply({"messages": []})  # one of the three
            assert ask(server, [request()], retries=2)[0].text == "fine"
            assert len(server.asked) == 3


def test_what_was_paid_for_or_will_not_change_is_not_tried_again(quick):
    for kind in ("400", "refusal", "no choices"):
        with OpenAIServer(MISBEHAVIOURS[kind]) as server:
            ask(server, [request()], retries=5)
            assert len(server.asked) == 1
    usage = {"error": {"message": "late"}, "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    with OpenAIServer(lambda body: (500, usage)) as server:
        answer = ask(server, [request()], retries=5)[0]
        assert (answer.prompt_tokens, answer.completion_tokens, len(server.asked)) == (5, 2, 1)


@pytest.mark.parametrize(
    "kind, sentence", [("401", "refused \\(401\\)"), ("quota", "no quota left.*exceeded your current quota")]
)
def test_a_wrong_key_or_an_empty_account_stops_without_another_try(kind, sentence):
    begun = time.monotonic()
    with OpenAIServer(MISBEHAVIOURS[kind]) as server:
        with pytest.raises(UserError, match=f"endpoint teacher .*{sentence}.*in the journal"):
            ask(server, [request(f"q{i}") for i in range(50)], retries=5)
        assert len(server.asked) <= 4 and time.monotonic() - begun < 5


def test_the_hard_limit_of_an_account_is_known_by_its_code():
    with pytest.raises(UserError, match="no quota left"):
        ask_one(lambda body: error(400, "Billing hard limit has been reached", "billing_hard_limit_reached"))


def test_what_is_under_way_still_arrives_when_a_run_is_given_up():
    """The key is withdrawn while the first answer is being written."""

    def reply(body):
        return Reply(completion(body, "late"), delay=0.5) if "q0" in str(body) else MISBEHAVIOURS["401"](body)

    found = []
    with OpenAIServer(reply) as server, pytest.raises(UserError, match="401"):
        for arrived in RemoteEndpoint(settings(server)).answer([request(f"q{i}") for i in range(9)], range(9)):
            found += arrived
    assert [(index, answer.text) for index, answer in found] == [(0, "late")]


def test_an_unreachable_host_stops_in_time():
    begun = time.monotonic()
    with OpenAIServer() as server:
        pass
    with pytest.raises(UserError, match="cannot be reached"):
        ask(server, [request(f"q{i}") for i in range(9)], retries=50)
    assert time.monotonic() - begun < 5


def test_a_server_that_restarts_is_waited_for(quick):
    with OpenAIServer(delay=0.05) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        stream = RemoteEndpoint(settings(server, retries=20, concurrency=2)).answer(
            [request(f"q{i}") for i in range(20)], range(20)
        )
        found = list(next(stream))
    with OpenAIServer(port=port):
        found += [one for arrived in stream for one in arrived]
    assert sorted(index for index, _ in found) == list(range(20)) and not any(answer.error for _, answer in found)


def test_an_endpoint_that_never_answers_is_given_up(quick):
    with OpenAIServer(MISBEHAVIOURS["500"]) as server:
        with pytest.raises(UserError, match="50 requests in a row failed, the last with 'HTTP 500"):
            ask(server, [request(f"q{i}") for i in range(500)])
        assert len(server.asked) < 60
    # Rows that it will not take are another matter, once it has taken one.
    with OpenAIServer(lambda body: "fine" if "q0" in str(body) else MISBEHAVIOURS["400"](body)) as server:
        assert sum(bool(answer.error) for answer in ask(server, [request(f"q{i}") for i in range(80)])) == 79


@pytest.mark.parametrize("header, value", [("Retry-After", "1"), ("retry-after-ms", "1000")])
def test_a_wait_that_is_asked_for_holds_for_all(quick, header, value):
    """The fifth request is refused: nothing is sent until the time is over."""
    with OpenAIServer(delay=0.02) as server:
        limited = Reply({"error": {"message": "slow down"}}, 429, {header: value})
        server.reply = lambda body: limited if len(server.asked) == 5 else "fine"
        answers = ask(server, [request(f"q{i}") for i in range(20)], retries=1)
    assert all(answer.text == "fine" for answer in answers)
    gap, at = max((after - before, at) for at, (before, after) in enumerate(pairwise(server.times)))
    # Those already under way when it said so are the only ones in between.
    assert gap > 0.9 and at < 5 + 4


def test_a_wait_of_hours_is_left_to_the_next_run():
    with pytest.raises(UserError, match="asks to wait 7200 s"):
        ask_one(lambda body: error(429, "daily limit", retry_after=7200))


def test_requests_per_minute_are_kept_to_and_further_tries_count(quick):
    """600 a minute are 10 a second; a second's worth may be saved up. Each of 15 requests is answered when it is asked
    again: 30 tries, of which 20 have to wait for their turn. Requests alone would be through after half a second."""
    asked = Counter()

    def reply(body):
        text = body["messages"][-1]["content"]
        asked[text] += 1
        return error(500, "the server had an error") if asked[text] == 1 else "a good answer"

    with OpenAIServer(reply) as server:
        answers = ask(server, [request(f"q{i}") for i in range(15)], requests_per_minute=600, concurrency=15, retries=1)
    assert [one.text for one in answers] == ["a good answer"] * 15 and len(server.times) == 30
    assert server.times[-1] - server.times[0] > 1.9
    for first, begun in enumerate(server.times):
        for last in range(first + 1, len(server.times)):
            # Loopback may deliver two requests closer than they were sent: one more is allowed for.
            assert last - first + 1 <= 10 + (server.times[last] - begun) * 10 + 1


def test_tokens_per_minute_are_kept_to():
    """Each request holds about 60 tokens until its usage is known, and costs 12: 30 a second allow 2.5 requests."""
    with OpenAIServer() as server:
        ask(server, [request(f"q{i}") for i in range(4)], tokens_per_minute=30 * 60, concurrency=4)
    assert server.times[-1] - server.times[0] > 0.5


def test_every_try_asks_the_budget_and_every_paid_reply_is_counted(quick):
    budget = Counted()
    with OpenAIServer(misbehaving(3, {"500": 0.3, "refusal": 0.1, "length": 0.1, "400": 0.1})) as server:
        answers = ask(server, [request(f"q{i}") for i in range(60)], budget, retries=9)
    assert budget.checks == len(server.asked) > 60
    assert len(budget.added) == len(server.paid)
    assert sum(one.completion_tokens for one in budget.added) == sum(one.completion_tokens for one in answers)


def test_a_spent_budget_stops_and_keeps_what_it_paid_for():
    budget, found = Counted(limit=6), []
    with OpenAIServer(delay=0.1) as server, pytest.raises(UserError, match="the budget is spent"):
        for arrived in RemoteEndpoint(settings(server), budget).answer(
            [request(f"q{i}") for i in range(20)], range(20)
        ):
            found += arrived
    assert len(found) == len(server.paid) == len(budget.added) == 6


def test_a_key_is_never_in_a_message(monkeypatch):
    monkeypatch.setenv("MY_KEY", "canary\x07secret")
    with OpenAIServer() as server, pytest.raises(UserError, match="MY_KEY holds no key") as caught:
        ask(server, [request()], key="MY_KEY")
    assert "canary" not in str(caught.value)


def test_openai_is_not_imported_to_ask():
    """Half of a second of every small job."""
    code = "import sys; from moult.corpora import generated; import httpx2; assert 'openai' not in sys.modules"
    scripts = CODE
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(scripts)})
