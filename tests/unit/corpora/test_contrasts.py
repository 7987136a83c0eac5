"""Pairs that a model makes itself: what is asked, what is chosen, and why a pair is none."""

import shutil
import types

import pytest
from moult.base.files import read_json, read_jsonl, write_json
from moult.corpora.contrasts import choose, contrast_answers, pair_requests
from moult.corpora.similarity import chrf, ngrams, repetition
from moult.data.prompts import load_template
from moult.inference.asking import Asker
from moult.inference.engines.loading import load_engine
from moult.inference.requests import ChatRequest, Sampling
from openai_server import OpenAIServer
from pico import teach_pico_model

ROWS = [
    {
        "uid": f"q:{split}:{i}",
        "dataset": "q",
        "split": split,
        "field": "data",
        "title": f"title {i}",
        "question": "Why?",
    }
    for i, split in enumerate(["train", "train", "train", "dev"])
]
GATE = {"min_characters": 5, "max_repetition": 0.3, "max_length_ratio": 2.0, "max_similarity": 0.9}
BEAM = {"method": "beam", "beams": 3, "length_penalty": 1.0}
SAMPLES = {"method": "consistency", "samples": 3, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
CLIENT = {"key": None, "concurrency": 2, "timeout": 5, "retries": 0, "price": {"input": 1.0, "output": 1.0}}
FILES = ("corpus", "rejects", "usage")


def recipe(endpoint, chosen, **more):
    rejected = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 12}
    plain = {"endpoint": endpoint, "prompt": load_template("meteor/answer"), "rejected": rejected, "chosen": chosen}
    return plain | {"gate": GATE, "seed": 5} | more


def answer(text, finish_reason="stop", error=None):
    return {"text": text, "finish_reason": finish_reason, "completion_tokens": len(text.split()), "error": error}


def make(tmp_path, recipe, rows=ROWS, **asking):
    """Make a corpus of pairs; return (pairs, rejects, usage, facts)."""
    outputs = types.SimpleNamespace(**{name: tmp_path / name for name in FILES})
    with Asker(recipe["endpoint"], tmp_path / "journal.sqlite", **asking) as asker:
        facts = contrast_answers(recipe, rows, asker, outputs)
    return read_jsonl(outputs.corpus), read_jsonl(outputs.rejects), read_json(outputs.usage), facts


# ---------------------------------------------------------------- the measures


def test_chrf_is_the_mean_f1_of_character_ngrams():
    # "abcd" and "abxy": orders 1 to 4 have 4, 3, 2, 1 grams each, of which 2, 1, 0, 0 are shared.
    assert chrf(ngrams("abcd"), ngrams("ab xy")) == pytest.approx((2 / 4 + 1 / 3 + 0 + 0) / 4)
    assert chrf(ngrams("a text"), ngrams("a  text")) == 1.0
    assert chrf(ngrams("one"), ngrams("two text")) == chrf(ngrams("two text"), ngrams("one"))
    assert chrf(ngrams(""), ngrams("")) == 0.0


def test_repetition_is_the_share_of_word_4_grams_said_before():
    assert repetition("one two three four five six seven") == 0.0
    assert repetition("again and again " * 10) == pytest.approx(1 - 3 / 27)
    assert repetition("三次三次三次三次") > 0.5
    assert repetition("short") == 0.0


# ---------------------------------------------------------------- the choice


def test_the_sample_closest_to_the_others_is_chosen():
    texts = ["the answer is blue", "the answer is green", "something else", "the answer is  blue!"]
    best, reason = choose(answer("my reply: red"), [answer(text) for text in texts], GATE, "consistency")
    means = [sum(chrf(ngrams(one), ngrams(other)) for other in texts if other is not one) / 3 for one in texts]
    assert reason is None and best["text"] == texts[means.index(max(means))]
    assert best["reward"] == pytest.approx(max(means), abs=1e-6)
    expected = sum(chrf(ngrams("my reply: red"), ngrams(other)) for other in texts) / 4
    assert best["reward_of_rejected"] == pytest.approx(expected, abs=1e-6)


