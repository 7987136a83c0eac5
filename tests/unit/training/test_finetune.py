"""Fine-tuning pico models, LoRA and full: what is learnt, what is kept, and that a killed run ends like any other."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
from moult.base.errors import UserError
from moult.inference.tokens import end_of_turn_id, prompt_ids
from moult.training import checkpoints
from moult.training import finetune as training
from moult.training.encoding import collate, encode_examples
from moult.training.finetune import finetune_full, finetune_lora
from moult.training.tasks import task_of
from moult.weights.folding import fold_adapter
from pico import build_pico_model
from tuning import DEV, FULL, RECIPE, TRAIN, content, example


@pytest.fixture(scope="module")
def tokenizer(pico_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pico_model)


@pytest.fixture
def finetune(pico_model, tmp_path):
    """Return a function that trains in a folder of its own and returns (train.json, the adapter's folder)."""

    def run(name, train=TRAIN, dev=DEV, base=pico_model, recipe=RECIPE, **changes):
        folder = tmp_path / name
        train_it = finetune_lora if "lora" in recipe else finetune_full
        report = train_it(recipe | changes, base, train, dev, folder / "scratch", folder / "adapter")
        return report, folder / "adapter"

    return run


def curve(adapter, split):
    with open(adapter / "loss.csv", encoding="utf-8") as handle:
        return [row for row in csv.DictReader(handle) if row["split"] == split]


def losses(adapter, split="train"):
    return [float(row["loss"]) for row in curve(adapter, split)]


def test_only_the_answer_and_its_end_are_labels(tokenizer):
    rows, truncated, dropped = encode_examples(tokenizer, TRAIN[:3], 128)
    batch = collate(rows)
    assert (truncated, dropped) == (0, [])
    for number, one in enumerate(TRAIN[:3]):
        prompt = prompt_ids(tokenizer, one.messages)
        answer = tokenizer(one.answer)["input_ids"] + [end_of_turn_id(tokenizer)]
        size = int(batch["attention_mask"][number].sum())
        assert batch["input_ids"][number, :size].tolist() == prompt + answer
        counted = batch["labels"][number] != -100
        assert batch["labels"][number][counted].tolist() == answer
        places = batch["logits_to_keep"][number][counted].tolist()
        assert places == list(range(len(prompt) - 1, len(prompt) + len(answer) - 1))


def test_an_answer_cannot_smuggle_in_an_end_of_turn(tokenizer):
    (row,), _, _ = encode_examples(tokenizer, [example(1, "yes<|im_end|>\n<|im_start|>user")], 128)
    answer = row["input_ids"][row["start"] :]
    assert answer.count(end_of_turn_id(tokenizer)) == 1
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") not in answer


def test_the_prompt_is_cut_at_its_beginning_and_the_answer_never(tokenizer):
    (whole,), _, _ = encode_examples(tokenizer, TRAIN[2:3], 128)
    (row,), truncated, dropped = encode_examples(tokenizer, TRAIN[2:3], 30)
    assert (truncated, dropped, len(row["input_ids"])) == (1, [], 30)
    assert row["input_ids"][0] == tokenizer.bos_token_id
    assert row["input_ids"][1:] == whole["input_ids"][-29:]
    assert row["input_ids"][row["start"] :] == whole["input_ids"][whole["start"] :]


@pytest.mark.parametrize("room", [1, 2])
def test_a_prompt_keeps_at_least_one_token(tokenizer, room):
    (whole,), _, _ = encode_examples(tokenizer, TRAIN[:1], 128)
    answer = whole["input_ids"][whole["start"] :]
    (row,), truncated, _ = encode_examples(tokenizer, TRAIN[:1], len(answer) + room)
    assert (row["start"], truncated) == (room, 1)
    assert encode_examples(tokenizer, TRAIN[:1], len(answer))[2][0]["uid"] == "demo:train:0"


def test_rows_that_do_not_fit_are_reported(finetune):
    long = example(50, "data " * 200)
    report, _ = finetune("dropped", train=[*TRAIN[:4], long], dev=[*DEV[:2], long], max_steps=1)
    assert (report["n_train"], report["n_dev"]) == (4, 2)
    assert [(row["split"], row["uid"]) for row in report["dropped"]] == [("train", long.uid), ("dev", long.uid)]
    assert "max_length is 128" in report["dropped"][0]["reason"]
    with pytest.raises(UserError, match="max_length"):
        finetune("nothing", train=[long])
    with pytest.raises(UserError, match="max_length"):
        finetune("no_dev_left", dev=[long])


def test_the_adapter_is_complete_and_knows_no_path(finetune, tmp_path):
    report, adapter = finetune("complete")
    files = content(adapter)
    assert {"adapter_model.safetensors", "adapter_config.json", "train.json", "loss.csv"} < set(files)
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} < set(files)
    assert not [name for name, value in files.items() if str(tmp_path.parent).encode() in value]
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "pico"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert json.loads(files["train.json"]) == {"recipe": RECIPE} | report
    assert report["steps"] == 10
    assert report["tokens"] > 0
    assert [row["step"] for row in curve(adapter, "dev")] == ["0", "2", "4", "6", "8", "10"]
    assert len(curve(adapter, "train")) == 10
    assert losses(adapter, "dev")[-1] < losses(adapter, "dev")[0]


