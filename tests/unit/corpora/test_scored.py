"""Scores of samples, by a reward model or a judge that grades: what has none is a reject, nothing is scored twice."""

import json
import re
import types

import pytest
from fusing import build_pico_reward
from moult.base.files import read_jsonl, write_json, write_jsonl
from moult.corpora.scored import Scored, as_question, grade_requests, scored_row
from moult.corpora.scored import run as score
from moult.data.prompts import load_template
from moult.data.rubrics import named_rubric
from moult.inference.rewards import RewardModel, chat_request
from openai_server import OpenAIServer

COMPUTE = {"engine": "transformers", "dtype": "float32", "batch_size": 4, "threads": 1}
CLIENT = {"key": None, "concurrency": 2, "timeout": 5, "retries": 0, "price": {"input": 1.0, "output": 1.0}}


def sample(number, text, split="train", **more):
    plain = {"uid": f"d:{split}:{number}", "dataset": "d", "split": split, "sample": 0}
    plain |= {"prompt": [{"role": "user", "content": f"Q{number}"}], "answer": text, "answer_by": "own"}
    return plain | {"finish_reason": "stop", "tokens": 3} | more


def judging(**more):
    plain = {"endpoint": {"name": "far", "url": "http://x", "model": "big"}, "prompt": load_template("judge/grade")}
    plain |= {"form": "json", "rubric": named_rubric("default"), "seed": 3}
    return plain | {"decoding": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64}} | more


def job_of(tmp_path, recipe, rows, **more):
    write_jsonl(tmp_path / "samples.jsonl", rows)
    outputs = types.SimpleNamespace(**{name: tmp_path / f"{name}.out" for name in ("corpus", "rejects", "usage")})
    inputs = types.SimpleNamespace(asked=tmp_path / "samples.jsonl", **more)
    inputs.get = lambda name, default=None: vars(inputs).get(name, default)
    plain = {"inputs": inputs, "outputs": outputs, "facts": {}, "client": CLIENT, "journal": tmp_path / "j.sqlite"}
    return types.SimpleNamespace(recipe={"splits": ["train", "dev", "test"]} | recipe, **plain)


def test_a_reward_model_scores_each_sample_once(tmp_path, monkeypatch):
    folder = build_pico_reward(tmp_path / "rm")
    write_json(tmp_path / "rm.manifest.json", {"content": "0" * 64})
    rows = [sample(number, "word " * (number + 1), split) for number, split in enumerate(["train"] * 5 + ["dev"])]
    rows.append(sample(9, "no end " * 2000))
    scored, whole = [], RewardModel._scores
    monkeypatch.setattr(RewardModel, "_scores", lambda self, chats: (scored.append(len(chats)), whole(self, chats))[1])
    where = {"model": folder, "model_manifest": tmp_path / "rm.manifest.json"}
    for count, splits in ((5, ["train"]), (6, ["train", "dev"])):
        job = job_of(tmp_path, {"model": "rm", "endpoint": {}, "compute": COMPUTE, "splits": splits}, rows, **where)
        score(job)
        kept, (reject,) = read_jsonl(job.outputs.corpus), read_jsonl(job.outputs.rejects)
        # The further split scores its own sample alone, in batches of at most four.
        assert len(kept) == count == sum(scored) and max(scored) <= 4
        assert reject["uid"] == "d:train:9:0" and "is longer than the reward model's 2048" in reject["reason"]
        assert job.facts["rows_in"] == job.facts["rows"] + job.facts["rejects"] == count + 1
    plain = RewardModel(folder, dtype="float32", threads=1)
    requests = [chat_request(row["prompt"], row["answer"]) for row in kept]
    expected = dict(one for part in plain.score(requests, range(6)) for one in part)
    assert [row["reward"] for row in kept] == pytest.approx([expected[index][0] for index in range(6)], abs=1e-5)
    assert len({row["reward"] for row in kept}) == 6


def test_parts_and_gates_stay_with_the_score():
    found, _ = scored_row({"model": "rm"}, sample(1, "x"), [0.5, 1.0, 2.0, 0.25, 0.125])
    assert (found["reward"], found["parts"], found["gates"]) == (0.5, [1.0, 2.0], [0.25, 0.125])
    assert "parts" not in scored_row({"model": "rm"}, sample(1, "x"), [0.5])[0]


def grading(body):
    """Grade an answer by its first digit, where it has one."""
    text = body["messages"][-1]["content"]
    grade = re.search(r" answer\]\nworth (\d)", text)
    if grade is None:
        return "no grade"
    names = body["response_format"]["json_schema"]["schema"]["properties"]["answer"]["required"]
    return json.dumps({"justification": "so", "answer": dict.fromkeys(names, int(grade[1]))})


def test_a_judge_grades_and_what_it_does_not_grade_is_a_reject(tmp_path):
    rows = [sample(1, "worth 7"), sample(2, "worth 3"), sample(3, "worth nothing")]
    with OpenAIServer(grading) as server:
        endpoint = {"name": "far", "url": server.url, "model": "big"}
        for _ in range(2):
            job = job_of(tmp_path, judging(endpoint=endpoint), rows)
            score(job)
            assert len(server.asked) == 3
    kept, (reject,) = read_jsonl(job.outputs.corpus), read_jsonl(job.outputs.rejects)
    assert [row["reward"] for row in kept] == [7.0, 3.0] and set(kept[0]["scores"].values()) == {7}
    assert reject["uid"] == "d:train:3:0" and reject["reason"].startswith("judge: error: the reply is not the JSON")
    assert (job.facts["mean"], job.facts["lowest"], job.facts["highest"]) == (5.0, 3.0, 7.0)


def test_a_judge_sees_the_whole_conversation_inside_its_fence():
    chat = [{"role": role, "content": text} for role, text in (("user", "a?"), ("assistant", "b"), ("user", "c?"))]
    assert as_question(chat) == "User: a?\n\nAssistant: b\n\nUser: c?" and as_question(chat[:1]) == "a?"
    (request,) = grade_requests(judging(), [sample(1, "PRIVATE", prompt=chat)])
    text = request.messages[-1]["content"]
    (fence,) = set(re.findall(r"\[(\w{12}) answer\]", text))
    outside = re.sub(rf"\[{fence} (\w+)\]\n.*?\n\[{fence} end of \1\]", "", text, flags=re.DOTALL)
    assert "PRIVATE" not in outside and "Assistant: b" not in outside and "Assistant: b" in text


def test_a_reward_model_has_no_settings_of_a_judge():
    with pytest.raises(ValueError, match="rubric: a reward model has none; leave it out"):
        Scored(kind="scored", name="s", corpus="c", reward="rm", rubric="coding")
    with pytest.raises(ValueError, match="write exactly one of reward, endpoint"):
        Scored(kind="scored", name="s", corpus="c")
