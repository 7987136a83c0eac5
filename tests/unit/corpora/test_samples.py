"""Samples: what is asked with which seeds, what is kept, and answers that a file has."""

import types

import pytest
from moult.base.errors import UserError
from moult.base.files import read_json, read_jsonl, write_jsonl
from moult.base.rows import columns_of
from moult.base.sample_rows import Sample
from moult.config.load import load
from moult.corpora.samples import Samples, fitting, sample_requests, samples_in, samples_of
from moult.corpora.samples import run as sample
from moult.corpora.shares import of_share
from moult.data.prompts import load_template
from moult.data.questions import prompt_rows
from moult.inference.engines.loading import load_engine
from moult.inference.requests import ChatRequest, Sampling
from moult.stages.datasets import prepare_dataset as recipe_of
from openai_server import OpenAIServer
from pico import teach_pico_model
from prepared import prepare_with_manifest

DECODING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 12}
ASKED = [{"role": "user", "content": "Why?"}]


def row(number, **more):
    plain = {"uid": f"d:train:{number}", "dataset": "d", "split": "train", "field": "", "title": None}
    return plain | {"question": f"Q{number}", "prompt": [{"role": "user", "content": f"Q{number}"}]} | more


def recipe(**more):
    plain = {"endpoint": {"name": "own", "serve": "own"}, "prompt": None, "decoding": DECODING, "samples": 3}
    return plain | {"cut": "keep", "seed": 5} | more


def answer(text, finish_reason="stop", error=None):
    return {"text": text, "finish_reason": finish_reason, "completion_tokens": len(text.split()), "error": error}


def test_a_further_sample_or_prompt_asks_for_itself_alone():
    asked = {request.seed: request for request in sample_requests(recipe(), [row(1), row(2)])}
    assert len(asked) == 6
    more = {request.seed: request for request in sample_requests(recipe(samples=4), [row(0), row(2), row(1)])}
    assert asked.items() <= more.items() and len(more) == 12


def test_questions_are_asked_by_a_template_and_prompts_as_they_are():
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    (one, *_) = sample_requests(recipe(), [row(1, prompt=chat)])
    assert list(one.messages) == chat
    (one, *_) = sample_requests(recipe(prompt=load_template("meteor/answer")), [row(1, title="T", prompt=None)])
    assert "Q1" in one.messages[-1]["content"] and "T" in one.messages[-1]["content"]


def test_what_is_cut_is_kept_or_rejected_and_the_rest_is_accounted_for():
    values = [answer("a"), answer("b", "length"), answer(""), answer("c"), answer("", "error", "too long"), answer("d")]
    rows = [row(1), row(2)]
    kept, rejects = samples_of(recipe(), rows, values, "own")
    assert [(one["uid"], one["sample"], one["answer"], one["finish_reason"]) for one in kept] == [
        ("d:train:1", 0, "a", "stop"),
        ("d:train:1", 1, "b", "length"),
        ("d:train:2", 0, "c", "stop"),
        ("d:train:2", 2, "d", "stop"),
    ]
    assert list(kept[0]) == columns_of(Sample)
    assert [(one["uid"], one["reason"]) for one in rejects] == [
        ("d:train:1:2", "empty answer"),
        ("d:train:2:1", "error: too long"),
    ]
    kept, rejects = samples_of(recipe(cut="reject"), rows, values, "own")
    assert [one["reason"] for one in rejects] == ["cut: reached max_tokens", "empty answer", "error: too long"]


def test_shares_part_all_rows_and_a_further_row_moves_none():
    rows = [row(number) for number in range(300)]
    seed = {"share_seed": 7}
    third = of_share(seed | {"share": [0, 1 / 3]}, rows)
    rest = of_share(seed | {"share": [1 / 3, 1]}, rows)
    assert sorted(one["uid"] for one in third + rest) == sorted(one["uid"] for one in rows)
    assert 70 < len(third) < 130
    more = of_share(seed | {"share": [0, 1 / 3]}, [row(1000), *reversed(rows)])
    assert {one["uid"] for one in third} == {one["uid"] for one in more} - {"d:train:1000"}
    assert of_share({}, rows) == rows
    with pytest.raises(ValueError, match="has no row; write"):
        Samples(kind="samples", name="s", dataset="d", endpoint="e", share=(0.5, 0.5))


def test_samples_at_temperature_0_would_be_one_answer():
    with pytest.raises(ValueError, match="at temperature 0 all samples are one answer"):
        Samples(kind="samples", name="s", dataset="d", endpoint="e", decoding={"temperature": 0})