def test_dev_loss_is_the_mean_over_answer_tokens(finetune, pico_model, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    _, adapter = finetune("reference", max_steps=1)
    model = AutoModelForCausalLM.from_pretrained(pico_model, dtype=torch.float32).eval()
    rows, _, _ = encode_examples(tokenizer, DEV, 128)
    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            predicted = model(ids).logits[0].log_softmax(-1)
        for place in range(row["start"], ids.shape[1]):
            total -= predicted[place - 1, ids[0, place]].item()
            tokens += 1
    assert losses(adapter, "dev")[0] == pytest.approx(total / tokens, rel=1e-5)


def test_answers_and_their_end_are_learnt(finetune, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train = [example(1, "yes"), example(2, "the brown fox"), example(3, "a question"), example(4, "data data")]
    base = build_pico_model(tmp_path / "wider", hidden_size=64)
    lora = {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": "all-linear"}
    report, adapter = finetune(
        "overfit", train, train, base, lora=lora, epochs=None, max_steps=120, evaluate_every=40, selection="accuracy"
    )
    assert report["dev"]["accuracy"] == 1.0
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    for one in train:
        prompt = prompt_ids(tokenizer, one.messages)
        ids = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=end_of_turn_id(tokenizer),
        )[0, len(prompt) :].tolist()
        assert ids == tokenizer(one.answer)["input_ids"] + [end_of_turn_id(tokenizer)]


CHILD = """
import json, logging, os, signal, sys
from pathlib import Path
import tuning
from moult.training.finetune import finetune_full, finetune_lora

class Killer(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("step 7 of 10: loss"):
            assert not {"datasets", "scipy", "deepspeed"} & set(sys.modules)
            os.kill(os.getpid(), signal.SIGKILL)

logging.getLogger("moult.training").setLevel(logging.INFO)
logging.getLogger("moult.training").addHandler(Killer())
base, scratch, adapter = map(Path, sys.argv[2:])
work = tuning.TRAIN, tuning.DEV, scratch, adapter
if sys.argv[1] == "lora":
    finetune_lora(tuning.RECIPE, base, *work)
else:
    finetune_full(tuning.FULL, base, *work)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_ends_in_the_same_bytes(finetune, pico_model, tmp_path, caplog, method):
    recipe = {"lora": RECIPE, "full": FULL}[method]
    _, whole = finetune("whole", recipe=recipe)
    scratch, adapter = tmp_path / "killed" / "scratch", tmp_path / "killed" / "adapter"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", CHILD, method, pico_model, scratch, adapter]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert not adapter.exists()
    # Steps 1 to 5 are the first epoch: the checkpoint of step 6 lies in the middle of the second.
    assert (scratch / "checkpoint-6" / "whole.json").exists()
    with caplog.at_level("INFO", logger="moult.training"):
        _, resumed = finetune("killed", recipe=recipe)
    assert content(resumed) == content(whole)
    steps = [text.split()[1] for text in caplog.messages if "learning rate" in text]
    assert steps == ["7", "8", "9", "10"]


def test_a_half_saved_checkpoint_is_not_resumed(finetune, tmp_path, monkeypatch):
    _, whole = finetune("run")
    scratch = tmp_path / "run" / "scratch"
    expected = content(whole)
    (scratch / "checkpoint-10" / "whole.json").unlink()
    finetune("run")
    assert content(whole) == expected

    # A marker is no good when the files behind it are not those it lists.
    weights = scratch / "checkpoint-10" / "optimizer.pt"
    weights.write_bytes(weights.read_bytes()[:-100])
    finetune("run")
    assert content(whole) == expected

    # With the last checkpoint whole, nothing is trained again.
    monkeypatch.setattr(training, "run_trainer", None)
    finetune("run")
    assert content(whole) == expected


def test_a_checkpoint_whose_best_one_is_lost_is_not_resumed(tmp_path):
    from moult.base.files import write_json

    for step, best in ((2, 2), (4, 4), (6, 2), (8, 4)):
        checkpoint = tmp_path / f"checkpoint-{step}"
        write_json(checkpoint / "trainer_state.json", {"best_global_step": best})
        write_json(checkpoint / checkpoints.MARKER, checkpoints._listing(checkpoint))
    (tmp_path / "checkpoint-4" / checkpoints.MARKER).unlink()
    assert checkpoints.last_whole(tmp_path).name == "checkpoint-6"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]


def test_the_seed_decides_the_bytes(finetune):
    first, again, other = (
        (finetune(name, seed=seed, max_steps=3)[1] / "adapter_model.safetensors").read_bytes()
        for name, seed in (("first", 7), ("again", 7), ("other", 8))
    )
    assert first == again
    assert first != other


def test_the_best_checkpoint_is_kept_when_dev_worsens(finetune):
    train = [example(number, "yes") for number in range(8)]
    dev = [example(number, "yes" if number < 3 else "brown fox") for number in range(6)]
    steady = {
        "lora": RECIPE["lora"] | {"dropout": 0.0},
        "schedule": "constant",
        "learning_rate": 2e-2,
        "warmup_ratio": 0.0,
    }
    report, adapter = finetune("worsens", train, dev, epochs=20, **steady)
    curve_of_dev = losses(adapter, "dev")
    best = curve_of_dev.index(min(curve_of_dev)) * RECIPE["evaluate_every"]
    assert 0 < report["best_step"] == best < report["steps"] == 40
    assert report["dev"]["nll"] == min(curve_of_dev)
    stopped, last = finetune("stopped", train, [], max_steps=best, **steady)
    assert (stopped["criterion"], stopped["dev"], stopped["best_step"]) == ("last", None, best)
    weights = "adapter_model.safetensors"
    assert (adapter / weights).read_bytes() == (last / weights).read_bytes()


def test_more_right_answers_win_then_the_likelier_ones():
    import numpy as np

    def rank(*rows):
        task = task_of(RECIPE | {"selection": "accuracy"}, "pico")
        return task.metrics(np.array(rows, dtype="float32"))["selection"]

    assert rank([900, 2, 1], [900, 2, 1]) > rank([0.1, 2, 1], [0.1, 2, 0])
    assert rank([0.1, 2, 1], [0.3, 2, 0]) > rank([0.1, 2, 1], [0.4, 2, 0])


def test_accumulation_and_checkpointing_do_not_change_the_loss(finetune):
    lora = RECIPE["lora"] | {"dropout": 0.0}
    plans = {"one": (4, 1, False), "two": (2, 2, False), "four": (1, 4, False), "recomputed": (4, 1, True)}
    found = {}
    for name, (batch_size, accumulation, recompute) in plans.items():
        plan = {"batch_size": batch_size, "accumulation": accumulation, "gradient_checkpointing": recompute}
        _, adapter = finetune(name, lora=lora, evaluate_every=None, **plan)
        found[name] = losses(adapter) + losses(adapter, "dev")
    for name in ("two", "four", "recomputed"):
        assert found[name] == pytest.approx(found["one"], rel=1e-4), name


def test_lora_weights_are_float32_on_a_bfloat16_base(finetune):
    from safetensors.torch import load_file

    _, adapter = finetune("half", dtype="bfloat16", max_steps=2)
    assert {str(weight.dtype) for weight in load_file(adapter / "adapter_model.safetensors").values()} == {
        "torch.float32"
    }
    assert losses(adapter)[0] > 0


def test_a_diverging_run_names_the_remedy(finetune):
    with pytest.raises(UserError, match="lower learning_rate"):
        finetune("diverges", learning_rate=1e30, warmup_ratio=0.0)


def test_unknown_targets_are_named(finetune):
    with pytest.raises(UserError, match="lora.targets"):
        finetune("targets", lora=RECIPE["lora"] | {"targets": ["no_such_layer"]})


@pytest.fixture(scope="module")
def bfloat16_base(pico_model, tmp_path_factory):
    """The pico model as most are published: stored in bfloat16."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("bfloat16") / "base"
    AutoModelForCausalLM.from_pretrained(pico_model, dtype="bfloat16").save_pretrained(path)
    AutoTokenizer.from_pretrained(pico_model).save_pretrained(path)
    return path


def test_a_full_model_is_complete_and_stored_as_its_base(finetune, bfloat16_base, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    report, folder = finetune("full", base=bfloat16_base, recipe=FULL)
    files, base = content(folder), content(bfloat16_base)
    assert {"model.safetensors", "config.json", "generation_config.json", "train.json", "loss.csv"} < set(files)
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} < set(files)
    assert not [name for name, value in files.items() if str(tmp_path.parent).encode() in value]
    assert files["config.json"] == base["config.json"]
    assert json.loads(files["train.json"]) == {"recipe": FULL} | report
    assert losses(folder, "dev")[-1] < losses(folder, "dev")[0]
    before, after = (load_file(path / "model.safetensors") for path in (bfloat16_base, folder))
    assert before.keys() == after.keys() and {str(weight.dtype) for weight in after.values()} == {"torch.bfloat16"}
    assert not any(before[name].equal(after[name]) for name in before if "norm" not in name)
    AutoModelForCausalLM.from_pretrained(folder)


def test_bfloat16_training_keeps_float32_weights(finetune, bfloat16_base, tmp_path):
    """Steps of 1e-6 on weights of about 0.02: each is far below what bfloat16 can hold."""
    from safetensors.torch import load_file

    small = {"learning_rate": 1e-6, "warmup_ratio": 0.0, "schedule": "constant", "dtype": "bfloat16"}
    finetune("small", base=bfloat16_base, recipe=FULL, max_steps=2, **small)
    before = load_file(bfloat16_base / "model.safetensors")
    after = load_file(tmp_path / "small" / "scratch" / "checkpoint-2" / "model.safetensors")
    for name, weight in after.items():
        assert str(weight.dtype) == "torch.float32"
        moved = (weight - before[name].float()).abs()
        assert 0 < moved.max() < 1e-5, name


def test_weights_that_were_not_gathered_are_refused(finetune, pico_model, tmp_path):
    from safetensors.torch import load_file, save_file

    for recipe, file in ((RECIPE, "adapter_model.safetensors"), (FULL, "model.safetensors")):
        finetune(file, recipe=recipe, max_steps=2)
        checkpoint = tmp_path / file / "scratch" / "checkpoint-2"
        weights = load_file(checkpoint / file)
        name = sorted(weights)[0]
        save_file(weights | {name: weights[name].flatten()[:0]}, checkpoint / file)
        checkpoints.mark_whole(checkpoint)
        with pytest.raises(UserError, match=f"{name} is"):
            finetune(file, recipe=recipe, max_steps=2)


def test_a_diverging_full_run_names_the_remedy(finetune):
    with pytest.raises(UserError, match="lower learning_rate"):
        finetune("diverges", recipe=FULL, learning_rate=1e30, warmup_ratio=0.0)


def test_a_round_without_rows_has_an_adapter_that_changes_nothing(finetune, pico_model, tmp_path):
    from safetensors.torch import load_file

    with pytest.raises(UserError, match="train: none of 0 rows can be trained on"):
        finetune("refused", train=[], dev=[])
    report, adapter = finetune("empty", train=[], dev=[], may_be_empty=True)
    assert report["steps"] == report["n_train"] == 0 and curve(adapter, "train") == []
    assert fold_adapter(adapter, pico_model, tmp_path / "folded")["zero"]
    base, folded = load_file(pico_model / "model.safetensors"), load_file(tmp_path / "folded/model.safetensors")
    assert all(folded[name].equal(base[name]) for name in base)
    assert content(adapter) == content(finetune("again", train=[], dev=[], may_be_empty=True)[1])
