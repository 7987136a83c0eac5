"""The job of run_probes: probes on the encodings of one model, a line of results per set, probe and portion."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from moult.base.files import derive_seed, digest, read_json, write_json, write_jsonl
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.base.suite_rows import Probed
from moult.evaluation.probing.code_length import description_bits, uniform_bits
from moult.evaluation.probing.encode import RANDOM, TRAINED, Encodings, digest_of, use_sets
from moult.evaluation.probing.sets import ProbeSet
from moult.evaluation.probing.train import Member, Settings, fit, predict
from moult.evaluation.probing.units import permuted

# Raise when the same encodings would now be probed otherwise.
VERSION = 1
# Control → (weights, whether words are permuted, whether labels of train are random); the first is none.
PLAIN = "none"
CONTROLS = {
    PLAIN: (TRAINED, False, False),
    "permutation": (TRAINED, True, False),
    "random_weights": (RANDOM, False, False),
    "random_labels": (TRAINED, False, True),
}
# Bytes of representations that are in memory at once: views, each a layer of all rows under a control, are probed in
# groups of so many, at least one.
MOST_BYTES = 1_000_000_000
logger = logging.getLogger(__name__)


def probe_settings(recipe: Recipe, probe: str, labels: int) -> Settings:
    """Return how a probe, linear or mlp, is trained. recipe: training, hidden."""
    return Settings(labels=labels, hidden=recipe["hidden"] if probe == "mlp" else 0, **recipe["training"])


def seen_in_train(one: ProbeSet) -> list[bool]:
    """Return of each test row whether a row of train has the same inputs, all of them."""
    train = {row.words for row in one.of("train")}
    return [row.words in train for row in one.of("test")]


def probe_set(recipe: Recipe, one: ProbeSet, encodings: Encodings) -> Iterator[Probed]:
    """Yield the results of a set, one per probe and portion of train: a run per control, layer and seed.

    recipe: probes, portions, controls, seeds, training, hidden, code_length, seed.
    """
    import torch

    runs: dict[tuple[str, float], list[dict[str, Any]]] = {
        key: [] for key in product(recipe["probes"], recipe["portions"])
    }
    controls = [PLAIN, *recipe["controls"]]
    kinds = dict.fromkeys(CONTROLS[name][:2] for name in controls)
    views = list(product(range(len(encodings.layers)), kinds))
    at_once = max(1, MOST_BYTES // (4 * len(one.rows) * len(one.rows[0].slots) * encodings.width))
    train, dev, test = (one.of(split) for split in ("train", "dev", "test"))
    truth = {split: _labels(one, rows) for split, rows in (("train", train), ("dev", dev))}
    mixed = [truth["train"][_order(recipe["seed"], one, "labels", seed)] for seed in recipe["seeds"]]
    labels = torch.stack([truth["train"], *mixed])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for begin in range(0, len(views), at_once):
        chosen = views[begin : begin + at_once]
        rows = {
            split: torch.cat([_read(recipe, encodings, mine, *view) for view in chosen]).to(device)
            for split, mine in (("train", train), ("dev", dev), ("test", test))
        }
        wanted = [
            (control, view, seed)
            for view, control, seed in product(range(len(chosen)), controls, range(len(recipe["seeds"])))
            if CONTROLS[control][:2] == chosen[view][1]
        ]
        members = [
            Member(
                view=view,
                labels=1 + seed if CONTROLS[control][2] else 0,
                seed=recipe["seeds"][seed],
                last=CONTROLS[control][2],
            )
            for control, view, seed in wanted
        ]
        given = rows["train"], labels.to(device), rows["dev"], truth["dev"].to(device)
        for (probe, portion), found in runs.items():
            settings = probe_settings(recipe, probe, one.labels)
            kept = _order(recipe["seed"], one, "portion")[: max(1, round(portion * len(train)))]
            part = given if portion == 1 else (given[0][:, kept], given[1][:, kept], *given[2:])
            fitted = fit(settings, members, *part)
            said = predict(settings, fitted, members, rows["test"])
            said = said[..., 0] if one.regression else said.argmax(dim=-1)
            bits: dict[int, float] = {}
            if recipe["code_length"] and not one.regression:
                plain = [place for place, (control, *_) in enumerate(wanted) if control == PLAIN]
                if plain:
                    lengths = description_bits(settings, [members[place] for place in plain], *part)
                    bits = dict(zip(plain, lengths, strict=True))
            for place, (control, view, seed) in enumerate(wanted):
                run = {"control": control, "layer": encodings.layers[chosen[view][0]], "seed": recipe["seeds"][seed]}
                run |= {"epochs": fitted.epochs[place], "dev_loss": round(fitted.dev_loss[place], 6)}
                run["bits"] = round(bits[place], 3) if place in bits else None
                guess = said[place].tolist()
                found.append(run | {"pred": [round(value, 6) for value in guess] if one.regression else guess})
    gold = [row.label if one.regression else int(row.label) for row in test]
    for (probe, portion), found in runs.items():
        uniform = None if one.regression else round(uniform_bits(max(1, round(portion * len(train))), one.labels), 3)
        yield {
            "dataset": one.name,
            "subfield": one.subfield,
            "phenomenon": one.phenomenon,
            "type": one.probe_type,
            "labels": one.labels,
            "probe": probe,
            "portion": portion,
            "rows": {"train": len(train), "dev": len(dev), "test": len(test)},
            "uniform_bits": uniform,
            "gold": gold,
            "seen": seen_in_train(one),
            "runs": found,
        }


def _labels(one, rows):
    import torch

    return torch.tensor([row.label for row in rows], dtype=torch.float32 if one.regression else torch.long)


def _order(seed, one, *of):
    """Return the places of the rows of train in an order of its own."""
    import numpy as np
    import torch

    random = np.random.default_rng(derive_seed(seed, one.name, *of))
    return torch.from_numpy(random.permutation(len(one.of("train"))))


def _read(recipe, encodings, rows, layer, kind):
    """Return the representations of rows at a layer, (1, rows, width)."""
    weights, permute = kind
    slots = [[permuted(unit, recipe["seed"]) for unit in row.slots] if permute else row.slots for row in rows]
    return encodings.vectors(weights, slots, [layer])


def run(job: Job) -> None:
    """Do the job of run_probes. What a killed one has finished of is not probed again."""
    import torch

    torch.set_num_threads(job.threads)
    sets, plans = use_sets(job)
    encodings = Encodings(job.inputs.encodings, plans)
    told = [[row.split, row.label, row.words] for one in sets for row in one.rows]
    scratch = job.scratch / digest([digest_of(plans), told])[:16]
    rows: list[Probed] = []
    spoken = time.monotonic()
    for number, one in enumerate(sets, 1):
        path = Path(scratch, f"{one.name}.json")
        if not path.exists():
            write_json(path, list(probe_set(job.recipe, one, encodings)))
        rows += read_json(path)
        if time.monotonic() - spoken > 10 or number == len(sets):
            spoken = time.monotonic()
            logger.info("%d of %d sets are probed", number, len(sets))
    write_jsonl(job.outputs.probes, rows)
    runs = sum(len(row["runs"]) for row in rows)
    job.facts = {"sets": len(sets), "probes": runs, "subfields": sorted({row["subfield"] for row in rows} - {""})}
