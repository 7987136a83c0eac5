"""Local generation: rows are independent of their batch, structure is enforced, label likelihoods are exact."""

import importlib.util
import itertools
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.inference.engines.caches import growing_cache
from moult.inference.engines.loading import load_engine
from moult.inference.engines.sampling import draw
from moult.inference.engines.sharing import shared_batches, shared_rows
from moult.inference.requests import (
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    LabelRequest,
    Sampling,
)
from moult.inference.tokens import end_of_turn_id, prompt_ids
from pico import CHATML, build_pico_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"winner": {"enum": ["A", "B", "Tie"]}, "score": {"type": "integer", "minimum": 1, "maximum": 10}},
    "required": ["winner", "score"],
    "additionalProperties": False,
}
LABELS = ("joy", "joyful", "no", "anger and disgust", "")


def request(text, temperature=0.0, seed=0, max_tokens=12, **rest):
    sampling = Sampling(temperature, top_p=0.9, top_k=40, max_tokens=max_tokens)
    return ChatRequest(({"role": "user", "content": text},), sampling, seed, **rest)


def answers(engine, requests, missing=None):
    """Return the answers by index, all batches together."""
    return dict(itertools.chain.from_iterable(engine.answer(requests, missing)))


@pytest.fixture(scope="module")
def engine(pico_model):
    return load_engine(pico_model, batch_size=4)


@pytest.fixture(scope="module")
def mixed():
    words = "the quick brown fox answers a question about data".split()
    free = [request(" ".join(words[: 1 + i % 9]), temperature=i % 3 / 2, seed=i, max_tokens=6 + i) for i in range(9)]
    return [*free, request("which?", choices=("no", "not")), request("how many?", 1.0, schema=SCHEMA, max_tokens=40)]


def test_neither_batches_nor_answers_depend_on_order(engine, mixed):
    order = list(range(len(mixed)))
    random.Random(0).shuffle(order)
    shuffled = engine.answer([mixed[i] for i in order])
    assert [[(order[place], answer) for place, answer in batch] for batch in shuffled] == list(engine.answer(mixed))


def test_answers_do_not_depend_on_batch_mates(engine, mixed):
    together = answers(engine, mixed)
    assert [answers(engine, [one])[0] for one in mixed] == [together[i] for i in range(len(mixed))]


def test_a_continued_job_runs_the_batches_of_the_whole_one(engine, mixed):
    whole = list(engine.answer(mixed))
    assert [len(batch) for batch in whole] == [4, 4, 3]
    missing = {i for i in range(len(mixed)) if i % 3} - {i for i, _ in whole[1]}
    rest = list(engine.answer(mixed, missing))
    kept = [[(i, answer) for i, answer in batch if i in missing] for batch in whole]
    assert rest == [batch for batch in kept if batch]


def test_batches_come_one_by_one(engine, mixed, monkeypatch):
    calls = []
    complete = engine._complete
    monkeypatch.setattr(engine, "_complete", lambda *batch: calls.append(1) or complete(*batch))
    batches = engine.answer(mixed)
    next(batches)
    assert len(calls) == 1


def test_nothing_asked_is_nothing_answered(engine, mixed):
    assert list(engine.answer([])) == list(engine.answer(mixed, [])) == list(engine.label_logprobs([])) == []


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral", "Gemma3Text"])
@pytest.mark.parametrize("several", [False, True])
def test_prompts_read_in_pieces_are_answered_as_whole_ones(family, several, tmp_path, monkeypatch):
    import torch
    import transformers
    from moult.inference.engines import transformers as module
    from transformers import GenerationConfig

    settings = {
        "Mistral": {"sliding_window": 9},
        "Gemma3Text": {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    }
    config_class = getattr(transformers, f"{family}Config")
    folder = build_family(tmp_path, config_class, **settings.get(family, {}))
    monkeypatch.setattr(module, "PIECE", 20)
    monkeypatch.setattr("moult.inference.engines.caches.STEP", 5)
    engine = load_engine(folder, batch_size=4, several=several)
    asked = [request(text, max_tokens=12) for text in ("data " * 12, "data " * 12, "the fox", "what?" * 7)]
    found = answers(engine, asked)
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=engine.stops, pad_token_id=0)
    for row, one in enumerate(asked):
        ids = torch.tensor([engine._prompt(one)], device=engine.model.device)
        plain = engine.model.generate(ids, generation_config=config)[0, ids.shape[1] :].tolist()
        assert found[row] == engine._answer(ids[0].tolist(), plain, None)