def test_prompts_too_long_for_the_target_are_rejects(pico_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    told = recipe(fits={"model": "target", "tokens": 60})
    long = row(2, prompt=[{"role": "user", "content": "why " * 90}])
    kept, rejects = fitting(told, [row(1), long, row(3)], tokenizer)
    assert [one["uid"] for one in kept] == ["d:train:1", "d:train:3"]
    assert rejects[0]["uid"] == "d:train:2" and "tokens of target, more than 60" in rejects[0]["reason"]
    assert fitting(recipe(), [long], None) == ([long], [])


# ---------------------------------------------------------------- engines


@pytest.fixture(scope="module")
def talker(tmp_path_factory, pico_model):
    import shutil

    folder = tmp_path_factory.mktemp("talker") / "model"
    shutil.copytree(pico_model, folder)
    return teach_pico_model(folder, steps=60)


@pytest.mark.parametrize("batch", [1, 4, 5, 20])
def test_samples_that_share_what_was_read_are_those_that_do_not(talker, batch):
    """Batches of whole groups, of parts of them, and of several; prompts of three lengths."""
    chats = [({"role": "user", "content": "question " * (1 + number % 3) + str(number)},) for number in range(4)]
    requests = [
        ChatRequest(chat, Sampling(temperature=1.0, top_p=0.95, max_tokens=10), seed=100 * number + place)
        for number, chat in enumerate(chats)
        for place in range(5)
    ]
    shared = load_engine(talker, batch_size=batch, several=True)
    read = []
    whole = shared.model.get_decoder().forward

    def counted(*arguments, **more):
        ids = arguments[0] if arguments else more["input_ids"]
        read.append(ids.numel() if ids.shape[1] > 1 else 0)
        return whole(*arguments, **more)

    shared.model.get_decoder().forward = counted
    found = dict(one for part in shared.answer(requests) for one in part)
    apart = dict(one for part in load_engine(talker, batch_size=batch).answer(requests) for one in part)
    assert {index: one.text for index, one in found.items()} == {index: one.text for index, one in apart.items()}
    assert len({one.text for one in found.values()}) > 5
    prompts = sum(5 * len(shared._prompt(request)) for request in requests[::5])
    if batch == 5:
        # Each prompt is read once but for its last token, which each row reads.
        assert sum(read) == sum(len(shared._prompt(request)) - 1 for request in requests[::5])
    elif batch == 1:
        assert sum(read) == prompts
    else:
        assert sum(read) < prompts / 2


# ---------------------------------------------------------------- whole jobs


def job_of(tmp_path, recipe, questions, **more):
    outputs = types.SimpleNamespace(**{name: tmp_path / f"{name}.out" for name in ("corpus", "rejects", "usage")})
    inputs = types.SimpleNamespace(questions=questions, get=lambda name, default=None: default)
    return types.SimpleNamespace(recipe=recipe, inputs=inputs, outputs=outputs, facts={}, **more)


def prepared(tmp_path, rows, columns=None):
    """Prepare prompts as their dataset; return its folder."""
    (tmp_path / "raw" / "train").mkdir(parents=True)
    write_jsonl(tmp_path / "raw/train/00-a.jsonl", rows)
    entry = {"name": "d", "format": "prompts", "files": {"train": "a.jsonl"}, "dev_fraction": 0}
    told = recipe_of(load({"name": "x", "datasets": [entry | {"columns": columns or {}}]}), "d")
    prepare_with_manifest(told, tmp_path / "raw", tmp_path / "dataset")
    return tmp_path / "dataset"


def test_an_endpoint_is_asked_for_each_sample_and_never_twice(tmp_path):
    client = {"key": None, "concurrency": 2, "timeout": 5, "retries": 0, "price": {"input": 1.0, "output": 1.0}}
    with OpenAIServer(lambda body: f"said {body['seed']}") as server:
        endpoint = {"name": "far", "url": server.url, "model": "big"}
        questions = prepared(tmp_path, [{"prompt": f"Q{number}?"} for number in range(4)])
        for count in (2, 3):
            told = recipe(endpoint=endpoint, samples=count, splits=["train"])
            job = job_of(tmp_path, told, questions, client=client, journal=tmp_path / "journal.sqlite")
            sample(job)
            assert len(server.asked) == 4 * count
            assert job.facts == {"rows": 4 * count, "rejects": 0, "rows_in": 4 * count, "prompts": 4}
        rows = read_jsonl(job.outputs.corpus)
        assert len({row["answer"] for row in rows}) == 12 and {row["answer_by"] for row in rows} == {"big"}
        assert read_json(job.outputs.usage)["calls"] == 12


def test_answers_of_a_file_are_taken_and_nobody_is_asked(tmp_path):
    told = {"role": "assistant", "content": "one", "model": "other"}
    rows = [{"prompt": ASKED[0], "responses": [told, {"role": "assistant", "content": "two"}, ""]}]
    rows += [{"prompt": "How?", "responses": ["three"]}, {"prompt": "Who?", "responses": "no list"}]
    folder = prepared(tmp_path, rows, {"answers": "responses"})
    (reject,) = read_jsonl(folder / "rejects.jsonl")
    assert reject["reason"] == "answers is no list of answers, or an empty one"
    found = prompt_rows(folder, ["train"])
    assert found[0]["prompt"] == ASKED and len(found) == 2
    job = job_of(tmp_path, {"splits": ["train"], "endpoint": {}, "prompt": None, "answered_by": "theirs"}, folder)
    sample(job)
    kept = read_jsonl(job.outputs.corpus)
    assert [(one["answer"], one["answer_by"], one["sample"]) for one in kept] == [
        ("one", "other", 0),
        ("two", "theirs", 1),
        ("three", "theirs", 0),
    ]
    assert job.facts == {"rows": 3, "rejects": 1, "rows_in": 4, "prompts": 2}
    assert samples_in({"answered_by": "x", "prompt": None}, [row(1)]) == ([], [])


def test_no_row_is_one_sentence(tmp_path):
    folder = prepared(tmp_path, [{"prompt": "Q?"}])
    share = {"share": [0, 1e-12], "share_seed": 1}
    with pytest.raises(UserError, match="the corpus has no rows to ask about"):
        sample(job_of(tmp_path, recipe(splits=["train"], **share), folder))
