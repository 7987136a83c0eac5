"""Encodings: a frozen model's hidden states, averaged over each unit of probing sets, once per text.

They are written in shards, each whole or not at all, so that a killed job goes on behind its last one. Which unit lies
in which shard follows from the sets and the recipe alone.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moult.base.errors import UserError
from moult.base.files import digest, read_json, whole_directory, whole_file, write_json
from moult.base.lean_imports import hide_compiler, hide_packages
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.evaluation.probing.sets import ProbeSet, files_below, names_below, read_set
from moult.evaluation.probing.units import Unit, frame_of, permuted, read_text, weights_of
from moult.weights.agreement import check_parts

if TYPE_CHECKING:
    import torch

# Raise when the same model and the same sets would now be encoded otherwise.
VERSION = 1
# Bytes of a shard, and units: what a killed job loses at most, and what is in memory of encodings while they are made.
SHARD_BYTES, SHARD_UNITS = 32_000_000, 1024
# Weights that units are encoded with: those of the model, and random ones of its shape.
TRAINED, RANDOM = "trained", "random"
INDEX = "index.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is encoded with one set of weights, in order: units of the same texts stand together."""

    weights: str
    units: tuple[Unit, ...]

    def readings(self) -> list[tuple[Unit, ...]]:
        """Return the units of each text, or of each two texts that are read together."""
        found: dict[tuple[str, ...], list[Unit]] = {}
        for unit in self.units:
            found.setdefault(unit.texts, []).append(unit)
        return [tuple(units) for units in found.values()]


def plans_of(sets: Iterable[ProbeSet], controls: Sequence[str], seed: int) -> dict[str, Plan]:
    """Return weights → what they encode: every unit once, however many rows, sets and probes ask for it.

    Texts stand by the first set that has them, and the longest of it first, since what needs too much memory is to
    fail at once.
    """
    found: dict[str, dict[tuple[str, ...], dict[Unit, None]]] = {TRAINED: {}, RANDOM: {}}

    def add(weights, units):
        own: dict[tuple[str, ...], dict[Unit, None]] = {}
        for unit in units:
            texts = found[weights]
            (texts if unit.texts in texts else own).setdefault(unit.texts, {})[unit] = None
        found[weights] |= {key: own[key] for key in sorted(own, key=lambda texts: (-sum(map(len, texts)), texts))}

    for one in sets:
        units = [unit for row in one.rows for unit in row.slots]
        add(TRAINED, units)
        if "permutation" in controls:
            add(TRAINED, [permuted(unit, seed) for unit in units])
        if "random_weights" in controls:
            add(RANDOM, units)
    plans = {
        weights: Plan(weights, tuple(unit for units in texts.values() for unit in units))
        for weights, texts in found.items()
    }
    return {weights: plan for weights, plan in plans.items() if plan.units}


