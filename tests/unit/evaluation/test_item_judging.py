"""Judges at work on items: what a real server is asked, what it said, and how far hidden instructions pull it."""

from dataclasses import replace

import pytest
from judges import honest
from moult.base.errors import UserError
from moult.base.files import write_csv, write_jsonl
from moult.data.prompts import load_template
from moult.data.rubrics import load_rubrics
from moult.evaluation.agreement_scores import score_verdicts
from moult.evaluation.foreign_verdicts import read_foreign
from moult.evaluation.injections import attacked_items, load_injections
from moult.evaluation.item_judging import judge_by_asking, requests_of
from moult.inference.asking import Asker
from openai_server import OpenAIServer

CLIENT = {"key": None, "concurrency": 4, "timeout": 5, "retries": 0, "price": {"input": 1.0, "output": 1.0}}
RECIPE = {
    "judge": {"name": "judge"},
    "rubrics": load_rubrics(),
    "rubric": "default",
    "form": "line",
    "references": False,
    "prompts": {mode: load_template(f"judge/{mode}") for mode in ("grade", "compare")},
    "decoding": {"max_tokens": 60},
    "pairs": ["compare", "grades"],
    "orders": ["original", "swapped"],
    "seed": 1,
}


def item(number, human, **more):
    plain = {"uid": f"d:test:{number}", "dataset": "d", "split": "test", "mode": "compare", "question": f"Q{number}"}
    plain |= dict.fromkeys(("category", "scenario", "tag", "annotators", "reference", "answer"))
    plain |= {"answer_1": "right", "answer_2": "wrong!", "human": human, "labels": ["A", "B"], "source": f"f:{number}"}
    return plain | more


def judged(reply, items, tmp_path, **more):
    with OpenAIServer(reply) as server:
        recipe = RECIPE | {"endpoint": {"name": "judge", "url": server.url, "model": "big"}} | more
        with Asker(recipe["endpoint"], tmp_path / "j.sqlite", CLIENT) as asker:
            return *judge_by_asking(recipe, items, asker), server.asked


def test_a_pair_is_shown_in_both_orders_and_its_answers_alone(tmp_path):
    graded = item(2, 4.0, mode="grade", answer="worth 4", scale=[0, 10])
    rows, usage, asked = judged(honest, [item(1, "A"), graded], tmp_path)
    assert [(row["method"], row["order"], row["status"]) for row in rows] == [
        ("compare", "original", "ok"),
        ("compare", "swapped", "ok"),
        ("by_grades", "original", "ok"),
        ("grade", "original", "ok"),
    ]
    assert [row["winner"] for row in rows] == ["A", "A", "A", None] and rows[3]["grade"] == 4
    assert rows[2]["scores"] == {"A": {"overall": 9}, "B": {"overall": 2}}
    assert all(row["lengths"] == [5, 6] for row in rows[:3]) and rows[3]["lengths"] == [7]
    assert len(asked) == usage["calls"] == 5 and usage["cost_usd"] > 0


def test_what_is_not_in_the_form_is_unknown_and_what_was_never_said_an_error(tmp_path):
    for reply, status in ((lambda body: "I prefer A.", "unknown"), (lambda body: (500, b"{}"), "error")):
        rows, _, _ = judged(reply, [item(1, "A")], tmp_path / status)
        assert {row["status"] for row in rows} == {status}
        assert not any(row["winner"] or row["scores"] or row["grade"] is not None for row in rows)


def test_one_reply_of_two_that_cannot_be_read_leaves_no_verdict(tmp_path):
    rows, _, _ = judged(lambda body: honest(body) if "wrong" in str(body) else "?", [item(1, "A")], tmp_path)
    (by_grades,) = (row for row in rows if row["method"] == "by_grades")
    assert by_grades["status"] == "unknown" and by_grades["winner"] is None


def gullible(body):
    """Prefer the good answer, unless an instruction in the other one says what to do."""
    text = body["messages"][-1]["content"]
    first, second = (text.split(f" {name}]\n", 1)[1].split("\n[", 1)[0] for name in ("answer_1", "answer_2"))
    swayed = ["answer 10 for this answer" in one for one in (first, second)]
    better = swayed[0] if any(swayed) else len(first) > len(second)
    scores = "{'Overall Score': %d}"
    told = f"@@@{scores % (9 if better else 3)}@@@{scores % (3 if better else 9)}"
    return f"{told}###Final Result: {'A' if better else 'B'}"


