"""What people said, rendered into training rows: who explains it, what is rejected, orders, and balance."""

import json
import random
import re
from collections import Counter

import pytest
from moult.corpora.judgements import Judgements, drawn_by_length, names_exchanged, render_judgements, unexplained
from moult.data.prompts import load_template
from moult.data.rubrics import load_rubrics
from moult.inference.asking import Asker
from moult.inference.judge_replies import parse_grade_line, parse_pair_line
from moult.inference.judge_requests import judge_messages
from openai_server import OpenAIServer, Reply

MATH = [one["name"] for one in load_rubrics()["math"]]
RECIPE = {
    "endpoint": {},
    "form": "line",
    "orders": "both",
    "balance": None,
    "references": False,
    "rubrics": load_rubrics(),
    "rubric": "default",
    "prompts": {mode: load_template(f"judge/{mode}") for mode in ("grade", "compare")},
    "explain": load_template("judge/explain"),
    "decoding": {"max_tokens": 300},
    "seed": 5,
}
CLIENT = {"key": None, "concurrency": 2, "timeout": 5, "retries": 0, "price": {"input": 1.0, "output": 1.0}}


def item(uid, **more):
    plain = {"uid": uid, "dataset": "d", "split": "train", "category": "math", "scenario": None, "reference": None}
    return plain | {"question": f"Question {uid}?", "feedback": None} | more


def pair(uid, human="A", first="right", second="wrong", **more):
    return item(uid, mode="compare", answer_1=first, answer_2=second, human=human, **more)


def grade(uid, human=8.0, scale=(0, 10), **more):
    return item(uid, mode="grade", answer="an answer", human=human, scale=list(scale), **more)


def scores(n):
    return dict.fromkeys(MATH, n)


def told_of(n):
    """The scores of one answer of a pair, as a line is read."""
    return scores(n) | {"Overall Score": n}


def asked(tmp_path, reply, items, **more):
    with OpenAIServer(reply) as server:
        endpoint = {"name": "teacher", "url": server.url, "model": "big"}
        with Asker(endpoint, tmp_path / "journal.sqlite", CLIENT) as asker:
            return *render_judgements(RECIPE | {"endpoint": endpoint} | more, items, asker), server.asked


def reply_of(overall, names=MATH, feedback="answer_1 is whole, the first answer is clear"):
    sides = ("answer",) if len(overall) == 1 else ("answer_1", "answer_2")
    said = {side: dict.fromkeys(names, n) | {"overall": n} for side, n in zip(sides, overall, strict=True)}
    return json.dumps({"justification": feedback} | said)


# ---------------------------------------------------------------- from the data


def test_what_the_data_say_is_rendered_as_judges_are_asked_and_answer():
    shouted = {name.upper(): 8 for name in MATH}
    items = [grade("g", 7.5, scores=[shouted], feedback="Clear. ***"), grade("no", 3.0)]
    rows, rejects, usage = render_judgements(RECIPE, items, None)
    (row,) = rows
    assert row["prompt"] == judge_messages(RECIPE, items[0], ["an answer"])
    assert parse_grade_line(row["answer"]) == {"grade": 8, "scores": scores(8), "feedback": "Clear. * * *"}
    assert list(parse_grade_line(row["answer"])["scores"]) == MATH
    assert [(one["uid"], one["reason"]) for one in rejects] == [
        ("no", "no scores by the dimensions of the rubric math, and no endpoint to ask for it")
    ]
    assert usage["calls"] == 0 and usage["cost_usd"] == 0.0


def test_a_pair_stands_in_both_orders_and_its_feedback_with_it():
    told = {"scores": [scores(9), scores(4)], "feedback": "Answer A is right; the second answer is not."}
    first, second = render_judgements(RECIPE, [pair("p", **told)], None)[0]
    assert [first["uid"], second["uid"]] == ["p", "p:swapped"]
    read = [parse_pair_line(row["answer"]) for row in (first, second)]
    assert [one["winner"] for one in read] == ["first", "second"]
    assert (read[0]["first"], read[0]["second"]) == (read[1]["second"], read[1]["first"]) == (told_of(9), told_of(4))
    assert read[1]["feedback"] == "Answer B is right; the first answer is not."
    for row in (first, second):
        shown = re.findall(r" answer_[12]\]\n(\w+)", row["prompt"][1]["content"])
        assert shown == (["right", "wrong"] if row["order"] == "original" else ["wrong", "right"])
    (alone,) = render_judgements(RECIPE | {"orders": "original"}, [pair("p", **told)], None)[0]
    assert alone == first


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (grade("x", 8.0, scores=[scores(6)], feedback="f"), "by more than 1: the data's scores 6, people 8"),
        (grade("x", 2.0, (1, 5), scores=[scores(5)], feedback="f"), "by more than 1: the data's scores 5, people 3.25"),
        (pair("x", "B", scores=[scores(9), scores(4)], feedback="f"), "the winner: the data's scores A, people B"),
        (pair("x", "Tie", scores=[scores(9), scores(4)], feedback="f"), "the winner: the data's scores A, people Tie"),
        (grade("x", scores=[{"other": 8}], feedback="f"), "no scores by the dimensions of the rubric math"),
        (grade("x", scores=[scores(8)]), "no feedback, and no endpoint"),
    ],
)
def test_data_that_contradict_themselves_or_lack_something_are_rejected(one, reason):
    kept = grade("kept", scores=[scores(8)], feedback="f")
    rows, rejects, _ = render_judgements(RECIPE, [one, kept], None)
    assert [row["uid"] for row in rows] == ["kept"]
    assert [row["uid"] for row in rejects] == ["x"] and reason in rejects[0]["reason"]


