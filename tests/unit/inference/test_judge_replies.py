"""Replies of judges are read strictly: what a case of the table says, and what others read of their own judge."""

from pathlib import Path

import pytest
from moult.base.files import read_jsonl
from moult.inference.judge_replies import (
    VERDICTS,
    grade_line,
    one_verdict,
    pair_line,
    parse_bracket,
    parse_grade_line,
    parse_pair_line,
    parse_rating,
    read_grade,
    read_pair,
)

DATA = Path(__file__).parents[2] / "data" / "judge"
LETTERS = {"first": "A", "second": "B", "Tie": "Tie"}


def read(kind, text):
    """Return what a reply is read as, in the words of the table."""
    if kind == "pointwise":
        found = parse_grade_line(text)
        said = found and {"overall": found["grade"], "dimensions": found["scores"], "feedback": found["feedback"]}
    elif kind == "pairwise":
        found = parse_pair_line(text)
        said = found and found | {"winner": LETTERS[found["winner"]]}
    else:
        read, name = (parse_bracket, "verdict") if kind == "bracket" else (parse_rating, "score")
        said = None if (found := read(text)) is None else {name: found}
    return {"status": "unknown"} if said is None else {"status": "ok"} | said


@pytest.mark.parametrize("case", read_jsonl(DATA / "replies.jsonl"), ids=lambda case: case["text"][:40])
def test_the_table_of_replies(case):
    assert read(case["kind"], case["text"]) == case["want"]


HEAD = "@@@Dimension Scores: {'clarity': 6, 'Overall Score': 6}"


@pytest.mark.parametrize(
    ("kind", "text", "want"),
    [
        ("pointwise", f"{HEAD}### overall SCORE :  “6”/10 &&& Detailed Evaluation Feedback: ok", 6),
        ("pointwise", "###Overall Score: **7/10**", 7),
        ("pointwise", "###Overall Score: 7 of 10", None),
        ("pointwise", "###Overall Score: 7/100", None),
        ("pointwise", "###Overall Score: -7", None),
        ("pointwise", "###Overall Score: 7-8", None),
        ("pointwise", "###Overall Score: n&&&7", None),
        ("pointwise", "###Overall Score: 7&&&I would say ###Overall Score: 2***", 7),
        ("pointwise", "###Overall Score: 7&&&good***###Overall Score: 2", None),
        ("pointwise", "###Overall Score: 7\n###Overall Score: seven", None),
        ("pointwise", "@@@{'Overall Score': 7}@@@{'Overall Score': 6}", None),
        ("pointwise", "Overall Score: 7", None),
        ("pairwise", "### Final Result: Response b", "B"),
        ("pairwise", "###Final Result: “Tie”.", "Tie"),
        ("pairwise", "###Final Result: **[A]**\nBecause it is right.", "A"),
        ("pairwise", "###Final Result: A, B or Tie&&&…", None),
        ("pairwise", "###Final Result: A is not it", None),
        ("pairwise", "###Final Result: Answer A", None),
        ("pairwise", "###Final Result: A ###Final Result: none", None),
        ("pairwise", "###Final Result: A&&&###Final Result: B***", "A"),
        ("bracket", "[[ A=B ]]", "A=B"),
        ("bracket", "[[A>>A]]", None),
        ("bracket", "[[A<B]]", None),
        ("bracket", "[[A>B]] and [[A>>B]]", None),
        ("bracket", "[A>B]", None),
        ("rating", "[[7]] or [[8]]", None),
        ("rating", "As [1] says: [[7]], [[7]]", 7),
        ("rating", "As [1] and [2] say", None),
        ("rating", "[[11]]", None),
        ("rating", "[[7/10]]", 7),
        ("rating", "7", None),
    ],
)
def test_further_cases(kind, text, want):
    found = read(kind, text)
    told = next((found[name] for name in ("overall", "winner", "verdict", "score") if name in found), None)
    assert told == want and (found["status"] == "ok") == (want is not None)


def test_dimensions_that_cannot_be_read_leave_the_verdict():
    reply = "@@@{'Accuracy': 11}@@@{'Accuracy': 2, 'Accuracy': 3}###Final Result: B"
    assert parse_pair_line(reply) == {"winner": "second", "first": None, "second": None, "feedback": None}


def test_what_is_written_is_read_back():
    scores = {"clarity, at first sight": 7, "I/O requirements": 1}
    assert parse_grade_line(grade_line(scores, 4, "Good ***")) == {
        "grade": 4,
        "scores": scores,
        "feedback": "Good * * *",
    }
    for winner in ("first", "second", "Tie"):
        found = parse_pair_line(pair_line(scores, scores, (4, 4), winner, "So: it is."))
        block = scores | {"Overall Score": 4}
        assert found == {"winner": winner, "first": block, "second": block, "feedback": "So: it is."}


def test_all_judgements_of_o1_mini_are_read_as_its_authors_did():
    judged = [one for row in read_jsonl(DATA / "judgebench-o1-mini.jsonl") for one in row["judgments"]]
    authors = {"A>B": "first", "B>A": "second", "A=B": "Tie"}
    assert len(judged) == 700
    for one in judged:
        verdict = one_verdict(one["verdicts_found"])
        assert VERDICTS[verdict] == authors[one["decision"]]
        assert parse_bracket(" so ".join(f"[[{found}]]" for found in one["verdicts_found"])) == verdict


def test_each_form_is_read_as_it_was_asked_for():
    one = '{"justification": "So.", "answer": {"clarity": 3, "overall": 4}}'
    assert read_grade("json", one, ["clarity"]) == {"grade": 4, "scores": {"clarity": 3}, "feedback": "So."}
    for wrong in (
        one.replace("4", "11"),
        one.replace('"overall"', '"total"'),
        one.replace("3", "true"),
        "[]",
        one[:-1],
    ):
        assert read_grade("json", wrong, ["clarity"]) is None
    assert read_grade("line", "###Overall Score: 4", ["clarity"])["grade"] == 4
    assert read_grade("bracket", "[[4]]", ["clarity"])["grade"] == 4 and read_grade("bracket", "4", []) is None
    scores = '{"justification": "So.", "answer_1": {"overall": 5}, "answer_2": {"overall": %d}}'
    assert [read_pair("json", scores % other, [])["winner"] for other in (4, 5, 6)] == ["first", "Tie", "second"]
    assert read_pair("bracket", "[[B>>A]]", [])["winner"] == "second" and read_pair("bracket", "B", []) is None
    assert read_pair("line", "###Final Result: B", [])["winner"] == "second"
