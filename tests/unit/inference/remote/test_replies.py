"""Replies as servers send them: each is an answer or has its reason, is counted, and can be kept and read again."""

import copy
import json
import math
import os
import random
import sqlite3

import pytest
from moult.base.errors import UserError
from moult.base.outside import MAX_DEPTH, TooMuch, Unreadable, clean_text, parse_json
from moult.base.secrets import redacted
from moult.inference import structured
from moult.inference.asking import ask_all
from moult.inference.journal import Journal
from moult.inference.remote import batch, endpoint
from moult.inference.remote.endpoint import RemoteEndpoint, Respelt, Transient
from moult.inference.remote.errors import problem_in, problem_of
from moult.inference.remote.wire import answer_of
from moult.inference.requests import Answer, ChatRequest, Sampling, request_key
from moult.inference.spending import Budget, summed_usage
from moult.inference.usage import MOST
from openai_batches import BatchServer
from openai_server import OpenAIServer, Reply, completion, error

SOAK = bool(os.environ.get("MOULT_SOAK"))
PRICE = {"input": 1.0, "output": 2.0}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
BODY = {"model": "m", "messages": [{"role": "user", "content": "some words to ask"}]}
HALVES = ("\ud83d", "\ude00", "\udfff\ud800")


def request(text="some words to ask", **more):
    return ChatRequest(({"role": "user", "content": text},), Sampling(max_tokens=8), **more)


def settings(url="http://127.0.0.1:9/v1", **more):
    plain = {"name": "teacher", "url": url, "model": "m", "key": None, "concurrency": 4, "timeout": 5, "retries": 0}
    return plain | {"price": PRICE} | more


def ask(server, journal, requests, **more):
    """Return (stored values, budget) of requests that are asked as a job does."""
    budget = Budget(None, PRICE, f"{journal}.spent")
    with Journal(journal) as kept:
        asked = settings(server.url, **more)
        values = ask_all(
            requests,
            identity={"url": "u", "model": "m"},
            open_answerer=lambda: RemoteEndpoint(asked, budget),
            journal=kept,
        )
    return values, budget


def reads(reply, **more):
    return answer_of(reply, request(**more))


# ---- what a server writes, as text


@pytest.mark.parametrize("half", HALVES)
def test_halves_of_characters_are_replaced_wherever_they_stand(half):
    escaped = json.dumps({"a": half, half: [half]}).encode()
    for data in (escaped, json.dumps({"a": half, half: [half]}, ensure_ascii=False)):
        assert set(str(parse_json(data))) & set("\ud83d\ude00\udfff\ud800") == set()
        assert json.dumps(parse_json(data), ensure_ascii=False).encode()
    assert parse_json(b'"\\ud83d\\ude00 \\\\ud83d \\\\\\ud83d"') == "\U0001f600 \\ud83d \\\ufffd"
    assert clean_text(f"a{half}b").startswith("a\ufffd")


def test_json_is_bounded_and_its_numbers_are_finite_or_floats():
    with pytest.raises(TooMuch):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(TooMuch):
        parse_json(b"[" + b"{}," * 300_000 + b"{}]")
    assert parse_json(json.dumps("[{" * 10_000).encode()) == "[{" * 10_000
    assert parse_json(b'{"a": NaN, "b": 1' + b"0" * 5000 + b"}") == {"a": None, "b": math.inf}
    assert parse_json('\ufeff{"a": 1}'.encode()) == parse_json('{"a": 1}'.encode("utf-16")) == {"a": 1}
    for data in (b"", b"{", b"\xff\xfe\x00", b'"', b"{'a': 1}", b"[" * 50):
        with pytest.raises(Unreadable):
            parse_json(data)


def test_anything_in_a_text_is_kept_and_read_again(tmp_path):
    """Each reply's text has something in it that one layer or another could stumble over."""
    odd = [
        "\ud83d",
        "\ude00 and more",
        "a\x00b",
        "\x1b[31m",
        "\u2028\u2029\x85",
        "\ufeff",
        "\U0001f600",
        "\u202e",
        "\\ud83d",
    ]

    def reply(body):
        text = odd[int(body["messages"][0]["content"])]
        return Reply(json.dumps(completion(body, f"<{text}>", reasoning_content=text, id=text)).encode())

    with OpenAIServer(reply) as server:
        requests = [request(str(number)) for number in range(len(odd))]
        values, _ = ask(server, tmp_path / "j.sqlite", requests)
        again, _ = ask(server, tmp_path / "j.sqlite", requests)
    assert values == again and len(server.paid) == len(odd)
    assert [value["text"] for value in values] == [f"<{clean_text(text)}>" for text in odd]
    json.dumps(values, ensure_ascii=False).encode()