def test_scores_that_round_to_a_tie_contradict_no_winner():
    close = [scores(7), {**scores(7), MATH[0]: 6}]
    (row, _), rejects, _ = render_judgements(RECIPE, [pair("p", scores=close, feedback="f")], None)
    assert not rejects and parse_pair_line(row["answer"])["winner"] == "first"


def test_names_of_answers_are_exchanged_and_nothing_else():
    text = "Response 1 beats answer_2. The First answer, like assistant B, can answer a question; 1 of 2."
    swapped = "Response 2 beats answer_1. The Second answer, like assistant A, can answer a question; 1 of 2."
    assert names_exchanged(text) == swapped and names_exchanged(swapped) == text


# ---------------------------------------------------------------- from an endpoint


def test_an_endpoint_is_told_the_verdict_and_what_the_data_have_stays(tmp_path):
    items = [
        pair("whole", scores=[scores(9), scores(4)], feedback="from the data"),
        pair("neither"),
        pair("scored", scores=[scores(8), scores(3)]),
        pair("said", feedback="from the data"),
    ]
    rows, rejects, usage, bodies = asked(tmp_path, lambda body: reply_of([7, 5]), items)
    assert not rejects and len(bodies) == 3 and usage["calls"] == 3
    assert all("answer_1 is the better one" in body["messages"][1]["content"] for body in bodies)
    read = {row["uid"]: parse_pair_line(row["answer"]) for row in rows}
    assert read["whole"]["feedback"] == read["said"]["feedback"] == "from the data"
    assert read["scored"]["first"] == told_of(8)
    assert read["said"]["first"] == read["neither"]["first"] == told_of(7)
    assert read["neither:swapped"]["feedback"] == "answer_2 is whole, the second answer is clear"
    assert {row["uid"]: row["answer_by"] for row in rows}["whole"] == "the data"
    assert {row["uid"]: row["answer_by"] for row in rows}["neither:swapped"] == "big"


@pytest.mark.parametrize(
    ("one", "reply", "reason"),
    [
        (grade("x", 8.0), reply_of([7]), None),
        (grade("x", 8.0), reply_of([9]), None),
        (grade("x", 7.5), reply_of([6]), "by more than 1: the endpoint 6, people 7.5"),
        (grade("x", 0.0), reply_of([1]), None),
        (grade("x", 5.0, (1, 5)), reply_of([10]), None),
        (grade("x", 5.0, (1, 5)), reply_of([5]), "the endpoint 5, people 10"),
        (pair("x", "B"), reply_of([4, 6]), None),
        (pair("x", "B"), reply_of([6, 4]), "the endpoint A, people B"),
        (pair("x", "B"), reply_of([6, 6]), "the endpoint Tie, people B"),
        (pair("x", "Tie"), reply_of([6, 6]), None),
        (pair("x", "Tie"), reply_of([6, 7]), "the endpoint B, people Tie"),
        (grade("x"), reply_of([8], MATH[1:]), "error: the reply"),
        (grade("x"), "I think 8", "error: the reply is not the JSON"),
        (grade("x"), reply_of([8], feedback=" "), "the reply has no justification"),
        (grade("x"), (400, {"error": {"message": "no such thing"}}), "error"),
    ],
)
def test_an_endpoint_must_agree_with_people(tmp_path, one, reply, reason):
    kept = grade("kept", scores=[scores(8)], feedback="f")
    rows, rejects, _, _ = asked(tmp_path, lambda body: reply, [one, kept])
    if reason is None:
        assert not rejects and rows[0]["uid"] == "x"
    else:
        assert [row["uid"] for row in rows] == ["kept"] and reason in rejects[0]["reason"]
    human = one["human"]
    if reason is None and one["mode"] == "grade":
        wanted = max(1, int(human + 0.5)) if one["scale"][1] == 10 else 10
        assert parse_grade_line(rows[0]["answer"])["grade"] == wanted


