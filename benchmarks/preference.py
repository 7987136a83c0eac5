"""Preference losses of our trainer against trl's: `python benchmarks/preference.py BASE`.

BASE is a model folder. Each side trains all weights on the same pairs in the same order, in a process of its own; needs
benchmarks/requirements.txt. trl's sides are DPOTrainer (sigmoid, ipo), whose reference answers in each step or once
before training, and CPOTrainer (simpo, cpo_alpha 0). Writes benchmarks/preference.csv: what a step takes, the most
memory, and how far losses (of every step) and final weights are from trl's, these as a share of their change.
`--keep FOLDER` keeps what each side took and its weights: a run that is stopped goes on after its last side.
"""

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS, SHARED, TRL, BEFORE = "moult", "moult, shared prompt", "trl", "trl, reference before"
# What trl differs from itself by: a step's loss and gradient are means over its rows, whatever their order.
TURNED = "trl, rows of a step turned round"
LOSSES = {
    "dpo": {"kind": "dpo", "beta": 0.1},
    "ipo": {"kind": "ipo", "beta": 0.1},
    "simpo": {"kind": "simpo", "beta": 2.5, "gamma_ratio": 0.55},
}
SIDES = {
    "dpo": (TRL, BEFORE, TURNED, OURS, SHARED),
    "ipo": (TRL, BEFORE, TURNED, OURS),
    "simpo": (TRL, TURNED, OURS, SHARED),
}
COLUMNS = (
    "loss side steps seconds_a_step cpu_seconds_a_step peak_mb first_loss last_loss largest_loss_difference "
    "weights_off_by_share_of_change"
).split()
WORDS = "a model learns to prefer the answer that people find better because it says more of what was asked".split()


def pairs(number):
    """Return so many pairs, of prompts of 40 to 80 words and answers of 20 to 60."""
    from moult.training.pairs import Pair

    draw = random.Random(7)

    def text(least, most):
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    def one(place):
        question = [{"role": "user", "content": f"{place}: {text(40, 80)}?"}]
        return Pair(str(place), question, [text(20, 60)], [text(20, 60)])

    return [one(place) for place in range(number)]


