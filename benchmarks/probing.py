"""Encodings shared by all probes beside encoding anew for each: `python benchmarks/probing.py [--sentences 1000]`.

A Llama of 8 layers with random weights (7 million parameters) reads sentences written by rule. Ours: each text encoded
once for the probe, for permuted words and for random weights, then five seeds and three controls as one batched
problem. Beside it: each of the 5 × (1 + 3) runs encodes its texts and trains its probe alone. Of these one run per
control is measured, and counts five times. Then the probes alone: all seeds in one batch, and one after another.
Seconds are of CPU, on one thread. Writes benchmarks/probing.csv.
"""

import argparse
import csv
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "scripts"), str(HERE.parent / "tests")]
SEEDS = list(range(5))
CONTROLS = ("none", "permutation", "random_weights", "random_labels")
TRAINING = {
    "dropout": 0.2,
    "learning_rate": 1e-3,
    "batch": 16,
    "epochs": 20,
    "patience": 5,
    "warmup": 0.1,
    "penalty": 0.0,
}
COLUMNS = ["what", "cpu_s", "ratio", "sentences", "megabytes", "peak_megabytes"]


def sentences(count):
    """Return a probing set of so many different sentences, half of them to be found wrong."""
    from moult.evaluation.probing.sets import ProbeSet, Row
    from moult.evaluation.probing.units import Unit

    scope = {"__name__": "make", "__file__": str(HERE.parent / "resources" / "holmes" / "make.py")}
    exec(compile(Path(scope["__file__"]).read_text(), "make.py", "exec"), scope)
    draw, rows = scope["Draw"](7), {}
    while len(rows) < count:
        label = len(rows) % 2
        (text,), _ = scope["tense"](draw, label)
        near, adverb, beside = draw(scope["THINGS"]), draw(scope["ADVERBS"]), draw(scope["ANIMATE"])
        text = f"{text[:-1]} near the {near} {adverb} and the {beside} {draw(['sleeps', 'waits'])}."
        if text not in rows:
            split = "train" if len(rows) % 10 < 6 else "dev" if len(rows) % 10 < 8 else "test"
            rows[text] = Row(str(len(rows)), split, (Unit((text,)),), float(label), (text,))
    return ProbeSet("tense", "SENTENCE", 2, tuple(rows.values()), "semantics", "tense")


def timed(function, *arguments):
    begun = time.process_time()
    found = function(*arguments)
    return time.process_time() - begun, found


def encoded(model, one, controls, folder):
    """Encode what the controls need, weights by weights; return the encodings."""
    from moult.base.files import write_json
    from moult.evaluation.probing import encode

    plans = encode.plans_of([one], controls, 5)
    for weights, plan in plans.items():
        reader = encode.Reader(model, "float32", [-1], True, 5 if weights == encode.RANDOM else None)
        encode.encode_plan(reader, plan, folder / weights, 16, "float32")
    index = {"layers": reader.layers, "width": reader.width, "batch_size": 16, "plan": encode.digest_of(plans)}
    index["per_shard"] = min(encode.SHARD_UNITS, encode.SHARD_BYTES // (4 * reader.width))
    write_json(folder / encode.INDEX, index)
    return encode.Encodings(folder, plans)


def probed(one, encodings, recipe):
    from moult.evaluation.probing.run import probe_set

    return list(probe_set(recipe, one, encodings))


def run_alone(model, one, folder, recipe):
    """One run as if nothing were shared: its own encodings, its own probe."""
    own = recipe | {"controls": [], "seeds": [0]}
    return probed(one, encoded(model, one, [], folder), own)


def main(arguments):
    import resource

    import torch
    from moult.evaluation.probing.train import Member, Settings, fit
    from moult.evaluation.probing.units import permuted
    from pico import build_pico_model

    torch.set_num_threads(1)
    one = sentences(arguments.sentences)
    recipe = {"probes": ["linear"], "portions": [1], "controls": list(CONTROLS[1:]), "seeds": SEEDS, "seed": 5}
    recipe |= {"training": TRAINING, "hidden": 0, "code_length": False}
    rows = []
    with tempfile.TemporaryDirectory() as work:
        model = build_pico_model(Path(work, "model"), hidden_size=256, intermediate_size=704, num_hidden_layers=8)
        # What is imported and compiled at first is neither's.
        run_alone(model, sentences(60), Path(work, "warm"), recipe)
        shared, encodings = timed(encoded, model, one, recipe["controls"], Path(work, "ours"))
        together, _ = timed(probed, one, encodings, recipe)
        size = sum(path.stat().st_size for path in Path(work, "ours").rglob("*.safetensors")) / 1e6
        rows.append({"what": "encoded once", "cpu_s": shared, "megabytes": size})
        rows.append({"what": "five seeds and three controls in one batch", "cpu_s": together})
        anew = 0.0
        moved = [replace(row, slots=tuple(permuted(unit, 5) for unit in row.slots)) for row in one.rows]
        for control in CONTROLS:
            # Other weights or other labels take as long as these.
            texts = replace(one, rows=tuple(moved)) if control == "permutation" else one
            anew += len(SEEDS) * timed(run_alone, model, texts, Path(work, control), recipe)[0]
        rows.append({"what": "encoded anew for each of 20 runs", "cpu_s": anew})
        rows.append({"what": "all of ours", "cpu_s": shared + together, "ratio": (shared + together) / anew})
        view = encodings.vectors("trained", [row.slots for row in one.of("train")], [0])
        dev = encodings.vectors("trained", [row.slots for row in one.of("dev")], [0])
    labels, dev_labels = (torch.tensor([int(row.label) for row in one.of(split)]) for split in ("train", "dev"))
    settings = Settings(2, patience=20)
    members = [Member(0, 0, seed) for seed in SEEDS]

    def train(some):
        return fit(settings, some, view, labels[None], dev, dev_labels)

    batch = min(timed(train, members)[0] for _ in range(3))
    apart = min(timed(lambda: [train([one]) for one in members])[0] for _ in range(3))
    rows.append({"what": "five seeds in one batch", "cpu_s": batch, "ratio": batch / apart})
    rows.append({"what": "five seeds one after another", "cpu_s": apart})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    with open(HERE / "probing.csv", "w", newline="") as handle:
        table = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in rows:
            told = row | {"cpu_s": round(row["cpu_s"], 2), "sentences": arguments.sentences}
            told |= {key: round(row[key], 3) for key in ("ratio", "megabytes") if key in row}
            table.writerow(told | {"peak_megabytes": round(peak)} if row["what"] == "all of ours" else told)
    print((HERE / "probing.csv").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=1000)
    main(parser.parse_args())