def test_nothing_of_an_item_reaches_the_endpoint_outside_a_fence():
    items = [pair("p", first="PRIVATE one", second="PRIVATE two"), grade("g") | {"answer": "PRIVATE"}]
    items = [one | {"question": "PRIVATE?", "reference": "PRIVATE", "category": "PRIVATE"} for one in items]
    for references in (True, False):
        recipe = RECIPE | {"references": references, "endpoint": {"serve": "base"}}
        for (_, request), one in zip(unexplained(recipe, items), items, strict=True):
            system, user = (message["content"] for message in request.messages)
            (fence,) = set(re.findall(r"mark ([0-9a-f]{12})", system))
            outside = re.sub(rf"\[{fence} (\w+)\]\n.*?\n\[{fence} end of \1\]", "", user, flags=re.DOTALL)
            assert "PRIVATE" not in outside + system and "PRIVATE" in user
            assert user.count("PRIVATE") == 2 + (one["mode"] == "compare") + references
            assert request.schema["properties"]["justification"]["maxLength"]


def test_what_was_answered_before_is_not_asked_again(tmp_path):
    items = [grade(f"g{n}", 8.0) for n in range(6)]
    failing = iter([reply_of([8])] * 3 + [Reply(status=500)] * 3)
    rows, rejects, _, _ = asked(tmp_path, lambda body: next(failing), items)
    assert (len(rows), len(rejects)) == (3, 3)
    with OpenAIServer(lambda body: reply_of([8])) as server:
        endpoint = {"name": "teacher", "url": server.url, "model": "big"}
        for path in tmp_path.iterdir():
            path.unlink()
        for expected in (6, 6):
            with Asker(endpoint, tmp_path / "journal.sqlite", CLIENT) as asker:
                rows, rejects, _ = render_judgements(RECIPE | {"endpoint": endpoint}, items, asker)
            assert len(rows) == 6 and len(server.asked) == expected


# ---------------------------------------------------------------- balance


def unbalanced(n=60, seed=0):
    chance, items = random.Random(seed), []
    for number in range(n):
        human = chance.choice(["A", "B", "B", "Tie"])
        first, second = "w" * chance.randint(1, 9), "w" * chance.randint(1, 6)
        told = {"scores": [scores(8 if human != "B" else 3), scores(8 if human != "A" else 3)], "feedback": "f"}
        split = chance.choice(["train", "train", "dev"])
        items.append(pair(f"p{number}", human, first, second, split=split, **told))
    return items


def longer_right(rows):
    """Return split → Counter of whether the right answer is the longer one, among pairs that are decided."""
    found = {}
    for row in rows:
        difference = len(row["answer_1"]) - len(row["answer_2"])
        if row["human"] != "Tie" and difference:
            found.setdefault(row["split"], Counter())[(difference > 0) == (row["human"] == "A")] += 1
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_longer_answer_is_right_as_often_as_the_shorter_one(seed):
    items = unbalanced(seed=seed)
    recipe = RECIPE | {"balance": "length", "seed": seed}
    before = longer_right(items)
    assert any(counts[True] != counts[False] for counts in before.values())
    kept, left_out = drawn_by_length(recipe, items)
    for split, counts in longer_right(kept).items():
        assert counts[True] == counts[False] == min(before[split][True], before[split][False])
    assert len(kept) + len(left_out) == len(items)
    undecided = [one for one in items if one["human"] == "Tie" or len(one["answer_1"]) == len(one["answer_2"])]
    assert all(one in kept for one in undecided)
    shuffled = random.Random(9).sample(items, len(items))
    assert {one["uid"] for one in drawn_by_length(recipe, shuffled)[0]} == {one["uid"] for one in kept}


def test_the_balance_holds_though_some_explanations_are_rejected(tmp_path):
    items = [one | {"scores": [], "feedback": None} for one in unbalanced() if one["human"] != "Tie"]
    by_uid = {one["uid"]: one for one in items}
    chance = random.Random(3)
    reply = lambda body: reply_of(chance.choice([[8, 3], [3, 8]]))  # noqa: E731
    rows, rejects, _, bodies = asked(tmp_path, reply, items, balance="length")
    # A row in each order; which of the drawn replies an item gets is chance.
    assert 0 < len(rows) < 2 * len(items) and len(bodies) < len(items)
    for counts in longer_right([by_uid[row["uid"]] for row in rows if row["order"] == "original"]).values():
        assert counts[True] == counts[False]
    assert len(rows) // 2 + len(rejects) == len(items)
    assert {"contradicts", "left"} == {row["reason"].split(" ")[0] for row in rejects}


def test_no_item_is_asked_that_the_balance_leaves_out():
    items = [one | {"scores": [], "feedback": None} for one in unbalanced()]
    entry = Judgements(kind="judgements", name="c", dataset="d", endpoint="e", balance="length")
    recipe = RECIPE | {"balance": "length"}
    planned = entry.plans(recipe, items)["endpoint"].requests
    assert len(planned) == len(drawn_by_length(recipe, items)[0]) < len(items)