def test_a_cache_grows_by_steps_and_holds_what_the_librarys_own_does(engine, monkeypatch):
    import torch
    from transformers import DynamicCache

    monkeypatch.setattr("moult.inference.engines.caches.STEP", 4)
    ids = torch.arange(3, 60, device=engine.model.device).view(3, 19)
    ours, theirs = growing_cache(engine.model, 7), DynamicCache(config=engine.config)
    places = []
    with torch.inference_mode():
        for begun, end in ((0, 7), (7, 11), (11, 12), (12, 14), (14, 19)):
            for cache in (ours, theirs):
                if begun == 12:
                    cache.batch_select_indices(ids.new_tensor([2, 0, 0]))
                engine.model(ids[:, begun:end], past_key_values=cache)
            places.append(ours.layers[0].keys.data_ptr())
    # The first 11 tokens have room from the beginning; whoever takes other rows begins anew.
    assert places[0] == places[1] != places[2] != places[3]
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(mine.keys, other.keys) and torch.equal(mine.values, other.values)


def test_a_batch_has_no_more_tokens_than_its_memory_holds(pico_model, mixed, monkeypatch):
    whole = answers(load_engine(pico_model, batch_size=8), mixed)
    engine = load_engine(pico_model, batch_size=8)
    if engine.model.device.type != "cpu":
        pytest.skip("a GPU's batches are what the endpoint says")
    layers, heads, numbers = engine.config.num_hidden_layers, engine.config.num_key_value_heads, engine.config.head_dim
    monkeypatch.setattr("moult.inference.engines.caches.LEAST", 2 * layers * heads * numbers * 4 * 100)
    monkeypatch.setattr(type(engine.model), "get_memory_footprint", lambda _: 0)
    batches = list(engine.answer(mixed))
    rooms = [one.sampling.max_tokens for one in mixed]
    for batch in batches:
        widest = max(answer.prompt_tokens for _, answer in batch) + max(rooms[row] for row, _ in batch)
        assert len(batch) == 1 or len(batch) * widest <= 100
    assert engine.most_tokens == 100 and 2 < len(batches) < len(mixed)
    assert dict(itertools.chain.from_iterable(batches)) == whole


def test_the_seed_decides_a_sampled_answer(engine):
    texts = [answers(engine, [request("data", 1.0, seed)])[0].text for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def test_greedy_is_what_transformers_generates(engine):
    import torch
    from transformers import GenerationConfig

    ids = torch.tensor([prompt_ids(engine.tokenizer, [{"role": "user", "content": "a fox"}])])
    config = GenerationConfig(max_new_tokens=20, do_sample=False, eos_token_id=2, pad_token_id=0)
    expected = engine.model.generate(ids, generation_config=config)[0, ids.shape[1] :]
    answer = answers(engine, [request("a fox", max_tokens=20)])[0]
    assert answer.text == engine.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert (answer.prompt_tokens, answer.completion_tokens) == (ids.shape[1], len(expected))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0), [0.5, 0.25, 0.125, 0.125]),
        (Sampling(0.5), [0.25 / 0.34375, 0.0625 / 0.34375, 0.015625 / 0.34375, 0.015625 / 0.34375]),
        (Sampling(1.0, top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(1.0, top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(1.0, top_p=0.5), [1, 0, 0, 0]),
        (Sampling(1.0, top_p=0.6, top_k=1), [1, 0, 0, 0]),
    ],
)
def test_draws_follow_the_distribution(sampling, expected):
    import numpy as np

    scores = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32)) + 3
    generator = np.random.default_rng(0)
    counts = Counter(int(draw(scores, sampling, generator).argmax()) for _ in range(8000))
    assert [counts[token] / 8000 for token in range(4)] == pytest.approx(expected, abs=0.02)
    assert {token for token in range(4) if not expected[token]}.isdisjoint(counts)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_choice_is_exactly_one_of_the_strings(engine, temperature):
    choices = ("no", "not", 'a "quoted" one\n', "élan")
    asked = [request(f"question {seed}", temperature, seed, choices=choices, max_tokens=30) for seed in range(6)]
    for answer in answers(engine, asked).values():
        assert answer.text in [choice.strip() for choice in choices]
        assert answer.finish_reason == "stop"