class Reader:
    """A frozen model that turns units into vectors.

    layers: those wanted, 0 for the embeddings, negative ones from the end, or `all`.
    """

    def __init__(
        self, folder: Path, dtype: str, layers: Sequence[int] | str, special: bool, seed: int | None = None
    ) -> None:
        """seed: of random weights in the model's shape; None for those of the model."""
        import torch

        with hide_packages("scipy", "torch_distributed"), hide_compiler():
            import transformers.masking_utils
            import transformers.modeling_utils
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        check_parts(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.frame, self.special = frame_of(self.tokenizer), special
        transformers.logging.disable_progress_bar()
        # That the head has no place in what is probed is no news.
        transformers.logging.set_verbosity_error()
        with hide_compiler():
            if seed is None:
                model = AutoModel.from_pretrained(
                    folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
                )
            else:
                torch.manual_seed(seed)
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                model = AutoModel.from_config(config, dtype=getattr(torch, dtype))
        model.config.use_cache = False
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        config = model.config.get_text_config()
        declared = getattr(config, "max_position_embeddings", None) or math.inf
        self.limit = min(declared, getattr(self.tokenizer, "model_max_length", None) or math.inf)
        self.layers = _resolved(layers, config.num_hidden_layers)
        self.width = config.hidden_size
        self.counts = {"texts": 0, "tokens": 0, "cut": 0, "without_token": 0}

    def encode(self, readings: Sequence[Sequence[Unit]]) -> torch.Tensor:
        """Return the vectors of units in their order, (units, layers, width), float32 on the CPU.

        readings: units of the same texts, a batch of them.
        """
        import torch

        read = [read_text(self.tokenizer, self.frame, units[0].texts, self.limit) for units in readings]
        length = max(1, *(len(one.ids) for one in read))
        ids = torch.zeros(len(read), length, dtype=torch.long)
        mask = torch.zeros(len(read), length, dtype=torch.long)
        weights = torch.zeros(len(read), max(map(len, readings)), length)
        for row, (units, one) in enumerate(zip(readings, read, strict=True)):
            # A text of which a tokenizer leaves nothing is one token.
            size = max(1, len(one.ids))
            ids[row, :size], mask[row, :size] = torch.tensor(one.ids or [0]), 1
            self.counts["texts"] += 1
            self.counts["tokens"] += len(one.ids)
            self.counts["cut"] += bool(one.cut)
            for place, unit in enumerate(units):
                told, lost = weights_of(unit, one, self.special) if one.ids else ([1.0], len(unit.elements))
                weights[row, place, : len(told)] = torch.tensor(told)
                self.counts["without_token"] += lost
        device = self.model.device
        with torch.inference_mode():
            states = self.model(
                input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True
            ).hidden_states
            weights = weights.to(device)
            found = torch.stack([weights @ states[layer].float() for layer in self.layers], dim=2).cpu()
        return torch.cat([found[row, : len(units)] for row, units in enumerate(readings)])


def _resolved(layers, most):
    """Return the places of layers among the hidden states, 0 for the embeddings."""
    if layers == "all":
        return list(range(most + 1))
    for layer in layers:
        if not -most - 1 <= layer <= most:
            raise UserError(
                f"layers: the model has layers 0 to {most} (or -1 to {-most - 1}), not {layer}; name others."
            )
    return list(dict.fromkeys(layer % (most + 1) for layer in layers))


def shards_of(plan: Plan, batch_size: int, per_shard: int) -> Iterator[list[tuple[Unit, ...]]]:
    """Yield the readings of each shard: whole batches, as many as it takes to have `per_shard` units."""
    readings, shard, count = plan.readings(), [], 0
    for start in range(0, len(readings), batch_size):
        batch = readings[start : start + batch_size]
        shard += batch
        count += sum(map(len, batch))
        if count >= per_shard:
            yield shard
            shard, count = [], 0
    if shard:
        yield shard


def encode_plan(reader: Reader, plan: Plan, folder: Path, batch_size: int, dtype: str) -> int:
    """Write the shards of a plan that are not there yet; return how many were.

    dtype: in which vectors are kept, float32 or float16.
    """
    import torch
    from safetensors.torch import save

    size = len(reader.layers) * reader.width * (4 if dtype == "float32" else 2)
    per_shard = min(SHARD_UNITS, max(1, SHARD_BYTES // size))
    shards = list(shards_of(plan, batch_size, per_shard))
    there, begun, spoken = 0, time.monotonic(), time.monotonic()
    for number, shard in enumerate(shards):
        path = folder / f"{number:05d}.safetensors"
        if path.exists():
            there += 1
            continue
        batches = [shard[start : start + batch_size] for start in range(0, len(shard), batch_size)]
        vectors = torch.cat([reader.encode(batch) for batch in batches]).to(getattr(torch, dtype))
        if not torch.isfinite(vectors).all():
            remedy = "keep them in float32" if dtype == "float16" else "the model is damaged, make it again"
            raise UserError(f"{plan.weights} weights: hidden states are not finite numbers in {dtype}; {remedy}.")
        with whole_file(path, "wb") as handle:
            handle.write(save({"vectors": vectors}))
        if time.monotonic() - spoken > 10 or number == len(shards) - 1:
            spoken = time.monotonic()
            logger.info("%s weights: %d of %d shards, %.0f s", plan.weights, number + 1, len(shards), spoken - begun)
    return there


class Encodings:
    """Vectors of units in a folder that `encode_probes` made."""

    def __init__(self, folder: str | Path, plans: dict[str, Plan]) -> None:
        self.folder, index = Path(folder), read_json(Path(folder, INDEX))
        self.layers, self.width = index["layers"], index["width"]
        if index["plan"] != digest_of(plans):
            raise UserError(f"{folder}: holds encodings of other rows than the sets have now; delete it and run again.")
        self.place: dict[str, dict[Unit, tuple[int, int]]] = {}
        for weights, plan in plans.items():
            shards = shards_of(plan, index["batch_size"], index["per_shard"])
            self.place[weights] = {
                unit: (shard, row)
                for shard, readings in enumerate(shards)
                for row, unit in enumerate(unit for units in readings for unit in units)
            }

    def vectors(self, weights: str, slots: Sequence[Sequence[Unit]], layers: Sequence[int]) -> torch.Tensor:
        """Return what a probe reads of rows, (layers, rows, slots · width) in float32, a shard in memory at a time.

        slots: the units of each row. layers: places in `self.layers`.
        """
        import torch
        from safetensors import safe_open

        found = torch.empty(len(layers), len(slots), len(slots[0]), self.width)
        wanted: dict[int, list[tuple[int, int, int]]] = {}
        for row, units in enumerate(slots):
            for slot, unit in enumerate(units):
                shard, at = self.place[weights][unit]
                wanted.setdefault(shard, []).append((row, slot, at))
        for shard, places in sorted(wanted.items()):
            rows, at_slot, at = (torch.tensor(column) for column in zip(*places, strict=True))
            with safe_open(self.folder / weights / f"{shard:05d}.safetensors", framework="pt") as kept:
                for place, layer in enumerate(layers):
                    # Of all layers that are kept, this one is read.
                    vectors = kept.get_slice("vectors")[:, layer : layer + 1]
                    found[place, rows, at_slot] = vectors[at, 0].float()
        return found.flatten(2)


def digest_of(plans: dict[str, Plan]) -> str:
    """Return a digest of all units and their order."""
    return digest({weights: [[unit.texts, unit.elements] for unit in plan.units] for weights, plan in plans.items()})


def plans_for(recipe: Recipe, folders: Iterable[str | Path]) -> tuple[list[ProbeSet], dict[str, Plan]]:
    """Return the sets of a job and what is encoded of them. recipe: sets, controls, seed."""
    found = names_below(folders)
    names = recipe["sets"] or list(found)
    if missing := [name for name in names if name not in found]:
        raise UserError(f"sets: none of the folders has {missing[0]!r}; there is {', '.join(sorted(found)[:20])}.")
    sets = [read_set(found[name]) for name in names]
    if recipe["limit"]:
        sets = [one.cut(recipe["limit"]) for one in sets]
    return sets, plans_of(sets, recipe["controls"], recipe["seed"])


def use_sets(job: Job) -> tuple[list[ProbeSet], dict[str, Plan]]:
    """Return what `plans_for` does of the folders of a job, and note what was read of them."""
    job.used = {str(folder): files_below(folder) for folder in job.inputs.sets}
    return plans_for(job.recipe, job.inputs.sets)


def run(job: Job) -> None:
    """Do the job of encode_probes."""
    import torch

    torch.set_num_threads(job.threads)
    recipe = job.recipe
    sets, plans = use_sets(job)
    compute = recipe["compute"]
    facts: dict[str, Any] = {"sets": len(sets), "rows": sum(len(one.rows) for one in sets)}
    told = digest_of(plans)
    # What is in the folders of sets is in no recipe.
    scratch = job.scratch / told[:16]
    for weights, plan in plans.items():
        seed = recipe["seed"] if weights == RANDOM else None
        reader = Reader(Path(job.inputs.model), compute["dtype"], recipe["layers"], recipe["special_tokens"], seed)
        there = encode_plan(reader, plan, scratch / weights, compute["batch_size"], recipe["dtype"])
        if there:
            logger.info("%s weights: %d shards were there", weights, there)
        facts[weights] = {"units": len(plan.units)} | reader.counts
        size = len(reader.layers) * reader.width * (4 if recipe["dtype"] == "float32" else 2)
        index = {"layers": reader.layers, "width": reader.width, "batch_size": compute["batch_size"]}
        index |= {"per_shard": min(SHARD_UNITS, max(1, SHARD_BYTES // size)), "plan": told}
        facts["bytes"] = facts.get("bytes", 0) + size * len(plan.units)
        del reader
    with whole_directory(job.outputs.encodings) as folder:
        for weights in plans:
            shutil.copytree(scratch / weights, folder / weights)
        write_json(folder / INDEX, index)
    job.facts = facts | {key: index[key] for key in ("layers", "width")}
