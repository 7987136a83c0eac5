"""LoRA steps of our trainer against trl's SFTTrainer: `python benchmarks/lora_steps.py BASE DATA`.

BASE is a model folder, DATA holds MUStARD/ and MIntRec/ of MMLA with train.tsv. One epoch over the same rows on each
side, sides alternating, each in a process of its own; needs benchmarks/requirements.txt. Rows per second are those of
the data, not of the padding: from the beginning of the first step to the end of the last. Both sides log every step,
neither evaluates. Writes benchmarks/lora_steps.csv and prints the ratios.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIDES = ("moult", "trl, grouped by length", "trl, random order")
COLUMNS = "round side rows steps tokens seconds cpu_seconds rows_per_second first_loss last_loss".split()
LORA = {"rank": 16, "alpha": 32, "dropout": 0.05, "targets": "all-linear"}


def examples(data, number):
    """Return so many rows of train, half from each dataset, as training sees them."""
    import yaml
    from moult.data.prompts import Example, load_template, render, render_answer

    template, found = load_template("mmla/text"), []
    for name in ("MUStARD", "MIntRec"):
        labels = yaml.safe_load((HERE.parent / "resources" / "labels" / f"{name}.yaml").read_text(encoding="utf-8"))
        with open(data / name / "train.tsv", encoding="utf-8", newline="") as handle:
            for row in list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[: number // 2]:
                fields = {"text": row["text"], "labels": labels["labels"], "task_words": labels["task_words"]}
                answer = render_answer(template, **fields, label=row["label"])
                found.append(Example(row["id"], render(template, **fields), answer))
    return found


def clock():
    """Have every Trainer of this process timed; return the dict that the times go to."""
    import transformers.trainer

    times = {}

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            times.setdefault("began", (time.perf_counter(), time.process_time()))

        def on_step_end(self, *_, **__):
            times["ended"] = (time.perf_counter(), time.process_time())

        def on_train_end(self, args, state, control, **_):
            times["losses"] = [entry["loss"] for entry in state.log_history if "loss" in entry]

    transformers.trainer.DEFAULT_CALLBACKS.append(Clock)
    return times


def train_ours(options, rows, scratch):
    """Train by our trainer, the recipe as the rule would hand it over."""
    from moult.training.tasks import task_of
    from moult.training.trainer import run_trainer

    recipe = {
        "base": "base",
        "lora": LORA,
        "learning_rate": options.learning_rate,
        "epochs": 1,
        "max_steps": None,
        "schedule": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "batch_size": options.batch,
        "accumulation": 1,
        "dtype": options.dtype,
        "evaluate_every": None,
        "selection": "nll",
        "gradient_checkpointing": False,
        "seed": 7,
        "threads": options.threads,
    }
    task = task_of(recipe, str(options.base))
    run_trainer(task, recipe, str(options.base), {"train": rows, "dev": []}, scratch, None)


def train_trl(options, rows, scratch, sampling):
    """Train by SFTTrainer on the same tokens."""
    import datasets
    import torch
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(options.threads)
    columns = [
        {
            "input_ids": row["input_ids"],
            "completion_mask": [0] * row["start"] + [1] * (len(row["input_ids"]) - row["start"]),
        }
        for row in rows
    ]
    arguments = SFTConfig(
        output_dir=scratch,
        seed=7,
        learning_rate=options.learning_rate,
        num_train_epochs=1,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        per_device_train_batch_size=options.batch,
        train_sampling_strategy=sampling,
        completion_only_loss=True,
        max_length=768,
        model_init_kwargs={"dtype": options.dtype},
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        include_num_input_tokens_seen="all",
        save_strategy="epoch",
        disable_tqdm=True,
        report_to=[],
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        lora_dropout=LORA["dropout"],
        target_modules=LORA["targets"],
    )
    SFTTrainer(
        model=str(options.base), args=arguments, train_dataset=datasets.Dataset.from_list(columns), peft_config=lora
    ).train()


def run_side(options):
    """Train one side and print what it took as JSON."""
    from moult.training.encoding import encode_examples
    from transformers import AutoTokenizer

    rows, _, _ = encode_examples(AutoTokenizer.from_pretrained(options.base), examples(options.data, options.rows), 768)
    times = clock()
    with tempfile.TemporaryDirectory() as scratch:
        if options.side == SIDES[0]:
            train_ours(options, rows, scratch)
        else:
            train_trl(options, rows, scratch, "group_by_length" if options.side == SIDES[1] else "random")
    (wall, cpu), (wall_end, cpu_end) = times["began"], times["ended"]
    print(
        json.dumps(
            {
                "rows": len(rows),
                "steps": len(times["losses"]),
                "seconds": round(wall_end - wall, 2),
                "cpu_seconds": round(cpu_end - cpu, 2),
                "rows_per_second": round(len(rows) / (wall_end - wall), 3),
                "tokens": sum(len(row["input_ids"]) for row in rows),
                "first_loss": round(times["losses"][0], 4),
                "last_loss": round(times["losses"][-1], 4),
            }
        )
    )


def measure(options, side):
    """Run one side in a process of its own; return its times."""
    command = [sys.executable, __file__, options.base, options.data, "--side", side]
    for name in ("rows", "batch", "learning_rate", "dtype", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"PYTHONPATH": str(HERE.parent / "scripts"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="Run this side alone, in this process.")
    options = parser.parse_args()
    if options.side:
        run_side(options)
        sys.exit()
    found = []
    for number in range(options.rounds):
        # Every other round runs backwards, so that no side always follows the same one.
        for side in SIDES[:: -1 if number % 2 else 1]:
            found.append({"round": number + 1, "side": side} | measure(options, side))
            print(found[-1], flush=True)
    with open(HERE / "lora_steps.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    speed = {side: statistics.median(row["rows_per_second"] for row in found if row["side"] == side) for side in SIDES}
    for side in SIDES:
        print(f"{side}: {speed[side]:.3f} rows/s, moult is {speed[SIDES[0]] / speed[side]:.2f} times as fast")