def test_a_journal_of_older_code_is_cleaned_where_it_is_read(tmp_path):
    wanted = [request(str(number)) for number in range(5)]
    keys = [request_key(one, {"url": "u", "model": "m"}) for one in wanted]
    plain = {"text": "fine", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 2, "error": None}
    stored = [
        json.dumps(plain | {"text": "cut \ud83d"}),
        json.dumps(plain | {"text": "", "finish_reason": "error", "error": "refused: \ude00"}),
        json.dumps(plain | {"prompt_tokens": -50, "completion_tokens": 10**300}),
        '{"text": "cut',
        json.dumps(plain | {"prompt_tokens": True}),
    ]
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.keep([(key, one.as_dict(), {}) for key, one in zip(keys, wanted, strict=True)])
    with sqlite3.connect(tmp_path / "j.sqlite") as connection:
        connection.execute("UPDATE answers SET digest = NULL")
        connection.executemany("UPDATE answers SET answer = ? WHERE key = ?", list(zip(stored, keys, strict=True)))
    with Journal(tmp_path / "j.sqlite") as journal:
        known = journal.known(keys)
    assert known[keys[0]] == plain | {"text": "cut \ufffd"} and known[keys[1]]["error"] == "refused: \ufffd"
    assert known[keys[2]]["assumed"] and 0 < known[keys[2]]["prompt_tokens"] < 1000
    assert known[keys[2]]["completion_tokens"] == 8 and type(known[keys[4]]["prompt_tokens"]) is int
    assert keys[3] not in known and known[keys[4]]["completion_tokens"] == 2
    json.dumps(known, ensure_ascii=False).encode()


def test_half_a_character_within_a_verdict_is_replaced_where_the_verdict_is_read():
    said = '{"feedback": "so \\ud83d", "hints": "", "verdict": "correct"}'
    verdict, problem = structured.parse_verdict(said)
    assert problem is None and verdict["feedback"] == "so \ufffd"
    scores = {"overall": 3}
    pair = json.dumps({"justification": "x", "answer_1": scores, "answer_2": scores}).replace('"x"', '"\\ude00"')
    assert structured.parse_pair(pair, ["overall"])["justification"] == "\ufffd"


# ---- content and ends


