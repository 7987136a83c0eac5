"""Two processes under DeepSpeed train as one does, survive a kill, end together, and save whole tensors."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.training.checkpoints import last_whole
from moult.training.finetune import finetune_full, finetune_lora
from moult.training.launcher import deepspeed_settings
from moult.training.order import BLANK, GroupedRows
from tuning import DEV, FULL, RECIPE, TRAIN, content

# 18 rows, 8 a step: the third step of an epoch has two rows, and one process nothing but blanks.
PLAN = {"max_steps": 20, "epochs": None, "evaluate_every": 5, "accumulation": 2}
LORA = RECIPE | PLAN | {"lora": RECIPE["lora"] | {"dropout": 0.0}}
ALONE, TOGETHER = {"batch_size": 4}, {"batch_size": 2, "devices": 2}


@pytest.fixture(scope="module")
def finetune(two_devices, pico_model, tmp_path_factory):
    """Return a function that trains in a folder and returns (its losses, the folder of what it made)."""
    root = tmp_path_factory.mktemp("distributed")

    def run(name, recipe, folder=None):
        folder = folder or root / name
        train_it = finetune_lora if "lora" in recipe else finetune_full
        train_it(recipe, pico_model, TRAIN, DEV, folder / "scratch", folder / "made")
        with open(folder / "made" / "loss.csv", encoding="utf-8") as handle:
            return {(row["step"], row["split"]): float(row["loss"]) for row in csv.DictReader(handle)}, folder / "made"

    return run


@pytest.fixture(scope="module")
def undisturbed(finetune):
    return finetune("zero2", LORA | TOGETHER | {"zero": 2})


def assert_no_tensor_is_empty(folder):
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    assert weights and all(weight.numel() for weight in weights.values())


@pytest.mark.slow
def test_zero2_has_the_losses_of_one_process(finetune, undisturbed):
    """Every dev row counts once, too: five rows over two processes leave a process one short."""
    alone, _ = finetune("alone", LORA | ALONE)
    together, adapter = undisturbed
    assert len(together) == 25 and together == pytest.approx(alone, rel=1e-3)
    print("largest relative difference:", max(abs(together[key] / alone[key] - 1) for key in alone))
    assert_no_tensor_is_empty(adapter)


@pytest.mark.slow
@pytest.mark.soak
def test_zero3_trains_all_weights_as_one_process_does(finetune):
    alone, _ = finetune("alone_full", FULL | PLAN | ALONE)
    together, model = finetune("zero3", FULL | PLAN | TOGETHER | {"zero": 3})
    assert together == pytest.approx(alone, rel=1e-3)
    print("largest relative difference:", max(abs(together[key] / alone[key] - 1) for key in alone))
    assert_no_tensor_is_empty(model)


CHILD = """
import sys
from pathlib import Path
import test_launcher as t
base, folder = map(Path, sys.argv[1:])
recipe = t.LORA | t.TOGETHER | {"zero": 2}
t.finetune_lora(recipe, base, t.TRAIN, t.DEV, folder / "scratch", folder / "made")
"""


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.soak
def test_a_killed_job_takes_its_processes_along_and_ends_in_the_same_bytes(finetune, undisturbed, pico_model, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    job = subprocess.Popen([sys.executable, "-c", CHILD, pico_model, tmp_path], env=environment)
    while not (tmp_path / "scratch" / "checkpoint-10" / "whole.json").exists():
        assert job.poll() is None
        time.sleep(0.02)
    workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    # Two train, one renders chat templates.
    assert len(workers) == 3
    job.send_signal(signal.SIGKILL)
    job.wait()
    deadline = time.monotonic() + 30
    while any(map(running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (tmp_path / "made").exists()
    assert last_whole(tmp_path / "scratch").name in ("checkpoint-10", "checkpoint-15")
    _, resumed = finetune("resumed", LORA | TOGETHER | {"zero": 2}, tmp_path)
    assert content(resumed) == content(undisturbed[1])


@pytest.mark.slow
def test_the_sentence_of_a_process_is_the_job_s(finetune):
    with pytest.raises(UserError, match="lora.targets .* do not fit pico"):
        finetune("targets", LORA | TOGETHER | {"zero": 2, "lora": LORA["lora"] | {"targets": ["no_such_layer"]}})


def test_devices_share_the_rows_of_a_step():
    rows = [{"input_ids": [1] * (3 + number % 7), "start": 1, "number": number} for number in range(18)]
    alone, together = GroupedRows(rows, 4, 2, seed=7), GroupedRows(rows, 2, 2, seed=7, devices=2)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        together.set_epoch(epoch)
        shared = [together[index] for index in range(len(together))]
        assert len(shared) == 20 and shared[18:] == [BLANK] * 2
        assert shared[:18] == [alone[index] for index in range(len(alone))]


def test_rows_of_several_datasets_are_mixed_in_every_step():
    # As label lists do: the rows of each dataset have a length of their own.
    rows = [{"input_ids": [1] * (20 + 10 * (number % 4)), "start": 1, "of": number % 4} for number in range(256)]
    mixed, grouped = GroupedRows(rows, 4, 4, seed=7, mixed=True), GroupedRows(rows, 4, 4, seed=7)

    def datasets_per_step(order):
        steps = [{order[index]["of"] for index in range(first, first + 16)} for first in range(0, 256, 16)]
        return sum(map(len, steps)) / len(steps)

    for epoch in (0, 1):
        mixed.set_epoch(epoch)
        assert sorted(mixed.order) == list(range(256))
        assert datasets_per_step(mixed) > 3.8 > datasets_per_step(grouped)
        # Within a step long rows come first, so that a forward pass has rows of like length.
        lengths = [len(mixed[index]["input_ids"]) for index in range(16)]
        assert lengths == sorted(lengths, reverse=True) and lengths[0] == 50
    again = GroupedRows(rows, 4, 4, seed=7, mixed=True)
    again.set_epoch(1)
    assert again.order == mixed.order


def mismatches(settings):
    from moult.training.trainer import _arguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    found = HfTrainerDeepSpeedConfig(settings)
    found.trainer_config_process(_arguments(LORA, "unused", selecting=True, starting=True))
    return found.mismatches


@pytest.mark.parametrize("zero", [2, 3])
def test_deepspeed_s_settings_cannot_contradict_the_recipe(zero):
    settings = deepspeed_settings(zero)
    assert settings["zero_optimization"]["stage"] == zero
    # The optimiser and the schedule are the Trainer's.
    assert not {"optimizer", "scheduler"} & settings.keys()
    assert mismatches(settings) == []
    for key, other in {
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 3,
        "train_batch_size": 3,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "fp16": {"enabled": True},
    }.items():
        assert settings[key] in ("auto", {"enabled": "auto"})
        assert mismatches(settings | {key: other})
