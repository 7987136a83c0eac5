"""Exact log-likelihood of every label in one packed pass: `python benchmarks/label_likelihood.py MODEL DATA`.

MODEL is a folder in Hugging Face layout, DATA holds MELD/dev.tsv of MMLA (columns id, text, label). On so many rows and
MELD's seven labels, float32, one thread, side by side: our engine's packed pass; a bare forward pass over the same
prompts in the same batches with the same padding, no labels; one sequence per label, the naive way; and 12 tokens
generated, a row at a time. Checks that packed and naive agree. Writes benchmarks/label_likelihood.csv.

Seconds are of CPU, which neighbours on a machine disturb less than the clock; the clock stands beside them. Packed and
bare run in turn, the medians count; the others run once. Five minutes with SmolLM2-135M on one core.
"""

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from moult.config.entries.datasets import load_label_set  # noqa: E402
from moult.data.prompts import label_messages, load_template  # noqa: E402
from moult.inference.engines.loading import load_engine  # noqa: E402
from moult.inference.requests import LabelRequest  # noqa: E402
from moult.inference.tokens import prompt_ids  # noqa: E402

NEW_TOKENS = 12


def requests_of(data, rows):
    """Return one LabelRequest per row of MELD's dev file."""
    label_set = load_label_set("MELD")
    with open(data / "MELD" / "dev.tsv", encoding="utf-8", newline="") as handle:
        found = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[:rows]
    asked = [label_messages(load_template("mmla/text"), row, label_set) for row in found]
    return [LabelRequest(tuple(messages), tuple(answers)) for messages, answers in asked]


def packed(engine, requests):
    """Return the log-likelihoods by row, as a job computes them: tokens, batch plan and all."""
    answered = dict(pair for batch in engine.label_logprobs(requests) for pair in batch)
    return [answered[row] for row in range(len(requests))]


def bare(engine, batches):
    """Run the model over batches of prompts and nothing else."""
    import torch

    for prompts in batches:
        width = max(map(len, prompts))
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ids = torch.tensor([[engine.pad] * (width - len(prompt)) + prompt for prompt in prompts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            engine.model(ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)


def naive(engine, requests):
    """Return the log-likelihoods by row from one sequence per label, in batches of the engine's size."""
    import torch

    pairs = [
        (row, prompt, label) for row, (prompt, labels) in enumerate(map(engine._labelled, requests)) for label in labels
    ]
    pairs = sorted(enumerate(pairs), key=lambda pair: -len(pair[1][1] + pair[1][2]))
    sums = {}
    for start in range(0, len(pairs), engine.batch_size):
        batch = pairs[start : start + engine.batch_size]
        width = max(len(prompt + label) for _, (_, prompt, label) in batch)
        ids = torch.tensor(
            [prompt + label + [engine.pad] * (width - len(prompt + label)) for _, (_, prompt, label) in batch]
        )
        with torch.inference_mode():
            logits = engine.model(ids, use_cache=False).logits
        for scores, (place, (_, prompt, label)) in zip(logits, batch, strict=True):
            table = scores[len(prompt) - 1 : len(prompt) + len(label) - 1].log_softmax(-1)
            sums[place] = table[range(len(label)), label].double().sum().item()
    size = len(requests[0].labels)
    return [[sums[row * size + number] for number in range(size)] for row in range(len(requests))]


def generated(engine, requests):
    """Generate greedily, a row at a time."""
    import torch
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=engine.stops,
        pad_token_id=engine.pad,
    )
    for request in requests:
        ids = torch.tensor([prompt_ids(engine.tokenizer, list(request.messages))])
        with torch.inference_mode():
            engine.model.generate(ids, generation_config=settings)


def timed(function, *arguments):
    """Return (CPU seconds, wall seconds, result)."""
    cpu, wall = time.process_time(), time.monotonic()
    result = function(*arguments)
    return time.process_time() - cpu, time.monotonic() - wall, result


def batches_of(engine, requests):
    """Return the batches of prompts that the engine plans, by watching it once."""
    seen, score = [], engine._score
    engine._score = lambda prompts, labels: seen.append(prompts) or score(prompts, labels)
    try:
        packed(engine, requests)
    finally:
        del engine._score
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="of packed and bare; the others run once")
    options = parser.parse_args()
    engine = load_engine(options.model, batch_size=options.batch_size)
    requests = requests_of(options.data, options.rows)
    batches = batches_of(engine, requests)
    bare(engine, batches[:1])
    runs = {"packed": [], "bare": []}
    for _ in range(options.repeats):
        runs["packed"].append(timed(packed, engine, requests))
        runs["bare"].append(timed(bare, engine, batches))
    runs["naive"] = [timed(naive, engine, requests)]
    runs["generated"] = [timed(generated, engine, requests)]
    ours, theirs = runs["packed"][-1][2], runs["naive"][0][2]
    difference = max(
        abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)
    )
    medians = {name: [statistics.median(run[place] for run in kept) for place in (0, 1)] for name, kept in runs.items()}
    rows = []
    for name, (cpu, wall) in medians.items():
        ratio = cpu / medians["bare"][0]
        print(f"{name}: {cpu:.2f} s CPU, {wall:.2f} s wall, {ratio:.2f} x bare", flush=True)
        rows.append([name, len(requests), len(requests[0].labels), f"{cpu:.2f}", f"{wall:.2f}", f"{ratio:.2f}"])
    print(f"prompts of {min(map(len, sum(batches, [])))} to {max(map(len, sum(batches, [])))} tokens")
    print(f"largest difference of packed and naive log-likelihoods: {difference:.1e}")
    with open(HERE / "label_likelihood.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerows([["way", "rows", "labels", "cpu_s", "wall_s", "ratio_to_bare"], *rows])
