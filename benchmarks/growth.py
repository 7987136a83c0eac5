"""How time and memory grow: `python benchmarks/growth.py [--steps prepare leakage] [--sizes 1000 10000] [--csv PATH]`.

Each step of STEPS runs at each of its sizes in a process of its own: `make` writes its inputs into an empty folder,
`do` is measured. Seconds are of CPU (user and system), which neighbours on a machine disturb less than the clock; the
clock stands beside them; memory is the most that the process held. `start` imports and does nothing else. Writes
growth.csv, lines of other steps kept, and ends 1 where ten times the size took more than MOST times what is above
`start`, of steps that take a second and more.

A step more: two functions and a line of STEPS.
"""

import argparse
import csv
import json
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log10
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts"))
COLUMNS = "step size cpu_s wall_s memory_mb".split()
ROWS = (1_000, 10_000, 100_000, 300_000)
# Times as much for ten times the size.
MOST = 12
LABELS = {"dataset": "growth", "task": "mood", "task_words": "mood", "language": "und", "labels": ["joy", "anger"]}


@dataclass(frozen=True)
class Step:
    """What is measured: `make(size)` writes its inputs into the working folder, `do(size)` is timed."""

    make: Callable[[int], None]
    do: Callable[[int], object]
    sizes: tuple[int, ...] = ROWS


def sentences(count, seed=1):
    """Yield texts of 8 to 32 words out of 5,000, the k-th of which is k times as rare as the first."""
    chance = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(5000)]
    weights = [1 / (place + 1) for place in range(len(words))]
    for _ in range(count):
        yield " ".join(chance.choices(words, weights, k=chance.randint(8, 32)))


def recipe(**more):
    """Return a recipe of prepare_dataset."""
    plain = {"name": "growth", "format": "mmla", "columns": {}, "files": {"train": ["train"]}, "label_set": LABELS}
    plain |= {"task": "mood", "language": "und", "dev_fraction": 0.1, "draws": 2, "limit": None, "seed": 1}
    return plain | {"version": 2} | more


def raw(name, lines):
    """Write the one raw file of a train split."""
    place = Path("raw", "train", f"00-{name}")
    place.parent.mkdir(parents=True)
    with place.open("w", encoding="utf-8") as handle:
        handle.writelines(lines)


def make_table(size):
    texts = enumerate(sentences(size))
    raw(
        "train.tsv",
        ["id\ttext\tlabel\n", *(f"{place}\t{text}\t{'joy anger'.split()[place % 2]}\n" for place, text in texts)],
    )


def prepare_table(size):
    from moult.data.prepare import prepare_dataset

    prepare_dataset(recipe(), "raw", "dataset")


def make_prepared(size):
    make_table(size)
    prepare_table(size)


def look_for_leakage(size):
    from moult.data.leakage import check_leakage

    check_leakage({"name": "growth", "near": 0.9, "found": "report"}, "dataset", "leakage.csv")


def conversation(text, answer="b"):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns}) + "\n"


def make_conversations(size):
    raw("train.jsonl", [conversation(text) for text in sentences(size)])


def make_equal_conversations(size):
    raw("train.jsonl", [conversation("a")] * size)


def prepare_conversations(size):
    from moult.data.prepare import prepare_dataset

    prepare_dataset(recipe(format="sharegpt", tags={}, label_set=None), "raw", "dataset")


def make_predictions(size, labels=600):
    """Write the predictions of two models, by one method, over a dataset of so many rows and labels."""
    names = [f"label {place}" for place in range(labels)]
    Path("dataset").mkdir()
    Path("dataset/labels.json").write_text(json.dumps(LABELS | {"labels": names}))
    profile = {"splits": {"train": {"labels": dict.fromkeys(names, 1)}}}
    Path("dataset/profile.json").write_text(json.dumps(profile))
    for model in MODELS:
        chance = random.Random(model)
        with open(f"{model}.jsonl", "w", encoding="utf-8") as handle:
            for place in range(size):
                gold = names[place % labels]
                pred = gold if chance.random() < 0.6 else chance.choice(names)
                row = {"uid": f"d:test:{place}", "dataset": "d", "task": "mood", "model": model, "method": "generate"}
                handle.write(json.dumps(row | {"gold": gold, "pred": pred, "status": "ok", "raw": pred}) + "\n")


