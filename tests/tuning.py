"""What tests of supervised fine-tuning train on, and by which recipe."""

from moult.data.prompts import Example

RECIPE = {
    "base": "pico",
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": "all-linear"},
    "learning_rate": 1e-2,
    "epochs": 2,
    "max_steps": None,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "batch_size": 2,
    "accumulation": 2,
    "dtype": "float32",
    "max_length": 128,
    "evaluate_every": 2,
    "selection": "nll",
    "gradient_checkpointing": False,
    "seed": 7,
    "threads": 1,
}
FULL = {key: value for key, value in RECIPE.items() if key != "lora"} | {"learning_rate": 1e-3}


def example(number, answer=None):
    """Return an example; answers and questions have many lengths."""
    words = " ".join(["data"] * (number % 5))
    answer = answer or " and ".join(["fox", "the brown dog", "yes"][: 1 + number % 3])
    return Example(f"demo:train:{number}", [{"role": "user", "content": f"question {number} {words}"}], answer)


TRAIN = [example(number) for number in range(18)]
DEV = [example(number) for number in range(100, 105)]


def content(folder):
    """Return {name: bytes} of the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