def test_the_end_of_the_turn_is_counted(engine):
    answer = answers(engine, [request("x", choices=("no",))])[0]
    assert (answer.text, answer.completion_tokens) == ("no", len(engine.tokenizer.tokenize("no")) + 1)


def test_a_schema_is_enforced_and_neighbours_stay_free(engine):
    import jsonschema

    asked = [request(f"judge {seed}", 1.5, seed, schema=SCHEMA, max_tokens=60) for seed in range(3)]
    found = answers(engine, [*asked, request("free", 1.5)])
    for row in range(3):
        jsonschema.validate(json.loads(found[row].text), SCHEMA)
        assert found[row].finish_reason == "stop"
    assert found[3] == answers(engine, [request("free", 1.5)])[0]


def test_a_schema_nobody_can_enforce_is_the_users(engine):
    with pytest.raises(UserError, match="objekt"):
        answers(engine, [request("x", schema={"type": "objekt"})])


def test_each_row_stops_at_its_own_length(engine):
    found = answers(engine, [request("a", max_tokens=3), request("b", max_tokens=9), request("c", schema=SCHEMA)])
    assert [found[row].completion_tokens for row in range(3)] == [3, 9, 12]
    assert {found[row].finish_reason for row in range(3)} == {"length"}


def test_a_request_that_does_not_fit_is_an_error_and_the_others_are_answered(engine):
    asked = [request("a fox"), request("long " * 200), request("data", max_tokens=600)]
    found = answers(engine, asked)
    assert [found[row].finish_reason for row in range(3)] == ["length", "error", "error"]
    assert found[1].text == "" and "512" in found[1].error
    assert found[0] == answers(engine, asked[:1])[0]


def test_the_models_own_sampling_settings_do_not_leak_in(engine, pico_model, tmp_path):
    folder = shutil.copytree(pico_model, tmp_path / "model")
    settings = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 50.0, "max_length": 3, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    asked = [request("a fox", max_tokens=60)]
    assert answers(load_engine(folder), asked) == answers(engine, asked)


def test_any_declared_end_stops(engine, pico_model, tmp_path):
    out = engine._complete([prompt_ids(engine.tokenizer, [{"role": "user", "content": "a fox"}])], [request("a fox")])
    folder = shutil.copytree(pico_model, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, out[0][0][0]]}))
    answer = answers(load_engine(folder), [request("a fox")])[0]
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("", "stop", 1)


def build_family(path, config_class, **settings):
    """Save a pico model of any family whose weights are large enough that each attended token matters."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_pico_tokenizer()
    torch.manual_seed(0)
    config = config_class(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.3,
        **settings,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


# Pico models of them see labels of one prompt in one sequence.
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Mistral": {"sliding_window": 9},
    "Gemma3Text": {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_label_likelihoods_are_those_of_one_sequence_a_label(family, tmp_path):
    import torch
    import transformers

    config_class = getattr(transformers, f"{family}Config")
    engine = load_engine(build_family(tmp_path, config_class, **FAMILIES[family]), batch_size=3)
    texts = ["a", "the quick brown fox answers", "what?" * 7, "data " * 12]
    labels = [LABELS, LABELS[:1], LABELS[::-1], tuple(f"label {number}" for number in range(40))]
    asked = [LabelRequest(({"role": "user", "content": text},), row) for text, row in zip(texts, labels, strict=True)]
    found = dict(itertools.chain.from_iterable(engine.label_logprobs(asked)))
    for row, one in enumerate(asked):
        prompt = prompt_ids(engine.tokenizer, list(one.messages))
        for label, value in zip(one.labels, found[row], strict=True):
            ids = prompt + engine.tokenizer(label, add_special_tokens=False)["input_ids"] + [2]
            with torch.inference_mode():
                logs = engine.model(torch.tensor([ids], device=engine.model.device)).logits[0].log_softmax(-1)
            naive = sum(logs[place - 1, ids[place]].item() for place in range(len(prompt), len(ids)))
            assert value == pytest.approx(naive, abs=1e-4)


def summed(engine, request):
    """Return the log-likelihood of a continuation in a sequence of its own, and whether greedy decoding writes it."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([[*request.context, *request.continuation]], device=engine.model.device)
        logits = engine.model(ids).logits[0].float()
    rows = logits[len(request.context) - 1 : -1].log_softmax(-1)
    wanted = sum(float(row[token]) for row, token in zip(rows, request.continuation, strict=True))
    return [pytest.approx(wanted, abs=1e-4), int(rows.argmax(-1).tolist() == list(request.continuation))]


