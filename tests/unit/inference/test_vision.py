"""A vision-language model on videos: the patches it is given, its answers in batches, and what training changes."""

import itertools

import numpy as np
import pytest
import torch
from clip_dataset import GOOD, clip, prepare
from moult.base.errors import UserError
from moult.data.prompts import Example, videos_of, with_videos
from moult.data.videos.frames import Frames
from moult.inference.engines.loading import load_engine
from moult.inference.requests import ChatRequest, LabelRequest, Sampling
from moult.inference.tokens import prompt_ids
from moult.inference.vision import Vision, auto_class
from moult.training.encoding import collate, encode_examples
from moult.training.finetune import finetune_full, finetune_lora
from moult.weights.folding import fold_adapter
from pico import build_pico_model, build_pico_vlm
from PIL import Image
from safetensors.torch import load_file
from tuning import FULL, RECIPE

LABELS = ("red", "green", "stop at once")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return build_pico_vlm(tmp_path_factory.mktemp("vlm") / "model")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A prepared dataset of six clips, one of them of another size, and its rows."""
    folder = tmp_path_factory.mktemp("dataset")
    for number in range(6):
        clip(folder / "video" / f"D_{number}.mp4", ("red", "green")[number % 2], seed=number)
    clip(folder / "video" / "D_3.mp4", "green", seed=3, width=140, height=84, count=3)
    rows, *_ = prepare(folder, GOOD, videos={"frames": 4, "max_pixels": 9000, "min_pixels": 784, "multiple": 28})
    return folder / "out", rows


def seen(row):
    return row["media"][0]["frames"]


def messages(row, text="what is it?"):
    return tuple(with_videos([{"role": "user", "content": text}], [seen(row)] if row else []))


def results(batches):
    return dict(itertools.chain.from_iterable(batches))


class OneFrame:
    """A single picture in the place of a video."""

    def __init__(self, picture):
        self.picture = picture

    def size(self, _):
        return 1, *self.picture.shape[:2]

    def pictures(self, _):
        return self.picture[None]


def test_patches_are_those_of_transformers_image_processor(vlm):
    from transformers import Qwen2VLImageProcessorPil

    picture = np.random.default_rng(0).integers(0, 256, (84, 140, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(min_pixels=1, max_pixels=10**8)
    theirs = processor([Image.fromarray(picture)], return_tensors="np")
    ours = Vision(vlm, OneFrame(picture))
    assert ours.grid("x") == tuple(theirs["image_grid_thw"][0].tolist()) == (1, 6, 10)
    assert np.abs(ours.patches("x") - theirs["pixel_values"]).max() < 1e-5


def test_frames_stand_in_the_patches_in_their_order(vlm, dataset):
    folder, rows = dataset
    vision = Vision(vlm, Frames([folder]))
    time, height, width = vision.grid(seen(rows[0]))
    assert (time, height, width) == (2, 4, 6)
    patches = vision.patches(seen(rows[0])).reshape(time, height * width, 3, 2, 14, 14)
    pictures = vision.frames.pictures(seen(rows[0])) / 255
    for place, picture in enumerate(pictures):
        mean = (picture.mean((0, 1)) - vision.mean) / vision.std
        assert np.allclose(patches[place // 2, :, :, place % 2].mean((0, 2, 3)), mean, atol=1e-5)
    # Three frames in pairs: the last is its own partner.
    odd = vision.patches(seen(rows[3])).reshape(2, -1, 3, 2, 14, 14)
    assert np.array_equal(odd[1, :, :, 0], odd[1, :, :, 1]) and not np.array_equal(odd[0, :, :, 0], odd[0, :, :, 1])


def test_a_prompt_has_a_placeholder_for_each_merged_patch(vlm, dataset):
    folder, rows = dataset
    vision = Vision(vlm, Frames([folder]))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(vlm)
    # A row's own text cannot bring in a video.
    chat = list(messages(rows[0], "look <|vision_start|><|video_pad|><|vision_end|> here"))
    ids = prompt_ids(tokenizer, chat)
    assert ids.count(vision.token) == 1
    expanded = vision.expand(ids, videos_of(chat))
    assert expanded.count(vision.token) == 2 * 4 * 6 // 4
    assert vision.collapse(expanded) == ids
    assert "look <|vision_start|><|video_pad|>" in tokenizer.decode(ids)


@pytest.fixture(scope="module")
def engine(vlm, dataset):
    return load_engine(vlm, frames=Frames([dataset[0]]), batch_size=4)


def test_answers_do_not_depend_on_neighbours(engine, dataset):
    _, rows = dataset
    asked = [ChatRequest(messages(row), Sampling(max_tokens=6)) for row in [*rows, None]]
    together = results(engine.answer(asked))
    alone = {}
    for index, request in enumerate(asked):
        alone[index] = results(engine.answer([request]))[0]
    assert together == alone
    assert len({answer.prompt_tokens for answer in together.values()}) == 3


def test_label_likelihoods_are_those_of_one_sequence_a_label(engine, dataset):
    _, rows = dataset
    asked = [LabelRequest(messages(row), LABELS) for row in [rows[0], rows[3], None, rows[1]]]
    packed = results(engine.label_logprobs(asked))
    for index, request in enumerate(asked):
        prompt, labels = engine._labelled(request)
        for tokens, found in zip(labels, packed[index], strict=True):
            ids = torch.tensor([prompt + tokens], device=engine.model.device)
            with torch.inference_mode():
                logits = engine.model(ids, attention_mask=torch.ones_like(ids), **engine._seen(ids, [request])).logits
            places = range(len(prompt) - 1, len(prompt) + len(tokens) - 1)
            assert found == pytest.approx(logits[0].log_softmax(-1)[list(places), tokens].sum().item(), abs=1e-4)


def test_what_the_clip_shows_changes_the_answer(engine, dataset):
    _, rows = dataset
    asked = [LabelRequest(messages(row), LABELS) for row in rows[:2]]
    first, second = (results(engine.label_logprobs([request]))[0] for request in asked)
    assert first != second


def test_a_model_without_eyes_refuses_videos_by_a_sentence(dataset, tmp_path):
    model = build_pico_model(tmp_path / "words")
    with pytest.raises(UserError, match="words: videos cannot be seen by a language model .*or a dataset without"):
        load_engine(model, frames=Frames([dataset[0]]))


def test_frames_that_do_not_fit_the_patches_are_told_with_the_remedy(vlm):
    with pytest.raises(UserError, match="frames of 60 × 84 pixels .* write `multiple: 28`"):
        Vision(vlm, OneFrame(np.zeros((60, 84, 3), np.uint8))).grid("x")


def examples(rows):
    return [Example(row["uid"], list(messages(row)), row["label"]) for row in rows]


def test_a_long_prompt_loses_words_never_its_video(vlm, dataset):
    from transformers import AutoTokenizer

    folder, rows = dataset
    vision, tokenizer = Vision(vlm, Frames([folder])), AutoTokenizer.from_pretrained(vlm)
    long = [Example("a", list(messages(rows[0], "word " * 60)), "red")]
    (row,), truncated, dropped = encode_examples(tokenizer, long, 64, vision)
    assert truncated == 1 and not dropped and len(row["input_ids"]) == 64
    assert row["input_ids"].count(vision.token) == 12 and row["videos"] == [seen(rows[0])]
    kept, _, (reject,) = encode_examples(tokenizer, long, 16, vision)
    assert not kept and "the prompt up to its last video, the answer and its end are" in reject["reason"]


def test_a_batch_holds_the_videos_of_its_rows_in_order(vlm, dataset):
    from transformers import AutoTokenizer

    folder, rows = dataset
    vision = Vision(vlm, Frames([folder]))
    encoded, *_ = encode_examples(AutoTokenizer.from_pretrained(vlm), examples([rows[0], rows[3]]), 200, vision)
    batch = collate([*encoded, {"input_ids": [1, 2, 3], "start": 2}], vision)
    assert batch["video_grid_thw"].tolist() == [[2, 4, 6], [2, 4, 8]]
    assert len(batch["pixel_values_videos"]) == 2 * 4 * 6 + 2 * 4 * 8
    assert (batch["mm_token_type_ids"] == 2).sum(1).tolist() == [12, 16, 0]
    assert "pixel_values_videos" not in collate([{"input_ids": [1, 2, 3], "start": 2}], vision)


LORA = RECIPE | {"evaluate_every": None, "epochs": 2, "max_length": 256}


def test_lora_trains_the_language_model_and_folds(vlm, dataset, tmp_path):
    folder, rows = dataset
    train = examples(rows)
    report = finetune_lora(LORA, vlm, train, train[:2], tmp_path / "scratch", tmp_path / "adapter", [folder])
    assert report["n_train"] == 6 and report["dropped"] == []
    curve = (tmp_path / "adapter" / "loss.csv").read_text().splitlines()
    assert float(curve[-1].split(",")[2]) < float(curve[1].split(",")[2])
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert tensors and not [name for name in tensors if "visual" in name]
    facts = fold_adapter(tmp_path / "adapter", vlm, tmp_path / "folded")
    assert facts["folded"] == 14 and not facts["zero"]
    before, after = (load_file(path / "model.safetensors") for path in (vlm, tmp_path / "folded"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not [name for name in changed if name.startswith("visual")]
    # The folded model answers as the adapter on its base does.
    from peft import PeftModel

    request = LabelRequest(messages(rows[1]), LABELS)
    found = results(load_engine(tmp_path / "folded", frames=Frames([folder])).label_logprobs([request]))[0]
    adapted = load_engine(vlm, frames=Frames([folder]))
    adapted.model = PeftModel.from_pretrained(adapted.model, tmp_path / "adapter").merge_and_unload()
    assert found == pytest.approx(results(adapted.label_logprobs([request]))[0], abs=1e-4)


def test_the_same_training_gives_the_same_bytes(vlm, dataset, tmp_path):
    folder, rows = dataset
    made = []
    for name in "ab":
        finetune_lora(LORA, vlm, examples(rows), [], tmp_path / f"scratch-{name}", tmp_path / name, [folder])
        made.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1]


def test_full_fine_tuning_leaves_the_vision_tower_as_it_was(vlm, dataset, tmp_path):
    folder, rows = dataset
    recipe = FULL | {"evaluate_every": None, "epochs": 1, "max_length": 256}
    finetune_full(recipe, vlm, examples(rows), [], tmp_path / "scratch", tmp_path / "model", [folder])
    before, after = (load_file(path / "model.safetensors") for path in (vlm, tmp_path / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert "model.embed_tokens.weight" in changed and not [name for name in changed if name.startswith("visual")]
    assert auto_class(tmp_path / "model").from_pretrained(tmp_path / "model").config.model_type == "qwen2_vl"