def watch():
    """Have every Trainer of this process watched; return the dict that times, losses and weights go to."""
    import transformers.trainer

    seen = {}

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            seen.setdefault("began", (time.perf_counter(), time.process_time()))

        def on_step_end(self, args, state, control, **_):
            seen["ended"] = (time.perf_counter(), time.process_time())

        def on_train_end(self, args, state, control, model=None, **_):
            seen["losses"] = [entry["loss"] for entry in state.log_history if "loss" in entry]
            seen["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            seen["model"] = model

    transformers.trainer.DEFAULT_CALLBACKS.append(Watch)
    return seen


def recipe_of(options):
    return {
        "base": "base",
        "data": ["pairs"],
        "loss": LOSSES[options.loss] | {"nll_weight": 0.0},
        "collapse": 2.0,
        "learning_rate": options.learning_rate,
        "epochs": 1,
        "max_steps": None,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "batch_size": options.batch,
        "accumulation": 1,
        "dtype": options.dtype,
        "max_length": 512,
        "evaluate_every": None,
        "selection": "loss",
        "gradient_checkpointing": False,
        "seed": 7,
        "threads": options.threads,
    } | ({"shared_prompt": True} if options.side == SHARED else {})


def train_ours(options, recipe, rows, scratch):
    from moult.training.tasks import task_of
    from moult.training.trainer import run_trainer

    task = task_of(recipe, str(options.base))
    run_trainer(task, recipe, str(options.base), task.prepare({"train": rows, "dev": []}, scratch), scratch, None)


def train_trl(options, rows, scratch):
    """Train by trl on the same tokens in the same order."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    shared = {
        "output_dir": str(scratch),
        "seed": 7,
        "learning_rate": options.learning_rate,
        "num_train_epochs": 1,
        "optim": "adamw_torch",
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": options.batch,
        "train_sampling_strategy": "sequential",
        "max_length": 512,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "disable_tqdm": True,
        "report_to": [],
    }
    settings, tokenizer = LOSSES[options.loss], AutoTokenizer.from_pretrained(options.base)
    model = AutoModelForCausalLM.from_pretrained(options.base, dtype=options.dtype)
    columns = []
    for row in rows:
        good, bad = row["completions"]
        start = good["start"]
        ids = {
            "prompt": good["input_ids"][:start],
            "chosen": good["input_ids"][start:],
            "rejected": bad["input_ids"][start:],
        }
        columns.append({f"{name}_ids": value for name, value in ids.items()})
    # What trl tokenizes before it is told otherwise.
    texts = {"prompt": "a", "chosen": "b", "rejected": "c"}
    data = datasets.Dataset.from_list([texts | row for row in columns])
    if options.loss == "simpo":
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        class Trainer(CPOTrainer):
            def tokenize_row(self, feature, model=None):
                prompt, found = feature["prompt_ids"], {}
                found |= {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
                for side in ("chosen", "rejected"):
                    answer = feature[f"{side}_ids"]
                    found[f"{side}_input_ids"] = prompt + answer
                    found[f"{side}_attention_mask"] = [1] * len(prompt + answer)
                    found[f"{side}_labels"] = [-100] * len(prompt) + answer
                return found

        beta, ratio = settings["beta"], settings["gamma_ratio"]
        arguments = CPOConfig(
            **shared, loss_type="simpo", beta=beta, simpo_gamma=beta * ratio, cpo_alpha=0.0, remove_unused_columns=False
        )
    else:
        from trl import DPOConfig, DPOTrainer

        class Trainer(DPOTrainer):
            def _prepare_dataset(self, dataset, *_):
                return dataset.remove_columns(list(texts))

        kind = {"dpo": "sigmoid"}.get(options.loss, options.loss)
        arguments = DPOConfig(
            **shared, loss_type=[kind], beta=settings["beta"], precompute_ref_log_probs=options.side == BEFORE
        )
    Trainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer).train()


def run_side(options):
    """Train one side, and save its weights, and beside them what it took."""
    from moult.training.encoding import encode_pairs
    from moult.training.order import GroupedRows
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    many = options.steps * options.batch
    rows, _, _ = encode_pairs(AutoTokenizer.from_pretrained(options.base), pairs(many), 512)
    recipe, seen = recipe_of(options), watch()
    with tempfile.TemporaryDirectory() as scratch:
        if options.side in (OURS, SHARED):
            train_ours(options, recipe, rows, Path(scratch))
        else:
            ordered = GroupedRows(rows, recipe["batch_size"], 1, recipe["seed"])
            places = [place ^ 1 if options.side == TURNED else place for place in range(many)]
            train_trl(options, [ordered[place] for place in places], scratch)
    (wall, cpu), (wall_end, cpu_end) = seen["began"], seen["ended"]
    weights = {name: weight.detach().clone().contiguous() for name, weight in seen["model"].named_parameters()}
    save_file(weights, options.weights)
    told = {
        "steps": len(seen["losses"]),
        "seconds_a_step": round((wall_end - wall) / len(seen["losses"]), 3),
        "cpu_seconds_a_step": round((cpu_end - cpu) / len(seen["losses"]), 3),
        "peak_mb": round(seen["peak"]),
        "losses": seen["losses"],
    }
    options.weights.with_suffix(".json").write_text(json.dumps(told))


def measure(options, loss, side, weights):
    """Run one side in a process of its own, unless it was run before; return what it took."""
    took = weights.with_suffix(".json")
    if took.exists():
        return json.loads(took.read_text())
    command = [sys.executable, __file__, options.base, "--loss", loss, "--side", side, "--weights", weights]
    for name in ("steps", "batch", "learning_rate", "dtype", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    path = os.pathsep.join([str(HERE.parent / "scripts"), os.environ.get("PYTHONPATH", "")])
    environment |= {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(took.read_text())


def off(weights, theirs, base):
    """Return how far weights are from others, as a share of how far these are from where both began."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    begun = dict(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).named_parameters())
    one, other = load_file(weights), load_file(theirs)
    apart = sum(((one[name].double() - other[name]) ** 2).sum().item() for name in begun)
    moved = sum(((other[name] - begun[name]) ** 2).sum().item() for name in begun)
    return (apart / moved) ** 0.5


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=HERE / "preference.csv")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--loss", choices=LOSSES, help="Run a side of this loss alone, in this process.")
    parser.add_argument("--side", choices=(OURS, SHARED, TRL, BEFORE, TURNED))
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        sys.exit()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        folder = options.keep or Path(folder)
        folder.mkdir(exist_ok=True)
        for loss, sides in SIDES.items():
            theirs = None
            for number, side in enumerate(sides):
                weights = folder / f"{loss}-{number}.safetensors"
                took = measure(options, loss, side, weights)
                losses = took.pop("losses")
                theirs = theirs or (losses, weights)
                row = {"loss": loss, "side": side} | took | {"first_loss": losses[0], "last_loss": losses[-1]}
                row["largest_loss_difference"] = max(abs(a - b) for a, b in zip(losses, theirs[0], strict=True))
                row["weights_off_by_share_of_change"] = off(weights, theirs[1], options.base)
                found.append(row)
                print(row, flush=True)
    with open(options.csv, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