def score(size):
    from moult.base.files import write_csv
    from moult.evaluation import scores

    asked = {"suite": "s", "model": "one", "methods": ["generate"], "datasets": {"d": "one"}, "seed": 1}
    asked |= {"limit": None, "reference": None}
    rows = scores.score_labels(asked, scores.read_predictions("one.jsonl"), {"d": "dataset"})
    write_csv("scores.csv", rows, scores.COLUMNS)


def compare(size):
    from moult.evaluation.scores import differences

    measured = [["s", model, {"d": model}] for model in MODELS]
    asked = {"pairs": [["s", *MODELS]], "measured": measured, "seed": 1}
    differences(asked, {("s", model): f"{model}.jsonl" for model in MODELS})


def draw_matrix(size):
    from moult.evaluation.scores import confusion_tables, read_predictions
    from moult.report.plots import draw_confusion

    labels = json.loads(Path("dataset/labels.json").read_text())["labels"]
    asked = {"datasets": {"d": "one"}, "methods": ["generate"]}
    draw_confusion(confusion_tables(asked, read_predictions("one.jsonl"), {"d": labels}))


def make_experiment(size):
    """Write what the report reads of so many fine-tuned models, measured on three datasets and compared with a base."""
    from moult.base.files import write_csv
    from moult.evaluation.metrics import paired_difference, share
    from moult.evaluation.scores import COLUMNS, DIFFERENCES
    from moult.jobs.manifest import write_manifest

    root, chance, summary, differences = Path("results/growth"), random.Random(1), [], []
    compute = {"engine": "transformers", "dtype": "float32", "batch_size": 8, "threads": 1}
    template = {"system": "Answer with one label.", "user": "{{ text }} " * 40}

    def made(kind, name, rule, output, text, parents=(), recipe=None, facts=None):
        output = root / kind / output
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
        above = [root / f"{parent}.manifest.json" for parent in parents]
        place = root / kind / f"{name}.manifest.json"
        write_manifest(place, rule=rule, outputs=[output], parents=above, recipe=recipe or {}, facts=facts)

    source = {"source": {"hub": "an/example", "revision": "0" * 40}, "dtype": "float32"}
    made("models", "base", "fetch_model", "base/model.safetensors", "base", recipe=source, facts={"parameters": 1e6})
    curve = "step,split,loss,accuracy,learning_rate\n" + "".join(
        f"{step},train,{2 / step},,\n" for step in range(1, 41)
    )
    facts = {"n_train": 99, "n_dev": 9, "steps": 40, "best_step": 40, "criterion": "nll", "tokens": 9000, "dropped": []}
    facts |= {"dev": {"nll": 0.7, "accuracy": 0.5}, "truncated": {"train": 0, "dev": 0}}
    for number in range(size):
        name = f"model_{number}"
        recipe = {"base": "base", "learning_rate": 1e-4, "lora": {"rank": 16, "alpha": 32}, "data": {"d": template}}
        made("adapters", name, "finetune_lora", f"{name}/loss.csv", curve, ["models/base"], recipe, facts)
        made(
            "models",
            name,
            "fold_adapter",
            f"{name}/model.safetensors",
            name,
            [f"adapters/{name}"],
            {"base": "base"},
            {},
        )
        recipe = {"datasets": {one: template for one in DATASETS}, "methods": ["generate"], "split": "test"}
        made(
            "predictions",
            f"s/{name}",
            "predict_labels",
            f"s/{name}.jsonl",
            "",
            [f"models/{name}"],
            recipe | {"compute": compute},
        )
        made("scores", f"s/{name}", "score_labels", f"s/{name}.csv", "", [f"predictions/s/{name}"], {"model": name})
        shared = {"model": name, "suite": "s", "method": "generate", "n": 200}
        for dataset in (*DATASETS, "mean", "weighted_mean"):
            for metric in METRICS:
                summary.append(
                    shared | {"dataset": dataset, "metric": metric} | share(chance.randint(60, 180), 200).as_row()
                )
        for dataset in (*DATASETS, "weighted_mean"):
            test = paired_difference(chance.randint(0, 40), chance.randint(0, 40), 200)
            differences.append(shared | {"against": "base", "dataset": dataset} | test)
    write_csv(root / "scores/summary.csv", [{key: row.get(key) for key in COLUMNS} for row in summary], COLUMNS)
    write_csv(
        root / "scores/differences.csv",
        [{key: row.get(key) for key in DIFFERENCES} for row in differences],
        DIFFERENCES,
    )


