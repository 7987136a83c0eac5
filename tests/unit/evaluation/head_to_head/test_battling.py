"""What is asked about answers: letters with log-probabilities, one further turn, and turns one after the other."""

import json

import pytest
from moult.base.errors import UserError
from moult.base.rows import columns_of
from moult.base.suite_rows import Battle, Turns
from moult.data.prompts import load_template
from moult.evaluation.head_to_head.battling import answer_turns, judge_battles, planned, turn_request
from moult.evaluation.head_to_head.public_files import Question, named_by, read_answers, read_questions
from moult.inference.asking import Asker
from openai_server import OpenAIServer, Reply, completion

DECODING = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 16}
CLIENT = {"key": None, "concurrency": 1, "timeout": 5, "retries": 0, "price": None}
MT = Question("1", ("First?", "Second?"), "writing", references=("R1",))


def recipe(kind, url, **more):
    shared = {"kind": kind, "model": "ours", "baseline": "theirs", "seed": 3, "decoding": DECODING, "orders": "both"}
    shared |= {
        "endpoint": {"name": "judge", "url": url, "model": "big"},
        "prompt": load_template(f"head_to_head/{kind}"),
    }
    return shared | {"again": load_template("head_to_head/arena_again")} | more


def judged(tmp_path, kind, reply, questions, ours, theirs=None, **more):
    """Return (battles, bodies) of a judge that replies so."""
    with OpenAIServer(reply) as server:
        asked = recipe(kind, server.url, **more)
        with Asker(asked["endpoint"], tmp_path / "j.sqlite", CLIENT) as asker:
            rows, usage = judge_battles(asked, questions, ours, theirs or {}, {}, asker)
    assert usage["calls"] == len(server.asked) and all(list(row) == columns_of(Battle) for row in rows)
    return rows, server.asked


def with_logprobs(body, top):
    reply = completion(body, "m", finish_reason="length")
    found = [{"token": token, "logprob": value} for token, value in top.items()]
    reply["choices"][0]["logprobs"] = {"content": [{"token": "m", "top_logprobs": found}]}
    return Reply(reply)


def answers(**texts):
    return {uid: (tuple(several), None) for uid, several in texts.items()}


PAIR = [Question("a", ("What?",), "part")], answers(a=["ours"]), answers(a=["theirs"])


def test_a_preference_is_of_both_letters_whatever_blanks_they_have(tmp_path):
    rows, bodies = judged(
        tmp_path, "alpaca", lambda body: with_logprobs(body, {"m": -0.5, " M": -1.5, "The": -3.0}), *PAIR
    )
    assert [body["top_logprobs"] for body in bodies] == [5, 5] and all(body["logprobs"] for body in bodies)
    low, high = (row["value"] for row in rows)
    assert low == pytest.approx(1 + 1 / (1 + 2.718281828)) and high == pytest.approx(3 - low)
    assert [row["lengths"] for row in rows] == [[6, 4], [6, 4]] and rows[0]["status"] == "ok"


def test_a_reply_without_the_letters_or_without_log_probabilities_is_no_verdict(tmp_path):
    rows, _ = judged(tmp_path, "alpaca", lambda body: with_logprobs(body, {"The": -0.1}), *PAIR)
    assert {row["status"] for row in rows} == {"unknown"} and "neither letter" in rows[0]["reason"]
    rows, _ = judged(tmp_path / "b", "alpaca", lambda body: "m", *PAIR)
    assert {row["status"] for row in rows} == {"error"} and "no log-probabilities" in rows[0]["reason"]


def test_an_endpoint_that_takes_no_top_logprobs_is_told_with_a_remedy(tmp_path):
    refusal = (400, {"error": {"message": "Unsupported parameter: 'top_logprobs' is not supported with this model."}})
    with pytest.raises(UserError, match="does not take `top_logprobs`.*name a judge that tells log-probabilities"):
        judged(tmp_path, "alpaca", lambda body: refusal, *PAIR)


def test_equal_answers_are_a_draw_of_which_nobody_is_asked(tmp_path):
    rows, bodies = judged(tmp_path, "alpaca", lambda body: "m", PAIR[0], PAIR[1], PAIR[1])
    assert not bodies and [row["value"] for row in rows] == [1.5, 1.5]


def test_one_order_is_drawn_by_the_question(tmp_path):
    questions = [Question(str(at), ("What?",)) for at in range(30)]
    side = {one.uid: ((f"x{one.uid}",), None) for one in questions}
    other = {one.uid: (("y",), None) for one in questions}
    shown, _ = planned(recipe("alpaca", "u", orders="one"), questions, side, other, {})
    assert len(shown) == 30 and {one.game for one in shown} == {"original", "swapped"}


