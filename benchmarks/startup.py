"""What jobs wait for before they work: `python benchmarks/startup.py [--repeats 3]`.

Seconds from a fresh process to the log line `ready` (imports over, a pico model loaded) of each kind of job, beside
bare imports of torch, transformers' model class and its Trainer; with and without what `lean_imports` leaves out. Jobs
without such a line (fold, prepare) are timed to their end. Writes benchmarks/startup.csv.

Seconds are of CPU (user and system), which neighbours on a machine disturb less than the clock. Bytecode is cached, as
it is where pip installed the packages. Five minutes on one core.
"""

import argparse
import csv
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
BARE = {
    "import torch": "import torch",
    "import a model class": "from transformers import AutoTokenizer, LlamaForCausalLM",
    "import the Trainer and peft": "import peft; from transformers import AutoTokenizer, LlamaForCausalLM, Trainer",
}
LABELS = {"dataset": "d", "task": "mood", "task_words": "mood", "language": "en", "labels": ["good", "bad"]}
CHAT = [{"role": "user", "content": "Is it good?"}]


def generate(work):
    """A served model, or one that predicts: they start alike."""
    from moult.inference.engines.loading import load_engine

    load_engine(work / "base")


def train(work):
    """Two steps of LoRA."""
    from moult.data.prompts import Example
    from moult.training.finetune import finetune_lora

    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}
    recipe = {"base": "base", "lora": lora, "learning_rate": 1e-3, "epochs": 1, "max_steps": 2, "schedule": "cosine"}
    recipe |= {"warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "batch_size": 2, "accumulation": 1}
    recipe |= {"dtype": "float32", "threads": 1, "max_length": 64, "evaluate_every": 1, "selection": "nll"}
    recipe |= {"gradient_checkpointing": False, "seed": 1, "version": 1}
    rows = [Example(f"u{n}", CHAT, "good") for n in range(4)]
    with tempfile.TemporaryDirectory() as scratch:
        finetune_lora(recipe, work / "base", rows, rows[:2], Path(scratch) / "scratch", Path(scratch) / "adapter")


def merge(work):
    """The mean of two models."""
    from moult.weights.merging import merge_models

    recipe = {"method": "linear", "base": None, "parameters": {}, "dtype": "float32", "seed": 1, "threads": 1}
    recipe |= {"parents": [{"model": name, "weight": 0.5} for name in ("base", "other")]}
    merge_models(recipe, {name: work / name for name in ("base", "other")}, work / "merged")


def fold(work):
    """An adapter into its base."""
    from moult.weights.folding import fold_adapter

    fold_adapter(work / "adapter", work / "base", work / "folded")


def prepare(work):
    """Two rows into one table."""
    from moult.data.prepare import prepare_dataset

    recipe = {"name": "d", "format": "mmla", "columns": {}, "files": {"train": ["train"]}, "label_set": LABELS}
    recipe |= {"task": "mood", "language": "en", "dev_fraction": 0, "limit": None, "seed": 1}
    prepare_dataset(recipe, work / "raw", work / "dataset")


JOBS = {"generate, predict": generate, "train": train, "merge": merge, "fold": fold, "prepare": prepare}


class Ready(Exception):
    """Raised in place of a job's work."""


class UntilReady(logging.Handler):
    """Ends a job where it says that it is ready."""

    def emit(self, record):
        if str(record.msg).startswith("ready"):
            raise Ready


def start(kind, work, lean):
    """Run one kind of job until it is ready; this is what a fresh process does."""
    from moult.base import lean_imports

    if not lean:
        lean_imports.hide_packages = lambda *_: nullcontext()
        lean_imports.hide_compiler = nullcontext
        lean_imports.hide_deepspeed = lambda: None
    logging.basicConfig(level=logging.INFO, handlers=[UntilReady()])
    with suppress(Ready):
        JOBS[kind](work)
    # What Python does at its end is not waited for.
    os._exit(0)


def make_inputs(work):
    """Write two pico models, an adapter and a raw table."""
    from peft import LoraConfig, get_peft_model
    from pico import build_pico_model
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("base", "other")):
        build_pico_model(work / name, seed=seed)
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(work / "base"), lora).save_pretrained(work / "adapter")
    (work / "raw" / "train").mkdir(parents=True)
    (work / "raw" / "train" / "00-train.tsv").write_text("id\ttext\tlabel\n1\tsun\tgood\n2\train\tbad\n")


def seconds(command, work):
    """Return the CPU seconds of a fresh process."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(HERE.parent / name) for name in ("scripts", "tests")),
        "PYTHONPYCACHEPREFIX": str(work / "bytecode"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with open(work / "printed", "w") as printed:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=work, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit((work / "printed").read_text()[-4000:])
    return used.ru_utime + used.ru_stime


def table(repeats, work):
    """Return rows of what is started, seconds as it is, seconds with nothing left out, and their ratio."""
    script = str(Path(__file__).resolve())
    seconds([script, "--inputs", str(work)], work)
    rows = []
    for name in [*BARE, *JOBS]:
        if name in BARE:
            commands = [["-c", BARE[name]]]
        else:
            commands = [[script, "--start", name, str(work), lean] for lean in ("lean", "full")]
        runs = [[seconds(command, work) for command in commands] for _ in range(repeats + 1)][1:]
        medians = [statistics.median(run[side] for run in runs) for side in range(len(commands))]
        rows.append([name, *(f"{value:.2f}" for value in medians)])
        print(": ".join([name, " s; with nothing left out ".join(rows[-1][1:])]), "s", flush=True)
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--start"]:
        start(sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "lean")
    if sys.argv[1:2] == ["--inputs"]:
        make_inputs(Path(sys.argv[2]))
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each after the warm-up, which does not count")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        rows = table(options.repeats, Path(folder))
    with open(HERE / "startup.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerows([["started", "cpu_s", "cpu_s_nothing_left_out"], *rows])
