"""What do several answers to one prompt cost? `python benchmarks/sampling.py MODEL [--csv benchmarks/sampling.csv]`

MODEL is a folder in Hugging Face layout, float32, one thread. Sampling: five answers of 32 tokens to a prompt of 200,
as `kind: samples` asks for them (the prompt is read once), in one batch that reads it five times, and in five requests
one after the other. Scoring: 32 chats of 30 to 300 tokens, as many short as long ones on a scale of ratios, by MODEL
with a head of one output, in batches of 8: sorted by length, and in the order of the file. A line of the table: what,
way, repeats, median seconds of the clock and of the processor, and that over the slowest way.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from moult.base.files import write_csv  # noqa: E402
from moult.inference.engines.loading import load_engine  # noqa: E402
from moult.inference.requests import ChatRequest, Sampling  # noqa: E402
from moult.inference.rewards import RewardModel, chat_ids, reward_request  # noqa: E402

COLUMNS = "what way repeats seconds cpu_seconds of_slowest".split()
SAMPLES, PROMPT, ANSWER, CHATS, BATCH = 5, 200, 32, 32, 8


def timed(ways, repeats):
    """Return way → median seconds (of the clock, of the processor); the ways take turns, after one unmeasured round."""
    found = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, work in ways.items():
            begun, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:
                found[way].append((time.perf_counter() - begun, time.process_time() - cpu))
    return {way: tuple(map(statistics.median, zip(*lines, strict=True))) for way, lines in found.items()}


def requests_of(engine):
    """Return five requests whose prompt has as many tokens as is wanted."""
    words = 1
    while True:
        message = {"role": "user", "content": "again " * words}
        request = ChatRequest((message,), Sampling(temperature=0.8, top_p=0.95, max_tokens=ANSWER))
        if len(engine._prompt(request)) >= PROMPT:
            return [ChatRequest((message,), request.sampling, seed=seed) for seed in range(SAMPLES)]
        words += 1


def sampling(model, repeats):
    """Return the times of sampling, way by way."""
    engine = load_engine(Path(model), batch_size=SAMPLES)
    # Each answer is as long as any: nothing is likely to write the token that begins a text.
    engine.stops = [0]
    requests = requests_of(engine)

    def work(several, groups):
        engine.several = several
        for group in groups:
            list(engine.answer(group))

    ways = {
        "prompt read once": lambda: work(True, [requests]),
        "one batch": lambda: work(False, [requests]),
        "five requests": lambda: work(False, [[request] for request in requests]),
    }
    return timed(ways, repeats)


def scoring(model, repeats):
    """Return the times of scoring, way by way."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(model)
        head = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, pad_token_id=0)
        head.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        reward = RewardModel(folder, dtype="float32", threads=1, batch_size=BATCH)
    lengths = [round(30 * 10 ** (place * 13 % CHATS / (CHATS - 1))) for place in range(CHATS)]
    base = len(chat_ids(reward.tokenizer, reward_request("Q", "word")))
    requests = [reward_request("Q", " ".join(["word"] * max(1, length - base + 1))) for length in lengths]
    chats = [chat_ids(reward.tokenizer, request) for request in requests]
    print("tokens of chats:", min(map(len, chats)), "to", max(map(len, chats)), flush=True)

    def in_file_order():
        for start in range(0, CHATS, BATCH):
            reward._scores([chat_ids(reward.tokenizer, request) for request in requests[start : start + BATCH]])

    return timed({"sorted": lambda: list(reward.score(requests, range(CHATS))), "file order": in_file_order}, repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--csv", help="write the table here, too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["sampling", "scoring"], choices=["sampling", "scoring"])
    options = parser.parse_args()
    lines = []
    for what in options.parts:
        found = {"sampling": sampling, "scoring": scoring}[what](options.model, options.repeats)
        slowest = max(cpu for _, cpu in found.values())
        for way, (seconds, cpu) in found.items():
            values = (what, way, options.repeats, round(seconds, 2), round(cpu, 2), round(cpu / slowest, 2))
            lines.append(dict(zip(COLUMNS, values, strict=True)))
            print(*values, sep="\t", flush=True)
    if options.csv:
        write_csv(options.csv, lines, COLUMNS)


if __name__ == "__main__":
    main()
