"""A row of a corpus ends as an answer or as a reject with its reason."""

import re

import pytest
from moult.base.errors import UserError
from moult.base.files import read_json, read_jsonl
from moult.corpora.generated import generate_corpus, nothing_kept, write_corpus
from moult.data.prompts import load_template
from moult.inference.asking import Asker
from openai_server import OpenAIServer

ROWS = [
    {"uid": f"q:{i}", "split": "train", "field": "machine learning", "title": f"title {i}", "question": f"body {i}"}
    for i in range(4)
]


CLIENT = {"key": None, "concurrency": 2, "timeout": 5, "retries": 0, "price": {"input": 1.0, "output": 1.0}}


def recipe(server, **more):
    endpoint = {"name": "teacher", "url": server.url, "model": "big"}
    plain = {"endpoint": endpoint, "prompt": load_template("meteor/distill"), "cut": "reject", "seed": 1}
    return plain | {"decoding": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 9}} | more


def generated(server, folder, rows=ROWS):
    """Return (kept, rejects, usage) of a corpus that the server answers."""
    with Asker(recipe(server)["endpoint"], folder / "j.sqlite", CLIENT) as asker:
        return generate_corpus(recipe(server), rows, "answer", asker)


def reply(body):
    """Answer by what the row says: fail, say nothing, stop for length, or answer."""
    text = body["messages"][-1]["content"]
    if "body 1" in text:
        return 400, {"error": {"message": "content policy"}}
    return "" if "body 2" in text else f"answer, seed {body['seed']}"


def test_every_row_is_an_answer_or_a_reject_with_a_reason(tmp_path):
    with OpenAIServer(reply) as server:
        kept, rejects, usage = generated(server, tmp_path)
    assert [row["uid"] for row in kept] == ["q:0", "q:3"]
    assert all(row["answer_by"] == "big" and row["title"] for row in kept)
    assert {reject["uid"]: reject["reason"][:12] for reject in rejects} == {
        "q:1": "error: HTTP ",
        "q:2": "empty answer",
    }
    assert usage["calls"] == 4 and usage["failed"] == 1
    # Each row samples with a seed of its own.
    assert kept[0]["answer"] != kept[1]["answer"]


def test_a_guideline_is_in_the_prompt(tmp_path):
    rows = [ROWS[0] | {"guideline": "Scale after the split."}]
    with OpenAIServer() as server:
        generated(server, tmp_path, rows)
    assert "Guideline: Scale after the split." in server.asked[0]["messages"][-1]["content"]
    assert server.asked[0]["max_tokens"] == 9 and server.asked[0]["temperature"] == 0.7


def test_the_three_files_agree(tmp_path):
    with OpenAIServer(reply) as server:
        result = generated(server, tmp_path)
    paths = [tmp_path / name for name in ("c.jsonl", "c.rejects.jsonl", "c.usage.json")]
    assert write_corpus(*paths, result) == {"rows": 2, "rejects": 2}
    assert len(read_jsonl(paths[0])) + len(read_jsonl(paths[1])) == read_json(paths[2])["calls"]


@pytest.mark.parametrize(
    ("reason", "remedy"),
    {
        "judge: the reply is not the JSON that was asked for": "correct `judge_prompt`",
        "cut: reached max_tokens": "`truncated: keep`",
        "rejected answer: cut: reached max_tokens": "Raise `decoding.max_tokens`",
        "not accepted after 3 answers": "raise `max_iterations`",
        "chosen answer: shorter than min_characters": "that limit of `gate`",
        "the two answers are equal": "that limit of `gate`",
        "error: refused: I will not say that.": "ask another endpoint",
        "error: HTTP 500: the server had an error; tries: 6": "such replies cost nothing",
        "error: the reply has no choices": "Look at the replies there",
    }.items(),
)
def test_each_reason_has_its_remedy(tmp_path, reason, remedy):
    assert remedy in str(nothing_kept(tmp_path / "c.jsonl", [{"uid": "q", "reason": reason, "text": ""}]))


def test_a_corpus_without_a_row_stops_the_build(tmp_path):
    with OpenAIServer(lambda body: "") as server:
        result = generated(server, tmp_path)
    kept = tmp_path / "all-rejected" / "c.jsonl"
    said = f"every row was rejected, 4 for 'empty answer'; all 4 rejects are in {kept}. Raise `decoding.max_tokens`"
    with pytest.raises(UserError, match=re.escape(said)):
        write_corpus(tmp_path / "c.jsonl", tmp_path / "r.jsonl", tmp_path / "u.json", result)
    assert [row["uid"] for row in read_jsonl(kept)] == [row["uid"] for row in ROWS]
    with OpenAIServer(reply) as server:
        result = generated(server, tmp_path / "again")
    write_corpus(tmp_path / "c.jsonl", tmp_path / "r.jsonl", tmp_path / "u.json", result)
    assert not kept.exists()
    with pytest.raises(UserError, match="no rows to ask about"):
        generated(server, tmp_path, [])