@pytest.mark.parametrize("family", [*FAMILIES, "GPT2", "stateful"])
def test_what_documents_begin_with_is_read_once_and_changes_no_likelihood(family, tmp_path, monkeypatch):
    import transformers

    tree = family != "stateful"
    config_class = getattr(transformers, f"{family if tree else 'Llama'}Config")
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    engine = load_engine(build_family(tmp_path, config_class, **ends, **FAMILIES.get(family, {})), batch_size=2)
    engine.model._is_stateful = not tree
    assert engine.takes_tree == tree and (engine.reads_ahead or not tree)
    draw = random.Random(4)
    shots = [tuple(draw.randrange(3, 500) for _ in range(60)) for _ in range(2)]
    documents = [shots[place % 2] + tuple(draw.randrange(3, 500) for _ in range(3 + place)) for place in range(7)]
    asked = [ContinuationRequest(one, (token,)) for one in documents for token in (7, 8, 9)]
    asked += [ContinuationRequest(one, (7, 8, 9)) for one in documents[:3]]
    asked += [ContinuationRequest((5, 6, 7), (8, 9)), ContinuationRequest((5,), (8, 9))]
    read, forward = [], engine.model.forward
    monkeypatch.setattr(engine.model, "forward", lambda ids, **more: (read.append(ids.shape), forward(ids, **more))[1])
    found = continuations(engine, asked)
    if tree:
        # Behind a beginning, no row is longer than what it has alone and its continuations.
        assert all(shape[1] < 60 for shape in read)
    assert len(found) == len(asked)
    for index, one in enumerate(asked):
        assert found[index] == summed(engine, one)
    for index, (score, greedy) in continuations(engine, asked, [4, 9, 22]).items():
        assert [score, greedy] == summed(engine, asked[index])
    assert bool(engine.read[0]) == tree
    engine.close()
    assert engine.read == ([], None)


def test_a_beginning_is_shared_where_it_saves_half():
    def batches(*contexts, size=8):
        return list(shared_batches([ContinuationRequest(one, (1,)) for one in contexts], size))

    shots, other = tuple(range(100, 180)), tuple(range(300, 360))
    rows = [shots + (place, place) for place in range(5)] + [other + (place,) for place in range(4)] + [(9,) * 70]
    found = batches(*rows)
    assert sorted((beginning, sorted(place for (place,) in batch)) for beginning, batch in found) == [
        (0, [9]),
        (60, [5, 6, 7, 8]),
        (80, [0, 1, 2, 3, 4]),
    ]
    # Longest first, and batches of one beginning one after another.
    assert [beginning for beginning, _ in batches(*rows, size=2)] == [80, 80, 80, 0, 60, 60]
    # An instruction before all shots is less than what each task shares, and more than none.
    told = tuple(range(400, 440))
    assert {beginning for beginning, _ in batches(*(told + row for row in rows))} == {0, 100, 120}
    # Too short, too few, nothing that all share.
    assert batches(*[shots[:31] + (place,) for place in range(9)])[0][0] == 0
    assert {beginning for beginning, _ in batches(*[shots + (place,) * 90 for place in range(3)])} == {0}
    assert [beginning for beginning, _ in batches((1, 2), (2, 1))] == [0]
    assert batches() == []
    # A context that is the beginning of another one keeps its last token to itself.
    assert {beginning for beginning, _ in batches(shots, shots + (1,), shots + (2,))} == {79}