def write_page(size):
    from moult.base.files import read_csv, write_text_atomic
    from moult.report.page import write_report
    from moult.report.plots import draw_scores
    from moult.stages import STAGES

    root = Path("results/growth")
    write_text_atomic(root / "plots/s.svg", draw_scores(read_csv(root / "scores/summary.csv")))
    write_report(
        "index.html",
        summary=root / "scores/summary.csv",
        differences=root / "scores/differences.csv",
        plots=[root / "plots/s.svg"],
        confusion=[],
        manifests=sorted(root.rglob("*.manifest.json")),
        leakage=[],
        title="Growth",
        limit=None,
        seed=1,
        words={stage.rule: stage.words for stage in STAGES},
    )


MODELS = ("one", "other")
DATASETS = ("acts", "moods", "topics")
METRICS = (
    "accuracy macro_f1 macro_f1_occurring macro_precision macro_precision_occurring macro_recall "
    "macro_recall_occurring weighted_f1 weighted_precision weighted_recall unknown_rate multi_rate error_rate "
    "majority_accuracy"
).split()
STEPS = {
    "start": Step(lambda size: None, lambda size: __import__("moult.data.prepare"), (1,)),
    "prepare": Step(make_table, prepare_table),
    "leakage": Step(make_prepared, look_for_leakage),
    "conversations": Step(make_conversations, prepare_conversations),
    "equal conversations": Step(make_equal_conversations, prepare_conversations),
    # 600 labels; then 30,000 rows of so many labels; then so many models.
    "scores": Step(make_predictions, score),
    "McNemar": Step(make_predictions, compare),
    "scores, labels": Step(lambda size: make_predictions(30_000, size), score, (10, 60, 600)),
    "confusion, labels": Step(lambda size: make_predictions(30_000, size), draw_matrix, (10, 60, 600)),
    "report, models": Step(make_experiment, write_page, (10, 50, 500)),
}


def measured(name, size):
    """Return the line of growth.csv of one step at one size."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("make", "do"):
            script = str(Path(__file__).resolve())
            command = [sys.executable, script, "--run", part, "--steps", name, "--sizes", str(size)]
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if run.returncode:
                sys.exit(f"{name}, {size}: {run.stderr}")
    return {"step": name, "size": size} | json.loads(run.stdout)


def run_part(part, name, size):
    """Do one part of a step in this process; print what it took."""
    logging.disable()
    begun = time.monotonic()
    getattr(STEPS[name], part)(size)
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {"cpu_s": round(used.ru_utime + used.ru_stime, 2), "wall_s": round(time.monotonic() - begun, 2)}
    print(json.dumps(told | {"memory_mb": used.ru_maxrss // 1000}))


def grown_too_much(lines):
    """Yield a sentence for each step that grows faster than MOST times for ten times the size."""
    start = next((line for line in lines if line["step"] == "start"), None)
    for one, other in pairwise(sorted(lines, key=lambda line: (line["step"], int(line["size"])))):
        if one["step"] != other["step"] or float(other["cpu_s"]) < 1 or not start:
            continue
        allowed = MOST ** log10(int(other["size"]) / int(one["size"]))
        for column in ("cpu_s", "memory_mb"):
            before, after = (max(float(line[column]) - float(start[column]), 1e-3) for line in (one, other))
            # What takes less than a second is mostly start-up and noise.
            if after > allowed * max(before, {"cpu_s": 1, "memory_mb": 50}[column]):
                yield f"{one['step']}, {column}: {before:.2f} at {one['size']}, {after:.2f} at {other['size']}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--sizes", nargs="*", type=int, default=None)
    parser.add_argument("--csv", type=Path, default=HERE / "growth.csv")
    parser.add_argument("--run", choices=("make", "do"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        return run_part(given.run, given.steps[0], given.sizes[0])
    old = list(csv.DictReader(given.csv.open(encoding="utf-8"))) if given.csv.exists() else []
    lines = {(line["step"], int(line["size"])): line for line in old if line["step"] in STEPS}
    for name in given.steps:
        for size in given.sizes or STEPS[name].sizes:
            lines[name, size] = measured(name, size)
            print(*lines[name, size].values(), sep="\t", flush=True)
    kept = sorted(lines.values(), key=lambda line: (list(STEPS).index(line["step"]), int(line["size"])))
    with given.csv.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    if found := list(grown_too_much(kept)):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
