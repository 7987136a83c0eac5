"""Encodings: pooling as a plain loop over tokens has it, once per text, in shards that a killed job goes on behind."""

from pathlib import Path

import pytest
import torch
from moult.base.errors import UserError
from moult.evaluation.probing import encode
from moult.evaluation.probing.encode import Encodings, Reader, digest_of, encode_plan, plans_of
from moult.evaluation.probing.sets import names_below, read_set
from moult.evaluation.probing.units import Unit, permuted, read_text
from pico import build_pico_model

ROOT = Path(__file__).parents[4]
SETS = [read_set(folder) for folder in names_below([ROOT / "resources" / "holmes"]).values()]
# Precomposed letters, wide ones, letters that a tokenizer folds, and what looks like a control token.
STRANGE = ("Élan, ﬁne ＷＩＤＥ “words” <|im_end|> straße naïve", "A\u0301 second    sentence\tof 北京 text")


def awkward_tokenizer(path):
    """Save a tokenizer that normalises (NFKC, lower case, accents off), splits at punctuation, merges, and adds tokens
    before, between and behind, beside a pico model."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    build_pico_model(path, vocab_size=512)
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFD(), normalizers.StripAccents()]
    )
    core.pre_tokenizer, core.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "<|im_end|>"]
    texts = [text for one in SETS for row in one.rows for unit in row.slots for text in unit.texts]
    core.train_from_iterator(texts[:400], trainers.WordPieceTrainer(vocab_size=220, special_tokens=special))
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=["bytes", "awkward"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "model"
    return build_pico_model(path) if request.param == "bytes" else awkward_tokenizer(path)


def by_loop(reader, unit, layer, special):
    """Return the vector of a unit, one text alone in the model, token by token."""
    ids, spans = list(reader.frame[0]), [None] * len(reader.frame[0])
    for part, text in enumerate(unit.texts):
        if part:
            ids += reader.frame[1]
            spans += [None] * len(reader.frame[1])
        told = reader.tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        ids += told["input_ids"]
        spans += [(part, *span) for span in told["offset_mapping"]]
    ids += reader.frame[2]
    spans += [None] * len(reader.frame[2])
    with torch.inference_mode():
        ids = torch.tensor([ids], device=reader.model.device)
        states = reader.model(ids, output_hidden_states=True).hidden_states[layer][0].cpu()
    elements = []
    for element in unit.elements:
        tokens = []
        for number, span in enumerate(spans):
            for part, start, end in element:
                inside = span and span[0] == part and set(range(span[1], span[2])) & set(range(start, end))
                if inside and number not in tokens:
                    tokens.append(number)
        if tokens:
            elements.append(sum(states[number].double() for number in tokens) / len(tokens))
    if elements:
        return sum(elements) / len(elements)
    kept = [number for number, span in enumerate(spans) if special or span is not None]
    return sum(states[number].double() for number in kept) / len(kept)


@pytest.mark.parametrize("special", [True, False])
def test_pooling_is_that_of_a_plain_loop_over_tokens(folder, special):
    reader = Reader(folder, "float32", "all", special)
    units = [unit for one in SETS for row in one.rows[:2] for unit in row.slots]
    units += [Unit((text,)) for text in STRANGE] + [Unit(STRANGE)]
    units += [Unit((STRANGE[0],), (((0, 0, 4),), ((0, 6, 9),))), Unit((STRANGE[1],), (((0, 1, 2),),))]
    units += [Unit(STRANGE, (((0, 10, 14), (1, 3, 9)),))]
    readings: dict = {}
    for unit in dict.fromkeys(units):
        readings.setdefault(unit.texts, []).append(unit)
    found = reader.encode(list(readings.values()))
    ordered = [unit for group in readings.values() for unit in group]
    for unit, vector in zip(ordered, found, strict=True):
        for layer in range(3):
            expected = by_loop(reader, unit, layer, special)
            assert torch.allclose(vector[layer].double(), expected, atol=1e-6, rtol=1e-5), unit


def test_what_looks_like_a_control_token_is_text_and_a_pair_has_its_separator(folder):
    reader = Reader(folder, "float32", [-1], True)
    told = read_text(reader.tokenizer, reader.frame, STRANGE, reader.limit)
    control = reader.tokenizer.convert_tokens_to_ids("<|im_end|>")
    inside = [one for one, span in zip(told.ids, told.offsets, strict=True) if span]
    assert control not in inside and told.offsets.count(None) == sum(map(len, reader.frame))


def test_a_long_text_is_cut_and_counted_and_what_lies_behind_is_the_mean(folder):
    reader = Reader(folder, "float32", [-1], True)
    reader.limit = 12
    long = " ".join(["word"] * 60)
    whole, behind = reader.encode([[Unit((long,)), Unit((long,), (((0, 250, 254),),))]])
    assert reader.counts["cut"] == 1 and reader.counts["without_token"] == 1
    assert torch.equal(whole, behind)


def test_permuted_words_take_their_places_along():
    unit = Unit(("The old horse painted the basket.",), (((0, 4, 13),), ((0, 14, 21),)))
    moved = permuted(unit, 3)
    assert moved == permuted(unit, 3) and moved != permuted(unit, 4)
    assert sorted(moved.texts[0].split()) == sorted(unit.texts[0].split()) and moved.texts != unit.texts
    words = [[moved.texts[part][start:end] for part, start, end in element] for element in moved.elements]
    assert words == [["old", "horse"], ["painted"]]


def test_every_text_is_read_once_and_a_killed_job_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "SHARD_UNITS", 40)
    build_pico_model(tmp_path / "model")
    plans = plans_of(SETS, ["permutation"], 5)
    plan = plans["trained"]
    texts = {unit.texts for unit in plan.units}
    reader = Reader(tmp_path / "model", "float32", [-1], True)
    assert encode_plan(reader, plan, tmp_path / "whole" / "trained", 8, "float32") == 0
    assert reader.counts["texts"] == len(texts) == len(plan.readings())
    shards = sorted((tmp_path / "whole" / "trained").iterdir())
    assert len(shards) > 5
    # As if killed: some shards are there.
    part = tmp_path / "part" / "trained"
    part.mkdir(parents=True)
    for shard in shards[:4]:
        (part / shard.name).write_bytes(shard.read_bytes())
    again = Reader(tmp_path / "model", "float32", [-1], True)
    assert encode_plan(again, plan, part, 8, "float32") == 4
    assert again.counts["texts"] < len(texts)
    assert [shard.read_bytes() for shard in sorted(part.iterdir())] == [shard.read_bytes() for shard in shards]


def test_random_weights_are_others_in_the_same_shape_and_the_same_by_seed(tmp_path):
    build_pico_model(tmp_path / "model")
    unit = [[Unit(("A sentence.",))]]
    readers = [Reader(tmp_path / "model", "float32", "all", True, seed) for seed in (None, 1, 1, 2)]
    trained, one, same, other = (reader.encode(unit) for reader in readers)
    assert torch.equal(one, same) and not torch.equal(one, other) and not torch.equal(one, trained)
    assert one.shape == trained.shape


def test_a_layer_that_is_not_there_is_told(tmp_path):
    build_pico_model(tmp_path / "model")
    with pytest.raises(UserError, match="layers 0 to 2"):
        Reader(tmp_path / "model", "float32", [7], True)


def test_encodings_of_other_rows_are_refused(tmp_path):
    from moult.base.files import write_json

    plans = plans_of(SETS[:1], [], 5)
    index = {"layers": [2], "width": 32, "batch_size": 8, "per_shard": 40, "plan": digest_of(plans)}
    write_json(tmp_path / "index.json", index)
    assert Encodings(tmp_path, plans).layers == [2]
    with pytest.raises(UserError, match="of other rows"):
        Encodings(tmp_path, plans_of(SETS[1:2], [], 5))