def test_of_all_beginnings_those_are_shared_that_save_most(monkeypatch):
    """Beside all ways to part contexts of few tokens, one by one."""
    monkeypatch.setattr("moult.inference.engines.sharing.LEAST", 1)
    draw = random.Random(2)

    def saved(plan):
        return sum(tokens * (len(rows) - 1) for tokens, rows in plan)

    def best(contexts):
        """Return the most that can be saved of contexts."""
        if len(contexts) < 2:
            return 0
        common = 0
        while all(len(one) - 1 > common and one[common] == contexts[0][common] for one in contexts):
            common += 1
        parts = {}
        for one in contexts:
            part = one[common : common + 1] if len(one) - 1 > common else one[common:] + (-1,)
            parts.setdefault(part, []).append(one)
        own = common * (len(contexts) - 1)
        worth = own if 2 * own >= sum(len(one) + 1 for one in contexts) else 0
        within = sum(best(part) for part in parts.values()) if len(parts) > 1 else 0
        return max(worth, within)

    for _ in range(200):
        contexts = {tuple(draw.randrange(2) for _ in range(draw.randint(2, 9))) for _ in range(draw.randint(1, 12))}
        asked = [ContinuationRequest(one, (1,)) for one in contexts]
        plan = list(shared_batches(asked, 99))
        assert sorted(place for _, rows in plan for row in rows for place in row) == list(range(len(asked)))
        for tokens, rows in plan:
            assert len({asked[row[0]].context[:tokens] for row in rows}) == 1
            assert all(tokens < len(asked[row[0]].context) or tokens == 0 for row in rows)
        assert saved(plan) >= best(sorted(contexts))


def test_labels_that_do_not_fit_are_an_error(engine):
    asked = [LabelRequest(({"role": "user", "content": text},), ("no", "not")) for text in ("long " * 200, "short")]
    (refused, scored) = engine.label_logprobs(asked)
    assert isinstance(refused[0][1], Answer) and refused[0][1].error
    assert scored[0][0] == 1 and len(scored[0][1]) == 2


def test_labels_in_sequences_of_their_own_score_the_same(engine, pico_model):
    """What cannot take a tree of labels, a model with a memory for one, is asked label by label."""
    requests = [LabelRequest(({"role": "user", "content": text},), LABELS) for text in ("x", "is this sarcasm or joy?")]
    apart = load_engine(pico_model, batch_size=3)
    apart.model._is_stateful = True
    assert engine.takes_tree and not apart.takes_tree
    together, alone = (dict(itertools.chain.from_iterable(one.label_logprobs(requests))) for one in (engine, apart))
    for row in (0, 1):
        assert alone[row] == pytest.approx(together[row], abs=1e-4)


