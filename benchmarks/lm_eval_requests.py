"""lm-eval's requests through our engine and its own: `python benchmarks/lm_eval_requests.py`.

requests: on the same documents, float32, one thread, batches of 8, a random Llama of SmolLM2-135M's shape: our model of
lm-eval's interface, journal and all, and lm-eval's `hf`, side by side. Choices of several tokens, choices of one
letter (whose logits `hf` shares too), the same behind five shots as MMLU has them, rolling pages. Checks that the
log-likelihoods agree.

processes: five tasks put to a pico model by one process, and by five; CPU seconds of whole processes.

Writes benchmarks/lm_eval_requests.csv; five minutes on one core.
"""

import argparse
import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "scripts"), str(HERE.parent / "tests")]
COLUMNS = "part what documents requests ours_cpu_s theirs_cpu_s ratio".split()
BATCH = 8
# Of SmolLM2-135M.
SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
SHAPE |= {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048}
WORDS = "the water of a river runs past stones and trees until it meets the sea where birds look for fish".split()
TASKS = ("kinds_choice", "kinds_cloze", "kinds_prose", "kinds_sums", "again")


def sentence(draw, words):
    """Return a sentence of so many words."""
    return " ".join(draw.choice(WORDS) for _ in range(words))


def documents(kind, count, seed=18):
    """Return (context, continuations) of so many documents; a rolling page has no context."""
    draw = random.Random(seed)
    if kind == "pages":
        return [(None, [sentence(draw, 60)]) for _ in range(count)]
    context = [f"Question: {sentence(draw, 40)}?\nAnswer:" for _ in range(count)]
    if kind == "shots":
        shots = [f"Question: {sentence(draw, 40)}?\nAnswer: {draw.choice('ABCD')}\n\n" for _ in range(5)]
        context = [f"{''.join(shots)}{one}" for one in context]
    if kind in ("letters", "shots"):
        return [(one, [" A", " B", " C", " D"]) for one in context]
    return [(one, [f" {sentence(draw, draw.randint(3, 8))}" for _ in range(4)]) for one in context]


def instances(kind, found):
    """Return the documents as lm-eval asks for them."""
    from lm_eval.api.instance import Instance

    asked = []
    for number, (context, continuations) in enumerate(found):
        for place, one in enumerate(continuations):
            arguments = (one,) if kind == "pages" else (context, one)
            name = "loglikelihood_rolling" if kind == "pages" else "loglikelihood"
            asked.append(Instance(name, {}, arguments, place, metadata=("t", number, 1)))
    return asked


def timed(work):
    """Return what a call returns, and its CPU seconds."""
    begun = time.process_time()
    return work(), time.process_time() - begun


def requests(rows, repeats):
    """Yield a line per kind of request."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from moult.evaluation.lm_eval_model import JournalModel
    from moult.inference.asking import Asker, EnginePool
    from moult.inference.engines.loading import load_engine
    from pico import build_pico_model

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = build_pico_model(f"{folder}/model", **SHAPE)
        Path(f"{folder}/model.manifest.json").write_text(json.dumps({"content": "x"}))
        theirs = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=BATCH)
        compute = {"engine": "transformers", "dtype": "float32", "batch_size": BATCH, "threads": 1}
        for kind in ("sentences", "letters", "shots", "pages"):
            found = documents(kind, rows)
            asked = instances(kind, found)
            method, spent = asked[0].request_type, {"ours": [], "theirs": []}
            for turn in range(repeats):
                pool = EnginePool(Path(folder, f"{kind}{turn}.sqlite"))
                asker = Asker(
                    {"name": "m", "serve": "m", "compute": compute}, pool, None, model, f"{model}.manifest.json"
                )
                ours = JournalModel(model, asker, asker, 0)
                # Loading is not what is compared.
                pool.load(*known(asker, load_engine, model, compute))
                values, seconds = timed(lambda ours=ours, method=method, asked=asked: getattr(ours, method)(asked))
                spent["ours"].append(seconds)
                wanted, seconds = timed(
                    lambda method=method, asked=asked: getattr(theirs, method)(asked, disable_tqdm=True)
                )
                spent["theirs"].append(seconds)
                pool.close()
                check(values, wanted)
            ours, theirs_s = statistics.median(spent["ours"]), statistics.median(spent["theirs"])
            yield ["requests", kind, rows, len(asked), round(ours, 2), round(theirs_s, 2), round(ours / theirs_s, 2)]


def known(asker, load_engine, model, compute):
    """Return the key under which the asker's pool will look for its engine, and what loads it."""
    from moult.base.files import digest

    return (digest([asker.identity, compute]), None), lambda: load_engine(model, **compute)


def check(ours, theirs):
    """Raise where log-likelihoods differ by more than float noise."""
    for one, other in zip(ours, theirs, strict=True):
        left, right = (value[0] if isinstance(value, tuple) else value for value in (one, other))
        assert abs(left - right) < 1e-4 * max(1, abs(right)), (one, other)


RUN = """
import os, sys
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": "cache", "DISABLE_MULTIPROC": "1"}
from benchmark_runs import put, recipe
put(recipe(*sys.argv[2:], limit=20), sys.argv[1])
"""


def processes(repeats):
    """Yield the line of five tasks in one process and in five."""
    from benchmark_runs import copy_reference

    with tempfile.TemporaryDirectory() as folder:
        copy_reference(Path(folder))
        again = (HERE.parent / "resources" / "lm_eval" / "kinds_cloze.yaml").read_text().replace("kinds_cloze", "again")
        rows = (HERE.parent / "resources" / "lm_eval" / "data" / "cloze_test.jsonl").read_text()
        Path(folder, "tasks", "again.yaml").write_text(again.replace("data/cloze", "data/again"))
        Path(folder, "data", "again_test.jsonl").write_text(rows.replace("it is", "this is"))
        found = {"one": [], "five": []}
        for turn in range(repeats + 1):
            found["one"].append(cpu_of(folder, f"one{turn}.sqlite", *TASKS))
            found["five"].append(sum(cpu_of(folder, f"{task}{turn}.sqlite", task) for task in TASKS))
        # The first turn fills caches of files and rows.
        one, five = (statistics.median(found[way][1:]) for way in ("one", "five"))
        yield ["processes", "five tasks", len(TASKS) * 20, "", round(one, 2), round(five, 2), round(one / five, 2)]


def cpu_of(folder, journal, *tasks):
    """Return the CPU seconds of a process that puts tasks to the model."""
    paths = os.pathsep.join(str(HERE.parent / name) for name in ("scripts", "tests"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", RUN, journal, *tasks]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("requests", "processes"), default=("requests", "processes"))
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=HERE / "lm_eval_requests.csv")
    given = parser.parse_args()
    lines = []
    if "requests" in given.parts:
        lines += requests(given.rows, given.repeats)
    if "processes" in given.parts:
        lines += processes(given.repeats)
    with open(given.csv, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([COLUMNS, *lines])
    for line in lines:
        print(*line, sep="\t")


if __name__ == "__main__":
    main()