def test_a_sample_that_the_gate_takes_may_vote_but_not_win():
    texts = ["yes", "yes", "yes", "yes it is so"]
    best, reason = choose(answer("no it is not"), [answer(text) for text in texts], GATE, "consistency")
    assert reason is None and best["text"] == "yes it is so"


@pytest.mark.parametrize(
    ("rejected", "candidate", "reason"),
    [
        (answer("a reply", "length"), answer("another answer"), "rejected answer: cut: reached max_tokens"),
        (answer("", "error", "too long"), answer("another answer"), "rejected answer: error: too long"),
        (answer(""), answer("another answer"), "rejected answer: empty answer"),
        (answer("a reply"), answer("another answer", "length"), "chosen answer: cut: reached max_tokens"),
        (answer("a reply"), answer("yes"), "chosen answer: shorter than min_characters"),
        (answer("a b c d e " * 6), answer("a b c d e " * 8), "chosen answer: repeats itself more than max_repetition"),
        (answer("the same"), answer("the same"), "the two answers are equal"),
        (answer("an answer of words"), answer("an  answer of words"), "the two answers are more alike than max_sim"),
        (answer("short"), answer("a much longer answer"), "the chosen answer is longer than max_length_ratio allows"),
        (answer("a much longer reply"), answer("short"), "the rejected answer is longer than max_length_ratio allows"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_pair_that_teaches_nothing_has_its_reason(rejected, candidate, reason):
    assert choose(rejected, [candidate], GATE, "beam")[1].startswith(reason)
    if candidate["finish_reason"] == "stop":
        assert choose(rejected, [candidate, candidate], GATE, "consistency")[1].startswith(reason)


def test_one_whole_sample_is_close_to_nothing():
    samples = [answer("a whole answer"), answer("a cut one", "length")]
    _, reason = choose(answer("the reply"), samples, GATE, "consistency")
    assert reason == "chosen answer: 1 of 2 samples are whole, the first that is not: cut: reached max_tokens"


# ---------------------------------------------------------------- beam search


@pytest.fixture(scope="module")
def engine(pico_model):
    return load_engine(pico_model, batch_size=4)


def log_likelihood(model, prompt, ids):
    import torch

    with torch.inference_mode():
        table = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return sum(table[len(prompt) - 1 + place, token].item() for place, token in enumerate(ids))


def test_beam_search_finds_what_trying_everything_finds(engine):
    """Two tokens, as many beams as there are tokens: nothing can be missed."""
    import torch
    from moult.inference.tokens import prompt_ids

    messages = ({"role": "user", "content": "question"},)
    request = ChatRequest(messages, Sampling(max_tokens=2, beams=512))
    prompt = prompt_ids(engine.tokenizer, list(messages))
    ((ids, error),) = engine._complete([prompt], [request])
    with torch.inference_mode():
        first = engine.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        grown = torch.cat([torch.tensor(prompt).repeat(512, 1), torch.arange(512)[:, None]], dim=1)
        both = first[:, None] + engine.model(grown).logits[:, -1].log_softmax(-1)
        both[engine.stops] = -torch.inf  # what ended after one token has no second
    best = max([both.max().item() / 2, *(first[stop].item() for stop in engine.stops)])
    kept = ids[:1] if ids[0] in engine.stops else ids
    assert error is None
    assert log_likelihood(engine.model, prompt, kept) / len(kept) == pytest.approx(best, rel=1e-4)


def test_requests_of_all_kinds_are_answered_together_as_alone(engine):
    """Greedy, drawn and searched rows in one call: each batch is of one kind, and a neighbour changes no answer."""
    ways = [Sampling(max_tokens=6), Sampling(max_tokens=6, beams=3), Sampling(temperature=1.0, max_tokens=6)]
    ways.append(Sampling(max_tokens=4, beams=2, length_penalty=0.0))
    requests = [
        ChatRequest(({"role": "user", "content": "question " * (1 + number)},), way, seed=number)
        for number in range(3)
        for way in ways
    ]
    together = dict(pair for batch in engine.answer(requests) for pair in batch)
    assert sorted(together) == list(range(len(requests)))
    for number, request in enumerate(requests):
        ((_, alone),) = next(engine.answer([request]))
        assert together[number] == alone


def test_settings_of_beam_search_change_no_key_of_what_was_asked_before():
    plain = Sampling(temperature=0.7).as_dict()
    assert plain == {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 256}
    assert Sampling(beams=4).as_dict() | {"beams": 4, "length_penalty": 1.0} == Sampling(beams=4).as_dict()


# ---------------------------------------------------------------- the corpus


def reply(body):
    """Three samples that agree more or less, and a greedy answer; title 2 always gets the same."""
    text = body["messages"][-1]["content"]
    if "title 2" in text:
        return "always the very same"
    return f"drawn answer {body['seed'] % 7}" if body["temperature"] else "the greedy reply"


def test_every_row_is_a_pair_or_a_reject_and_each_answer_is_asked_once(tmp_path):
    with OpenAIServer(reply) as server:
        wanted = recipe({"name": "teacher", "url": server.url, "model": "big"}, SAMPLES)
        pairs, rejects, usage, facts = make(tmp_path, wanted, client=CLIENT)
        again = make(tmp_path, wanted | {"gate": GATE | {"min_characters": 6}}, client=CLIENT)
        asked = len(server.asked)
    assert asked == usage["calls"] == 16 and again[0] == pairs
    assert [pair["uid"] for pair in pairs] == ["q:train:0", "q:train:1", "q:dev:3"]
    assert [pair["split"] for pair in pairs] == ["train", "train", "dev"]
    assert [(row["uid"], row["reason"]) for row in rejects] == [("q:train:2", "the two answers are equal")]
    assert facts == {"rows": 3, "rejects": 1, "rows_in": 4, "chosen_longer": 0}
    one = pairs[0]
    assert one["prompt"][-1]["role"] == "user" and "title 0" in one["prompt"][-1]["content"]
    (chosen,), (rejected,) = one["chosen"], one["rejected"]
    assert (rejected["content"], rejected["decoding"], rejected["model"]) == ("the greedy reply", "greedy", "big")
    assert chosen["content"].startswith("drawn answer") and chosen["decoding"] == "consistency"
    assert one["rm"] and one["margin"] == pytest.approx(chosen["reward"] - rejected["reward"], abs=1e-6)
    assert one["seed"] == 5


def test_samples_of_a_row_have_seeds_of_their_own_whatever_their_neighbours():
    wanted = recipe({"name": "teacher", "url": "http://x", "model": "big"}, SAMPLES)
    requests = pair_requests(wanted, ROWS)
    assert len(requests) == 16 and len({request.seed for request in requests}) == 16
    assert pair_requests(wanted, ROWS[2:3]) == requests[8:12]


def test_a_model_of_this_build_makes_pairs_by_beam_search(pico_model, tmp_path):
    write_json(tmp_path / "m.json", {"content": "abc"})
    compute = {"engine": "transformers", "dtype": "float32", "batch_size": 4, "threads": 1}
    loose = GATE | {"min_characters": 1, "max_repetition": 1.0, "max_length_ratio": 100.0, "max_similarity": 1.0}
    wanted = recipe({"name": "student", "serve": "base", "compute": compute}, BEAM, gate=loose)
    taught = teach_pico_model(shutil.copytree(pico_model, tmp_path / "taught"))
    pairs, rejects, usage, facts = make(tmp_path, wanted, model=taught, manifest=tmp_path / "m.json")
    assert usage["calls"] == 8 and usage["cost_usd"] == 0.0
    assert len(pairs) + len(rejects) == 4 and pairs
    for pair in pairs:
        assert (
            pair["chosen"][0]["decoding"] == "beam" and pair["chosen"][0]["content"] != pair["rejected"][0]["content"]
        )
        assert pair["margin"] is None and pair["chosen"][0]["model"] == "base"