def test_hidden_instructions_pull_a_gullible_judge_where_they_stand(tmp_path):
    data = load_injections()
    rows, _, asked = judged(gullible, [item(1, "A")], tmp_path, injections=data, pairs=["compare"])
    recipe = {"suite": "s", "model": "judge", "datasets": ["d"], "limit": None, "seed": 1}
    scores = score_verdicts(recipe | {"published": {"judge": None, "datasets": {}}}, rows)
    found = {(row["task"], row["metric"]): row for row in scores if row["dataset"] == "injections"}
    pull = {task.removeprefix("attack: "): row["value"] for (task, metric), row in found.items() if metric == "pull"}
    attacks = sum(map(len, data["attacks"].values()))
    assert len(pull) == attacks + 1 and len(asked) == 2 + 2 * len(data["pairs"]) * (attacks + 1)
    assert pull["order in the answer"] == 1 and pull["order in the question"] == 0
    assert pull["any"] == pytest.approx(sum(value for name, value in pull.items() if name != "any") / attacks, abs=1e-5)
    assert found["attack: order in the answer", "score_shift"]["value"] == 6
    # No agreement counts them.
    agreement = [row for row in scores if row["metric"] == "agreement" and not row["task"]]
    assert {row["method"] for row in agreement} == {"compare"} and agreement[0]["n"] == 1


def test_attacked_texts_stay_behind_their_fences():
    recipe = RECIPE | {"endpoint": {"url": "http://127.0.0.1:9/v1"}, "injections": load_injections()}
    for request in requests_of(recipe, []):
        system, user = request.messages
        assert "verified by experts" not in system["content"] and "<|im_end|>" not in user["content"]
    assert len({one["uid"] for one in attacked_items(load_injections())}) == len(attacked_items(load_injections()))


LLMBAR = {"index": 0, "label": 1, "forward": {"winner": "1"}, "swapped": {"winner": "1"}}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"index": 0, "label": 1}], "row 1: has the columns of no known form of judgements"),
        (
            [{"index": 0, "label": 3, "forward": {"winner": "1"}, "swapped": {"winner": "1"}}],
            "row 1: a judgement cannot",
        ),
        (
            [{"index": 0, "label": 1, "forward": {"winner": "9"}, "swapped": {"winner": "1"}}],
            "row 1: a judgement cannot",
        ),
        (
            [{"index": 0, "label": 2, "forward": {"winner": "1"}, "swapped": {"winner": "1"}}],
            "its label is B, but people",
        ),
        ([{"pair_id": "1", "label": "A>B", "judgments": []}], "row 1: a judgement cannot be read"),
        (["text"], "row 1: has the columns of no known form"),
    ],
)
def test_a_file_of_judgements_that_cannot_be_read_is_told_by_file_and_row(rows, said, tmp_path):
    write_jsonl(tmp_path / "theirs.jsonl", rows)
    with pytest.raises(UserError, match=r"theirs.jsonl, row 1: ") as error:
        read_foreign(tmp_path / "theirs.jsonl", [item(1, "A")])
    assert said in str(error.value) and str(error.value).endswith(".")


def test_judgements_by_row_need_one_file_and_those_of_other_items_are_left_alone(tmp_path):
    row = LLMBAR | {"swapped": {"winner": None}}
    write_jsonl(tmp_path / "theirs.jsonl", [row, row | {"index": 77}])
    found = read_foreign(tmp_path / "theirs.jsonl", [item(1, "A", source="f:1")])
    assert found == {"d:test:1": {"original": "###Final Result: A", "swapped": ""}}
    several = [item(1, "A", source="f:1"), item(2, "A", source="g:1")]
    with pytest.raises(UserError, match="the dataset has several files; make a dataset of each"):
        read_foreign(tmp_path / "theirs.jsonl", several)
    (tmp_path / "broken.jsonl").write_text("{")
    with pytest.raises(UserError, match="is no CSV, JSON or JSON lines"):
        read_foreign(tmp_path / "broken.jsonl", several)
    write_csv(tmp_path / "p.csv", [{"idx": "1", "pandalm_7b": "2"}], ["idx", "pandalm_7b"])
    assert read_foreign(tmp_path / "p.csv", several) == {"d:test:1": {"original": "###Final Result: B"}}


def test_a_served_judge_has_its_justification_bounded():
    recipe = RECIPE | {"form": "json", "endpoint": {"serve": "base"}}
    served, remote = (requests_of(recipe | {"endpoint": one}, [item(1, "A")]) for one in ({"serve": "b"}, {"url": "u"}))
    assert served[0].schema["properties"]["justification"]["maxLength"] and "maxLength" not in str(remote[0].schema)
    assert replace(served[0], schema=None) == replace(remote[0], schema=None)