def test_pickled_weights_are_refused(pico_model, tmp_path):
    folder = shutil.copytree(pico_model, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickle"):
        load_engine(folder)


def test_vllm_is_asked_for_only_where_it_is(pico_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="engine: transformers"):
        load_engine(pico_model, engine="vllm")


@pytest.mark.parametrize(
    ("template", "token"),
    [
        (CHATML, "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }} <|endoftext|>\n{% endfor %}", "<|endoftext|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "<|im_end|>"),
        (None, "<|im_end|>"),
    ],
)
def test_the_end_of_turn_is_the_templates(template, token):
    tokenizer = build_pico_tokenizer()
    tokenizer.chat_template = template
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids(token)


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = build_pico_tokenizer()
    tokenizer.chat_template = tokenizer.eos_token = None
    with pytest.raises(UserError, match="eos_token"):
        end_of_turn_id(tokenizer)


def continuations(engine, requests, missing=None):
    """Return the scores by index, all batches together."""
    return dict(itertools.chain.from_iterable(engine.continuations(requests, missing)))


def behind(engine, context, *continuations):
    """Return a ContinuationRequest per text behind a context."""
    ids = tuple(engine.tokenizer(context)["input_ids"])
    return [ContinuationRequest(ids, tuple(engine.tokenizer(one)["input_ids"])) for one in continuations]


@pytest.fixture(scope="module")
def scored(engine):
    shared = behind(engine, "the quick brown fox answers", " a", " a question", " about data", " a question about")
    others = behind(engine, "data", " a question about data the fox answers") + behind(engine, "the fox", " a", " data")
    return shared + others


def test_continuations_are_scored_as_one_sequence_each_would_be(engine, scored):
    found = continuations(engine, scored)
    for index, request in enumerate(scored):
        assert found[index] == summed(engine, request)


def test_equal_contexts_share_a_row_whatever_the_order_and_only_what_is_missing_is_scored(engine, scored, monkeypatch):
    rows = shared_rows(scored)
    assert sorted(map(sorted, rows)) == [[0, 1, 2, 3], [4], [5, 6]]
    order = list(range(len(scored)))
    random.Random(3).shuffle(order)
    turned = shared_rows([scored[place] for place in order])
    assert [[order[place] for place in row] for row in turned] == rows
    asked = []
    score = engine._score
    monkeypatch.setattr(engine, "_score", lambda *given: (asked.append(given[:2]), score(*given))[1])
    assert set(continuations(engine, scored, [1, 6])) == {1, 6}
    assert [list(map(len, labels)) for _, labels in asked] == [[1, 1]]


def test_a_row_has_so_many_tokens_behind_its_context_at_most(monkeypatch):
    monkeypatch.setattr("moult.inference.engines.sharing.MOST", 10)
    requests = [ContinuationRequest(tuple(range(9)), (number,) * 4) for number in range(5)]
    assert sorted(shared_rows(requests)) == [[0, 1], [2, 3], [4]]
    # Nothing would be saved behind a context that is shorter than what it is followed by.
    assert len(shared_rows([ContinuationRequest((1,), (number, number)) for number in range(3)])) == 3


def test_a_completion_ends_behind_its_strings_alone_and_among_others(engine):
    def completed(requests):
        return dict(itertools.chain.from_iterable(engine.completions(requests)))

    contexts = [
        tuple(engine.tokenizer(text)["input_ids"]) for text in ("the quick", "fox answers", "data about a", "a")
    ]
    free = completed([CompletionRequest(ids, (), Sampling(max_tokens=20)) for ids in contexts])
    assert all(free[number].completion_tokens == 20 for number in free if free[number].finish_reason == "length")
    stop = next(letter for letter in free[0].text[1:] if letter.isascii() and letter.isprintable())
    asked = [CompletionRequest(ids, (stop, "never"), Sampling(max_tokens=20)) for ids in contexts]
    ended = completed(asked)
    assert ended[0].finish_reason == "stop" and ended[0].completion_tokens < 20
    assert ended[0].text.split(stop)[0] == free[0].text.split(stop)[0]
    for number, request in enumerate(asked):
        assert completed([request])[0] == ended[number]


def test_a_penalty_keeps_tokens_from_coming_again(engine):
    ids = list(engine.tokenizer("the quick brown fox")["input_ids"])
    sampling = [Sampling(max_tokens=12, repetition_penalty=one) for one in (0.02, 1.0, 50.0)]
    again, plain, other = (engine._complete([ids], [CompletionRequest(tuple(ids), (), one)])[0][0] for one in sampling)
    assert len(set(again)) < len(set(other)) == len(other)
    # Greedy decoding writes what is scored as such.
    assert continuations(engine, [ContinuationRequest(tuple(ids), tuple(plain[:5]))])[0][1] == 1
    assert continuations(engine, [ContinuationRequest(tuple(ids), tuple(again))])[0][1] == 0


def test_a_model_without_a_chat_template_is_scored_all_the_same(pico_model, tmp_path):
    folder = Path(shutil.copytree(pico_model, tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink()
    bare = load_engine(folder)
    assert bare.stops == bare.ends
    (one,) = behind(bare, "the quick", " fox")
    assert continuations(bare, [one])[0][0] < 0


@pytest.mark.parametrize(("engine", "said"), [("transformers", "bitsandbytes is not"), ("vllm", "engine transformers")])
def test_weights_in_few_bits_are_refused_where_nothing_makes_them(pico_model, engine, said, monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, find=importlib.util.find_spec: name != "bitsandbytes" and find(name) or None,
    )
    with pytest.raises(UserError, match=said):
        load_engine(pico_model, engine=engine, bits=4)
