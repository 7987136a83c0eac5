"""What tests of preference optimisation train on, and by which recipe."""

from moult.training.pairs import Pair

RECIPE = {
    "base": "pico",
    "data": ["pairs"],
    "loss": {"kind": "contrastive", "margin": 1.0, "nll_weight": 0.0},
    "collapse": 2.0,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"},
    "learning_rate": 1e-2,
    "epochs": 2,
    "max_steps": None,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "batch_size": 2,
    "accumulation": 2,
    "dtype": "float32",
    "max_length": 128,
    "evaluate_every": None,
    "selection": "loss",
    "gradient_checkpointing": False,
    "seed": 7,
    "threads": 1,
}
FULL = {key: value for key, value in RECIPE.items() if key != "lora"} | {"learning_rate": 1e-3}


def pair(number):
    """Return a pair; prompts and answers have many lengths, and the answers of a pair never the same."""
    question = f"question {number} " + " ".join(["data"] * (number % 4))
    chosen = " and ".join(["fox", "the brown dog", "yes", "a question"][: 1 + number % 4])
    rejected = " or ".join(["quick", "no", "the jumping fox"][: 1 + (number + 1) % 3])
    return Pair(f"q:train:{number}", [{"role": "user", "content": question}], [chosen], [rejected])


TRAIN = [pair(number) for number in range(10)]
DEV = [pair(number) for number in range(100, 104)]


def fused(number):
    """Return a row with one to three answers of sources, one of the model's own to prefer, and another one."""
    one, sources = pair(number), ["yes", "a question and data", "the brown fox or the dog"]
    own = f"{one.rejected[0]} data"
    return Pair(one.uid, one.messages, [*sources[: 1 + number % 3], own], one.rejected, 1 + number % 3)


FUSED = [fused(number) for number in range(10)]
FUSED_DEV = [fused(number) for number in range(100, 104)]