@pytest.mark.parametrize(
    "content, text",
    [
        ([{"type": "text", "text": "a part"}, {"type": "text", "text": " and one"}], "a part and one"),
        (["a", "b"], "ab"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so"}], "so"),
        ({"type": "text", "text": "one"}, "one"),
        ([], ""),
        (None, ""),
        ("", ""),
    ],
)
def test_content_in_parts_is_its_text(content, text):
    assert reads(completion(BODY, content)).text == text


@pytest.mark.parametrize("content", [7, True, 1.5, [1], [{"type": "image_url", "image_url": {}}], {"a": 1}, [[]]])
def test_content_that_is_no_text_is_a_reject_that_keeps_it(content):
    answer = reads(completion(BODY, content))
    assert "not text" in answer.error and answer.completion_tokens
    assert json.loads(answer.raw)["choices"][0]["message"]["content"] == content


def test_an_object_where_an_object_was_asked_for_is_one():
    assert reads(completion(BODY, {"n": 3}), schema=SCHEMA).text == '{"n": 3}'
    called = [{"id": "1", "type": "function", "function": {"name": "answer", "arguments": {"n": 3}}}]
    assert reads(completion(BODY, None, "tool_calls", tool_calls=called), schema=SCHEMA).text == '{"n": 3}'


@pytest.mark.parametrize(
    "word, ended",
    [(word, "stop") for word in ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE", None, "")]
    + [(word, "stop") for word in ("FINISH_REASON_STOP", "<|endoftext|>", "end_of_turn", "stop_token", "done")]
    + [(word, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens")]
    + [
        (word, "refused")
        for word in ("content_filter", "SAFETY", "safety", "RECITATION", "refusal", "PROHIBITED_CONTENT")
    ]
    + [
        (word, "unknown") for word in ("error", "abort", "insufficient_system_resource", 7, ["stop"], {"a": 1}, "later")
    ],
)
def test_ends_of_other_servers_naming_are_ends(word, ended):
    answer = reads(completion(BODY, "three words here", word))
    if ended in ("stop", "length"):
        assert (answer.text, answer.finish_reason, answer.raw) == ("three words here", ended, None)
    else:
        assert ended in answer.error and "three words here" in answer.raw


def test_an_end_that_is_not_told_is_a_cut_where_the_answer_is_as_long_as_it_could_be():
    full = completion(BODY, "w " * 8, None)
    assert reads(full).finish_reason == "length" and reads(completion(BODY, "w", None)).finish_reason == "stop"
    called = completion(BODY, "w", "tool_calls")
    assert reads(called).text == "w"
    assert "calls a tool" in reads(completion(BODY, "w", "stop", function_call={"name": "f"})).error


def test_a_model_that_only_thought_has_its_reply_kept():
    answer = reads(completion(BODY, "", "length", reasoning_content="hm \ud83d"))
    assert answer.text == "" and "hm" in answer.raw and answer.as_dict()["raw"] == clean_text(answer.raw)


def test_an_answer_without_anything_odd_is_stored_as_ever():
    plain = {"text": "w", "finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": 1, "error": None}
    assert reads(completion(BODY, "w")).as_dict() == plain


# ---- errors

PASSING = [
    {"error": {"message": "Provider returned error", "code": 502}},
    {"error": {"message": "Provider returned error", "code": "504"}},
    {"error": {"message": "x", "code": 429, "metadata": {"raw": "slow", "provider_name": "P"}}},
    {"error": {"message": "slow down", "code": "rate_limit_exceeded", "type": "requests"}},
    {"error": {"type": "overloaded_error", "message": "Overloaded"}, "type": "error"},
    {"error": {"message": "boom", "type": "server_error", "param": None, "code": None}},
    {"error": "the model is overloaded"},
    {"error": "something odd"},
    {"errors": [{"message": "gateway", "code": 524}]},
    {"object": "error", "message": "boom", "type": "InternalServerError", "param": None, "code": 500},
    {"detail": "Service unavailable"},
    {"detail": {"error": {"message": "Rate limit reached"}}},
    {"code": 50505, "message": "Model service overloaded. Please try again later.", "data": None},
    {"choices": [{"error": {"code": 502, "message": "gone"}, "finish_reason": "error", "message": {"content": ""}}]},
    {"choices": [{"error": {"code": 429, "message": "m"}, "message": None}], "usage": {"prompt_tokens": 0}},
    [{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}],
]
OWN = [
    {"error": {"message": "The response was filtered", "code": "content_filter", "status": 400}},
    {"error": {"message": "flagged", "code": "moderation_blocked"}},
    {"error": {"message": "maximum context", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    {"detail": [{"loc": ["body", "messages"], "msg": "field required", "type": "value_error"}], "code": 422},
    {"choices": [{"error": {"code": 400, "message": "bad"}, "message": {"content": None}}]},
]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)


@pytest.mark.parametrize("sent", PASSING)
def test_an_error_within_a_200_that_passes_is_tried_again(quick, tmp_path, sent):
    replies = iter([Reply(json.dumps(sent).encode())] * 2)
    with OpenAIServer(lambda body: next(replies, "good")) as server:
        (value,), _ = ask(server, tmp_path / "j", [request()], retries=2)
    assert value["text"] == "good" and len(server.asked) == 3
    with OpenAIServer(lambda body: Reply(json.dumps(sent).encode())) as server:
        (value,), budget = ask(server, tmp_path / "k", [request()])
    assert value["error"].startswith("HTTP 200 with error ") and value["prompt_tokens"] == budget.calls == 0


@pytest.mark.parametrize("sent", OWN)
def test_an_error_within_a_200_that_stays_is_the_row_s_own(quick, tmp_path, sent):
    with OpenAIServer(lambda body: Reply(json.dumps(sent).encode())) as server:
        (value,), _ = ask(server, tmp_path / "j", [request()], retries=3)
    assert value["error"].startswith("HTTP 200 with error 4") and len(server.asked) == 1


@pytest.mark.parametrize(
    "sent, sentence",
    [
        ({"error": {"message": "Insufficient credits", "code": 402}}, "no quota left"),
        ({"error": {"message": "m", "code": "insufficient_quota"}}, "no quota left"),
        ({"error": {"message": "No auth credentials found", "code": 401}}, "refused .401"),
        ({"error": {"message": "Incorrect API key provided", "type": "invalid_request_error"}}, "refused .401"),
    ],
)
def test_an_error_within_a_200_that_all_would_meet_stops(tmp_path, sent, sentence):
    with OpenAIServer(lambda body: Reply(json.dumps(sent).encode())) as server:
        with pytest.raises(UserError, match=sentence):
            ask(server, tmp_path / "j", [request(str(n)) for n in range(30)], retries=3)
        assert len(server.asked) <= 4


def test_an_error_with_text_or_tokens_was_paid_for_and_is_kept(tmp_path):
    part = {"choices": [{"error": {"code": 502, "message": "gone"}, "message": {"content": "half an ans"}}]}
    with OpenAIServer(lambda body: Reply(json.dumps(part).encode())) as server:
        (value,), budget = ask(server, tmp_path / "j", [request()], retries=3)
        ask(server, tmp_path / "j", [request()], retries=3)
    assert "half an ans" in value["raw"] and value["assumed"] and budget.calls > 0 and len(server.asked) == 1


def test_what_errors_say_of_themselves():
    openrouter = {"error": {"code": 429, "message": "Provider returned error", "metadata": {"raw": "try later"}}}
    found = problem_of(openrouter)
    assert (found.status, found.message) == (429, "Provider returned error: try later")
    google = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m"}}
    google["error"]["details"] = [{"@type": "RetryInfo", "retryDelay": "17s"}]
    assert problem_of(google).wait == 17 and problem_of(google).code == "RESOURCE_EXHAUSTED"
    headers = {"error": {"message": "m", "code": 429, "metadata": {"headers": {"Retry-After": "3"}}}}
    assert problem_of(headers).wait == 3 and problem_of({"error": {"retry_after_ms": 250}}).wait == 0.25
    mistral = {"object": "error", "message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}}
    assert problem_of(mistral).message == "Extra inputs at body.seed"
    assert problem_of("<html>\n busy\x1b").message == "<html> busy\ufffd"
    assert problem_in({"choices": [], "error": None}) is None and problem_in({"id": 1}) is None


def test_a_wait_within_an_error_is_kept_to(quick, tmp_path):
    slow = Reply({"error": {"message": "slow down", "code": 429, "retry_after": 0.6}})
    replies = iter([slow])
    with OpenAIServer(lambda body: next(replies, "good")) as server:
        (value,), _ = ask(server, tmp_path / "j", [request()], retries=1)
    assert value["text"] == "good" and server.times[1] - server.times[0] > 0.55


# ---- counts of tokens


@pytest.mark.parametrize(
    "usage, counts",
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, (5, 2)),
        ({"prompt_tokens": 5.0, "completion_tokens": "2"}, (5, 2)),
        ({"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 4}, (7, 2)),
        ({"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 9}, (5, 4)),
        ({"prompt_tokens": 5, "total_tokens": 7}, (5, 2)),
        ({"prompt_tokens": None, "input_tokens": 5, "completion_tokens": 2}, (5, 2)),
    ],
)
def test_counts_under_other_names_and_in_other_types_are_read(usage, counts):
    answer = reads(completion(BODY, "w") | {"usage": usage})
    assert (answer.prompt_tokens, answer.completion_tokens, answer.assumed) == (*counts, False)


@pytest.mark.parametrize("place", ["choice", "x_groq", "timings", "flat"])
def test_counts_in_other_places_are_read(place):
    reply = {key: value for key, value in completion(BODY, "w").items() if key != "usage"}
    if place == "choice":
        reply["choices"][0]["usage"] = {"prompt_tokens": 5, "completion_tokens": 2}
    elif place == "flat":
        reply |= {"prompt_eval_count": 5, "eval_count": 2}
    else:
        names = ("prompt_n", "predicted_n") if place == "timings" else ("prompt_tokens", "completion_tokens")
        inner = dict(zip(names, (5, 2), strict=True))
        reply[place] = inner if place == "timings" else {"usage": inner}
    answer = reads(reply)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.assumed) == (5, 2, False)


@pytest.mark.parametrize(
    "usage",
    [None, 7, [], {}, {"prompt_tokens": -5, "completion_tokens": -2}, {"prompt_tokens": 0, "completion_tokens": 0}]
    + [{"prompt_tokens": 10**300, "completion_tokens": 10**400}, {"prompt_tokens": True, "completion_tokens": [2]}]
    + [{"prompt_tokens": {"a": 1}}, {"prompt_tokens": "many", "completion_tokens": "nan"}, {"prompt_tokens": math.inf}]
    + [{"prompt_tokens": 1.5, "completion_tokens": 0.1}, {"tokens": 12}],
)
def test_counts_that_cannot_be_true_are_taken_at_their_worst_case(usage):
    answer = reads(completion(BODY, "seven words " * 3) | {"usage": usage})
    size = len(json.dumps({"messages": request().messages, "schema": None, "choices": None}))
    assert (answer.prompt_tokens, answer.completion_tokens, answer.assumed) == (size, 9, True)
    assert answer.text and answer.as_dict()["assumed"]


def test_a_text_that_is_longer_than_its_counts_allow_is_not_believed():
    answer = reads(completion(BODY, "x" * 10_000) | {"usage": {"prompt_tokens": 5, "completion_tokens": 1}})
    assert answer.completion_tokens == 2500 and answer.prompt_tokens == 5 and answer.assumed


def test_assumed_counts_are_said_once_charged_and_told_in_the_usage(tmp_path, caplog):
    with OpenAIServer(lambda body: Reply(completion(body, "fine") | {"usage": None})) as server:
        values, budget = ask(server, tmp_path / "j", [request(str(n)) for n in range(9)])
    assert caplog.text.count("no counts of tokens that can be true") == 1
    total = summed_usage(values, settings())
    assert total["assumed"] == 9 and budget.calls == pytest.approx(total["cost_usd"]) and budget.calls > 0
    assert "assumed" not in summed_usage([Answer("w", prompt_tokens=1).as_dict()], settings())


def test_a_cut_json_is_charged_and_many_of_them_end_the_run(quick, tmp_path):
    cut = Reply(json.dumps(completion(BODY, "half of it")).encode()[:60])
    with OpenAIServer(lambda body: cut) as server:
        (value,), budget = ask(server, tmp_path / "j", [request()], retries=1)
        assert budget.calls > 0 and len(server.asked) == 2 and "not JSON" in value["error"]
        with pytest.raises(
            UserError, match="20 paid replies in a row were unusable, the last: 'a reply that is not JSON"
        ):
            ask(server, tmp_path / "k", [request(str(n)) for n in range(500)], retries=5)
        assert len(server.asked) < 40


# ---- one row and all rows


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_before_any_answer_is_the_row_s_own_if_others_are_answered(tmp_path, status):
    with OpenAIServer(
        lambda body: error(status, "flagged") if body["messages"][0]["content"] == "0" else "fine"
    ) as server:
        values, _ = ask(server, tmp_path / "j", [request(str(n)) for n in range(9)], concurrency=1)
        assert [bool(value["error"]) for value in values] == [True] + [False] * 8
    with OpenAIServer(lambda body: error(status, "no such model")) as server:
        for count in (1, 3, 200):
            with pytest.raises(UserError, match=f"refused .{status}.: no such model; check key, url and model"):
                ask(server, tmp_path / "k", [request(str(n)) for n in range(count)])
        assert len(server.asked) < 20


def test_useless_replies_are_kept_and_the_next_run_goes_on_behind_them(tmp_path):
    refusing = Reply(completion(BODY, None, refusal="no"))
    requests = [request(str(n)) for n in range(60)]
    with OpenAIServer(lambda body: refusing) as server:
        for run in range(1, 3):
            with pytest.raises(UserError, match="20 paid replies in a row .* 'refused: no'.*run again"):
                ask(server, tmp_path / "j", requests)
            assert 20 * run <= len(server.paid) <= 24 * run and server.paid_twice() == 0
    # Another reason, or an answer, in between is another matter; and so are the last rows of a job.
    odd = iter([refusing, Reply(completion(BODY, "", "content_filter")), Reply(completion(BODY, 7))] * 100)
    with OpenAIServer(lambda body: next(odd)) as server:
        values, _ = ask(server, tmp_path / "k", requests, concurrency=1)
        assert all(value["error"] for value in values)
    with OpenAIServer(lambda body: refusing) as server:
        ask(server, tmp_path / "l", requests[:20])


# ---- parameters


def takes(names, values=()):
    """Return a reply function of a model that takes no parameter of `names`, and of `values` only that value."""

    def reply(body):
        for name in names:
            if name in body:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported with this model."}}
        for name, value in dict(values).items():
            if body.get(name, value) != value:
                told = f"Unsupported value: '{name}' does not support {body[name]} with this model. Only the default"
                return 400, {"error": {"message": told, "param": name, "code": "unsupported_value"}}
        return "good" if "max_tokens" in body or "max_completion_tokens" in body else "without end"

    return reply


def test_another_name_of_max_tokens_is_found_out_once_for_all_rows(tmp_path, caplog):
    requests = [request(str(n)) for n in range(40)]
    with OpenAIServer(takes(["max_tokens"]), delay=0.01) as server:
        values, _ = ask(server, tmp_path / "j", requests)
    assert {value["text"] for value in values} == {"good"} and len(server.asked) <= 44
    assert caplog.text.count("takes no max_tokens") == 1
    with OpenAIServer(takes(["max_tokens"])) as server:
        ask(server, tmp_path / "k", requests, max_tokens_as="max_completion_tokens")
        assert len(server.asked) == 40
        values, _ = ask(server, tmp_path / "l", requests[:3], max_tokens_as="max_tokens")
        assert all("not supported" in value["error"] for value in values)
    with OpenAIServer(takes(["max_tokens", "max_completion_tokens"])) as server:
        values, _ = ask(server, tmp_path / "m", requests[:3])
        assert all("not supported" in value["error"] for value in values) and len(server.asked) <= 6


@pytest.mark.parametrize(
    "sent",
    [
        {"error": {"message": "use max_completion_tokens", "code": None}},
        {"error": {"message": "no", "param": "max_tokens", "code": "unknown_parameter"}},
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}
            ]
        },
        {"object": "error", "message": {"detail": [{"loc": ["body", "max_tokens"], "msg": "Unexpected field"}]}},
        {"error": "Unrecognized request argument supplied: max_tokens"},
    ],
)
@pytest.mark.parametrize("status", [400, 422, 200])
def test_a_refused_name_is_known_in_many_words(tmp_path, sent, status):
    with OpenAIServer(lambda body: (status, sent) if "max_tokens" in body else "good") as server:
        (value,), _ = ask(server, tmp_path / "j", [request()])
    assert value["text"] == "good" and server.asked[1]["max_completion_tokens"] == 8


def test_what_changes_nothing_is_left_out_and_what_decides_the_answer_is_a_sentence(tmp_path, caplog):
    warm = [ChatRequest(request(str(n)).messages, Sampling(1.0, max_tokens=8), seed=n) for n in range(9)]
    with OpenAIServer(takes(["seed", "max_tokens", "temperature", "top_p"])) as server:
        values, _ = ask(server, tmp_path / "j", warm)
    assert {value["text"] for value in values} == {"good"}
    assert set(server.asked[-1]) == {"model", "messages", "max_completion_tokens"}
    assert "takes no seed; asked without it, so that what it draws cannot be drawn again" in caplog.text
    greedy = [request(str(n)) for n in range(200)]
    with OpenAIServer(takes([], {"temperature": 1})) as server:
        with pytest.raises(UserError, match="does not take `temperature 0.0`, on which its answers depend; write a"):
            ask(server, tmp_path / "k", greedy)
        assert len(server.asked) <= 4
    with OpenAIServer(takes(["top_k"])) as server, pytest.raises(UserError, match="`top_k 5`.*write `top_k: 0`"):
        ask(server, tmp_path / "l", [ChatRequest(request().messages, Sampling(top_k=5, max_tokens=8))])
    with OpenAIServer(takes(["response_format"])) as server, pytest.raises(UserError, match="structured: function"):
        ask(server, tmp_path / "m", [request(schema=SCHEMA)])


def test_an_error_that_only_speaks_of_a_parameter_changes_no_spelling(tmp_path):
    said = [
        "'max_tokens' or 'max_completion_tokens' is too large: 8. The maximum is 4",
        "max_tokens must be at most 4",
        "the text 'seed' was flagged",
    ]

    def reply(body):
        number = int(body["messages"][0]["content"])
        return (400, {"error": {"message": said[number]}}) if number < len(said) else "good"

    with OpenAIServer(reply) as server:
        values, _ = ask(server, tmp_path / "j", [request(str(n)) for n in range(6)], concurrency=1)
    assert [value["text"] for value in values[3:]] == ["good"] * 3 and len(server.asked) == 6
    assert all("max_tokens" in body and "seed" in body for body in server.asked)


def test_batches_find_the_name_out_too(tmp_path):
    with BatchServer(takes(["max_tokens", "seed"])) as server, Journal(tmp_path / "j") as kept:
        asked = settings(server.url, poll=0.02, retries=1)
        requests = [request(str(n)) for n in range(12)]
        values = ask_all(
            requests,
            identity={},
            open_answerer=lambda: batch.BatchEndpoint(asked, Budget(), kept, {}),
            journal=kept,
        )
    assert {value["text"] for value in values} == {"good"} and len(server.paid) == 12 and len(server.batches) == 3
    refused = {"code": "unsupported_parameter", "param": "max_tokens", "line": 1, "message": "max_tokens: unsupported"}
    with BatchServer(takes([])) as server, Journal(tmp_path / "k") as kept:
        server.endings = [{"status": "failed", "errors": [refused]}]
        asked = settings(server.url, poll=0.02, retries=1)
        values = ask_all(
            [request()],
            identity={},
            open_answerer=lambda: batch.BatchEndpoint(asked, Budget(), kept, {}),
            journal=kept,
        )
    assert values[0]["text"] == "good" and "max_completion_tokens" in server.paid[0]


# ---- keys in messages


def test_a_key_is_hidden_in_messages_and_never_in_an_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_KEY", "none")
    with OpenAIServer(lambda body: "none of the above") as server:
        assert ask(server, tmp_path / "j", [request()], key="LOCAL_KEY")[0][0]["text"] == "none of the above"
        server.reply = lambda body: error(400, "the key none is wrong, nonetheless")
        told = ask(server, tmp_path / "k", [request()], key="LOCAL_KEY")[0][0]["error"]
        assert told.endswith("the key [LOCAL_KEY] is wrong, nonetheless")
    secret = "sk-canary/+0123456789abcdef"
    monkeypatch.setenv("LOCAL_KEY", secret)
    # At the very place where a message is cut.
    for sent in (error(400, "x" * 270 + secret), Reply(completion(BODY, "w", f"odd {secret}"))):
        with OpenAIServer(lambda body, sent=sent: sent) as server:
            value = ask(server, tmp_path / f"l{sent.status}", [request()], key="LOCAL_KEY")[0][0]
        assert value["error"] and "canary" not in str(value)
    assert redacted("1 of 1: a", "LOCAL_KEY") == "1 of 1: a"


# ---- 5,000 mutated replies

ODD = [
    None,
    True,
    -1,
    0,
    10**400,
    10**17,
    1.5,
    1e308,
    math.inf,
    math.nan,
    "",
    "x",
    "\ud83d",
    "\ude00",
    "a\x00b",
    "\u202e",
]
ODD += [
    [],
    {},
    [[]],
    {"": {}},
    [None],
    {"type": "text"},
    "1" * 500,
    "stop",
    [1] * 50,
    {"message": {"a": [1]}},
    "-5",
    "429",
]
SEEDS = [
    completion(BODY, "a good answer"),
    completion(BODY, '{"n": 1}'),
    completion(BODY, [{"type": "text", "text": "a part"}]),
    completion(BODY, None, "tool_calls", tool_calls=[{"id": "1", "function": {"name": "answer", "arguments": "{}"}}]),
    completion(BODY, "", "length", reasoning_content="hm", refusal=None),
    *PASSING,
    *OWN,
]


def mutated(seed):
    """Return the bytes of a reply in which one to four places are not what they should be."""
    chance = random.Random(seed)
    reply = copy.deepcopy(chance.choice(SEEDS if seed % 2 else SEEDS[:5]))
    for _ in range(chance.randint(0, 3)):
        place, holder = reply, None
        while isinstance(place, dict | list) and place and (holder is None or chance.random() < 0.8):
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            holder, place = (place, key), place[key]
        if holder is None:
            break
        what = chance.random()
        if what < 0.7:
            holder[0][holder[1]] = copy.deepcopy(chance.choice(ODD))
        elif what < 0.85 and isinstance(holder[0], dict):
            holder[0][str(chance.choice(ODD))] = holder[0].pop(holder[1])
        else:
            holder[0][holder[1]] = [holder[0][holder[1]]] * chance.randint(1, 3)
    data = json.dumps(reply).encode()
    if chance.random() < 0.3:
        at = chance.randrange(len(data))
        put = chance.choice(
            [b"", b"\xff", b"\\ud83d", b"\x00", b"[" * 5000, b"}", b'"', b",", b"\xed\xa0\x80", b"1" * 5000]
        )
        data = data[:at] + put + data[at + chance.choice([0, 1, 10, 10**6]) :]
    return data


def said_in(data):
    """Return the text of the answer in a reply, None where it has none."""
    try:
        text = parse_json(data)["choices"][0]["message"]["content"]
    except (Unreadable, LookupError, TypeError):
        return None
    return text.strip() if isinstance(text, str) else None


def check(answer):
    """A stored answer that every later step can work with."""
    value = answer.as_dict()
    assert isinstance(value["text"], str) and isinstance(value["error"], str | None)
    assert value["finish_reason"] in ("stop", "length", "error")
    assert (value["finish_reason"] == "error") == (value["error"] is not None) and not (
        value["error"] and value["text"]
    )
    assert all(type(value[name]) is int and 0 <= value[name] <= MOST for name in ("prompt_tokens", "completion_tokens"))
    assert len(value["error"] or "") <= 300 and value["text"] == value["text"].strip()
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
    # Each shape is known to the code: its last resort is for what nobody thought of.
    assert "cannot be read" not in (value["error"] or "")
    if value["text"]:
        assert value["prompt_tokens"] > 0 and value["completion_tokens"] > 0 and "raw" not in value


def test_mutated_replies_are_answers_or_have_their_reason():
    client = RemoteEndpoint(settings())
    list(client.answer([], []))
    forms, kinds = ({}, {"schema": SCHEMA}, {"choices": ("yes", "no")}), set()
    for seed in range(5000 if SOAK else 1500):
        asked, status = (
            request(**forms[seed % 3]),
            200 if seed % 5 else random.Random(seed).choice([400, 404, 429, 500]),
        )
        client.answered = bool(seed % 2)
        try:
            answer = client._read(status, {}, mutated(seed), asked, client.dialect.body(asked))
        except (Transient, Respelt, UserError) as raised:
            kinds.add(type(raised))
            str(raised).encode()
            continue
        check(answer)
        kinds.add(answer.finish_reason)
    assert {"stop", "error", Transient} <= kinds


def test_mutated_replies_over_http_end_no_job(tmp_path):
    """Of each job one row has such a reply, two have good ones, which are kept whatever the odd one is."""
    journal, faults = tmp_path / "j.sqlite", 0
    for seed in range(500 if SOAK else 60):
        odd = Reply(mutated(seed), headers={"retry-after": "0"})
        with OpenAIServer(
            lambda body, odd=odd: odd if body["messages"][0]["content"].startswith("odd") else "fine"
        ) as server:
            requests = [request(f"{name} {seed}") for name in ("good", "odd", "well")]
            try:
                values, budget = ask(server, journal, requests, concurrency=1)
            except UserError:
                faults += 1
                continue
            assert [values[0]["text"], values[2]["text"]] == ["fine", "fine"] and math.isfinite(budget.calls)
            again, _ = ask(server, journal, requests, concurrency=1)
            assert again[1] == values[1] or values[1]["error"]
            assert server.paid_twice() == (not values[1]["prompt_tokens"])
    # Some say that the key is wrong, or the account empty.
    assert faults < 20 * (1 + 9 * SOAK)


def test_mutated_lines_of_a_batch_end_no_job(tmp_path):
    count = 2000 if SOAK else 300

    def mangled(lines):
        """Every third line has a mutated body, every tenth is mutated itself."""
        made = []
        for number, line in enumerate(lines):
            entry, chance = json.loads(line), random.Random(number)
            if number % 3 == 0:
                body = mutated(number)
                line = line.replace(json.dumps(entry["response"]["body"]), body.decode("latin-1"))
            if number % 10 == 0:
                at = chance.randrange(len(line))
                line = line[:at] + chance.choice(["", "\\ud83d", "[" * 3000, "\x00"]) + line[at + 1 :]
            made.append(line)
        return made

    with BatchServer(lambda body: "fine") as server, Journal(tmp_path / "j") as kept:
        server.endings = [{"mangle": mangled}]
        asked = settings(server.url, poll=0.02)
        requests = [request(str(n)) for n in range(count)]
        budget = Budget(None, PRICE, tmp_path / "spent")
        values = ask_all(
            requests,
            identity={},
            open_answerer=lambda: batch.BatchEndpoint(asked, budget, kept, {}),
            journal=kept,
        )
    assert len(values) == count and math.isfinite(budget.batches) and budget.batches > 0
    for value in values:
        check(Answer(**value))
    assert all(value["text"] == "fine" for number, value in enumerate(values) if number % 3 and number % 10)