@pytest.mark.parametrize(
    ("texts", "asked", "status"),
    [
        (["I cannot say.", "[[A>B]]"], 2, "ok"),
        (["I cannot say.", "Nor now."], 2, "unknown"),
        (["[[A>B]] or [[B>A]]"], 1, "unknown"),
        (["[[A>>A]]"], 1, "unknown"),
    ],
)
def test_a_further_turn_follows_where_no_verdict_stands_and_nowhere_else(tmp_path, texts, asked, status):
    def reply(body):
        return texts[(len(body["messages"]) - 2) // 2]

    rows, bodies = judged(tmp_path, "arena", reply, *PAIR)
    assert len(bodies) == 2 * asked and {row["status"] for row in rows} == {status}
    if status == "ok":
        assert [row["value"] for row in rows] == [0.0, 1.0]


def test_strong_verdicts_weigh_three_and_orders_are_turned_back_once(tmp_path):
    rows, _ = judged(tmp_path, "arena", lambda body: "[[A>>B]]", *PAIR)
    assert [(row["game"], row["value"], row["weight"]) for row in rows] == [("original", 0, 3), ("swapped", 1, 3)]


@pytest.mark.parametrize(("text", "value"), [("[[8.5]]", 8.5), ("[7]", 7), ("[[0]]", None), ("none", None)])
def test_a_grade_is_from_one_to_ten(tmp_path, text, value):
    rows, bodies = judged(tmp_path, "mt", lambda body: text, [MT], answers(**{"1": ["I said.", "And so."]}))
    assert [row["value"] for row in rows] == [value, value] and [row["game"] for row in rows] == ["turn_1", "turn_2"]
    first, second = (body["messages"][1]["content"] for body in bodies)
    assert "R1" in first and "R1" in second and "And so." not in first and "Second?" in second


def test_what_was_not_answered_is_not_judged_and_says_why(tmp_path):
    lacking = {"1": (("one",), None)}
    rows, bodies = judged(tmp_path, "mt", lambda body: "[[5]]", [MT], lacking)
    assert not bodies and rows[0]["status"] == "unanswered" and rows[0]["reason"] == "ours: 1 answers to 2 turns"
    rows, _ = judged(tmp_path / "b", "arena", lambda body: "", PAIR[0], PAIR[1], {"a": (None, "turn 1: refused")})
    assert rows[0]["reason"] == "theirs: turn 1: refused"


def test_a_second_turn_holds_the_first_answer_and_a_category_has_its_temperature(tmp_path):
    asked = {"model": "ours", "decoding": DECODING, "temperatures": {"writing": 0.7}, "seed": 1}
    request = turn_request(asked, MT, ["an answer"])
    assert [message["content"] for message in request.messages] == ["First?", "an answer", "Second?"]
    assert request.sampling.temperature == 0.7
    assert turn_request(asked | {"temperatures": {}}, MT, []).sampling.temperature == 0
    silent = Question("2", ("Silence?", "More?"))
    with OpenAIServer(lambda body: "" if "Silence" in str(body) else "said") as server:
        endpoint = {"name": "judge", "url": server.url, "model": "big"}
        with Asker(endpoint, tmp_path / "j.sqlite", CLIENT) as asker:
            rows = answer_turns(asked, [MT, silent], asker)
    assert all(list(row) == columns_of(Turns) for row in rows)
    assert [(row["status"], row["turns"]) for row in rows] == [("ok", ["said", "said"]), ("error", [""])]
    assert rows[1]["reason"] == "turn 1: empty answer" and len(server.asked) == 3


# ---------------------------------------------------------------- public files


def test_public_questions_and_answers_are_read(tmp_path):
    questions = tmp_path / "set.json"
    questions.write_text(json.dumps([{"instruction": "Do it.", "output": "Done.", "dataset": "koala"}]))
    (one,) = read_questions(questions, 1)
    assert one == Question(named_by("Do it."), ("Do it.",), "koala", "Done.")
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"question_id": 101, "choices": [{"turns": ["a", {"content": "b"}]}]}) + "\n")
    assert read_answers(lines, [Question("101", ("x", "y"))]) == {"101": ("a", "b")}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"question_id": 1}], "question 1 has no turns"),
        ([{"question_id": 1, "turns": ["a", " "]}], "question 1 has no turns"),
        ([{"question_id": 1, "turns": "a"}], "question 1 has no turns"),
        ([{"turns": ["a"]}], "has neither an instruction nor a question_id"),
        ([{"question_id": 1, "turns": ["a"]}] * 2, "row 2: question 1 stands twice"),
        ([{"question_id": 1, "turns": ["a", "b", "c"]}], "has 3 turns, but such a suite asks 2"),
        ([{"question_id": 1, "turns": ["a"], "reference": [3]}], "a reference of question 1 is no text"),
        ([], "has no questions"),
        ({"turns": []}, "is no list of rows"),
        (["x"], "has neither an instruction"),
    ],
)
def test_a_question_that_is_none_is_a_sentence(tmp_path, rows, told):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=f"questions.json.*{told}"):
        read_questions(path, 2)


@pytest.mark.parametrize(
    ("row", "what", "told"),
    [
        ({"question_id": 9, "choices": [{"turns": ["x"]}]}, "answer", "has no answer to any of these questions"),
        ({"question_id": 9, "choices": [{"turns": ["x"]}]}, "reference", "is a reference for question 9, which is not"),
        ({"question_id": 1, "choices": []}, "answer", "row 1: has no answer; write `output`"),
        ({"question_id": 1, "choices": [{"turns": [None]}]}, "answer", "row 1: has no answer"),
        ({"choices": []}, "answer", "has neither an instruction nor a question_id"),
    ],
)
def test_an_answer_that_is_none_is_a_sentence(tmp_path, row, what, told):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"answers.jsonl.*{told}"):
        read_answers(path, [Question("1", ("x",))], what)


def test_a_file_that_is_no_json_is_a_sentence(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'{"question_id": 1, "turns": ["a"]}\n{\xff\n')
    with pytest.raises(UserError, match="is no JSON, JSON lines or CSV"):
        read_questions(path, 2)
