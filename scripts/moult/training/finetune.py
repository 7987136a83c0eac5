"""Training, LoRA or full, on examples or on preference pairs, that may be killed at any moment and then goes on."""

import csv
import functools
import logging
import math
import shutil
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json, whole_directory, write_json
from moult.data.prompts import Example, videos_of
from moult.data.videos.frames import Frames
from moult.inference.vision import Vision
from moult.training import launcher
from moult.training import pairs as preference
from moult.training.checkpoints import finished, last_whole, refuse_empty, save_like
from moult.training.encoding import encode_examples, encode_pairs
from moult.training.trainer import reference_model, run_trainer, trained_model
from moult.weights.headers import OTHER_FILES, copy_files

logger = logging.getLogger(__name__)
# Raise it when the same recipe would now give a different adapter or model: it retrains every one.
VERSION = 1
# Columns of loss.csv; those of pairs have `nll` too.
CURVE = ["step", "split", "loss", "accuracy", "learning_rate"]
# Evaluations of a run on pairs, where the recipe does not say how often: what collapses is to be seen in time.
LOOKS = 10


def finetune_lora(
    recipe: dict,
    base: Path,
    train: list[Example | preference.Pair],
    dev: list[Example | preference.Pair],
    scratch: Path,
    adapter: Path,
    data=(),
) -> dict:
    """Train a LoRA adapter on the answers of `train`, write its directory whole, and return its `train.json`.

    A recipe with a `loss` (see `preference.pair_losses`) trains on pairs, and stops when the perplexity of the chosen
    answers of `dev` is more than `collapse` times that under the base; any other trains on examples.

    The best checkpoint on `dev` is kept, or the last one where `dev` is empty. Checkpoints live in `scratch`, which
    must belong to this recipe and these rows alone; a second call with it goes on from the last whole one. Examples
    that show videos find their frames in the prepared datasets `data`; what sees in the model stays as it is. Without
    a row, where the recipe says `may_be_empty`, the adapter is one that changes nothing: its B is 0, as at every start.

    Raises:
        UserError: no row of a split fits `max_length`, `lora.targets` names no layer, the loss is not finite, or the
            model collapses.
    """

    def save(checkpoint, folder):
        refuse_empty(checkpoint / "adapter_model.safetensors")
        shutil.copyfile(checkpoint / "adapter_model.safetensors", folder / "adapter_model.safetensors")
        config = read_json(checkpoint / "adapter_config.json")
        # peft writes the path of the base as it was here, and a set in the order of this process.
        config |= {"base_model_name_or_path": recipe["base"], "target_modules": sorted(config["target_modules"])}
        write_json(folder / "adapter_config.json", config)

    if not train and recipe.get("may_be_empty"):
        return _untrained(recipe, base, scratch, adapter, save)
    return _finetune(recipe, base, train, dev, scratch, adapter, save, data)


def finetune_full(
    recipe: dict,
    base: Path,
    train: list[Example | preference.Pair],
    dev: list[Example | preference.Pair],
    scratch: Path,
    model: Path,
    data=(),
) -> dict:
    """Train every weight of the base's language model, write its directory whole, and return its `train.json`.

    As `finetune_lora`; the weights are rounded once, to the dtype that the base is stored in, in the base's shards.
    """

    def save(checkpoint, folder):
        save_like(base, checkpoint, folder)
        copy_files(Path(base), folder, OTHER_FILES)

    return _finetune(recipe, base, train, dev, scratch, model, save, data)


def _finetune(recipe, base, train, dev, scratch, target, save, data):
    """Train, then write `target`: what `save(checkpoint, folder)` takes from the best checkpoint, and the report."""
    from transformers import AutoTokenizer

    tokenizer, pairwise = AutoTokenizer.from_pretrained(base), "loss" in recipe
    shown = [str(folder) for folder in data] if any(videos_of(one.messages) for one in [*train, *dev]) else []
    vision = Vision(base, Frames(shown)) if shown else None
    encode = encode_pairs if pairwise else functools.partial(encode_examples, vision=vision)
    rows, truncated, dropped = {}, {}, []
    for split, examples in (("train", train), ("dev", dev)):
        rows[split], truncated[split], rejects = encode(tokenizer, examples, recipe["max_length"])
        dropped += [{"split": split} | reject for reject in rejects]
        if not rows[split] and (examples or split == "train"):
            raise UserError(
                f"{split}: none of {len(examples)} rows can be trained on; "
                f"check the data, or raise max_length (now {recipe['max_length']})."
            )

    scratch.mkdir(parents=True, exist_ok=True)
    last = last_whole(scratch)
    if last is None or not finished(last):
        if pairwise and recipe["loss"]["kind"] == "dpo":
            load = functools.partial(reference_model, recipe, base)
            rows = preference.with_reference(rows, load, recipe["batch_size"], scratch / "reference.json")
        work = {"recipe": recipe, "base": str(base), "rows": rows, "scratch": str(scratch), "shown": shown}
        if pairwise and not recipe["evaluate_every"]:
            work["recipe"] = recipe | {"evaluate_every": max(1, _steps(recipe, len(rows["train"])) // LOOKS)}
        work["checkpoint"] = last and str(last)
        if recipe.get("devices", 1) == 1:
            run_trainer(**work)
        else:
            launcher.train_together(recipe["devices"], work, scratch)
        last = last_whole(scratch)
    state = read_json(last / "trainer_state.json")

    curve = _loss_curve(state["log_history"], pairwise)
    best_step = state["best_global_step"] or state["global_step"]
    best = next((row for row in curve if (row["step"], row["split"]) == (best_step, "dev")), None)
    report = {
        "recipe": recipe,
        "n_train": len(rows["train"]),
        "n_dev": len(rows["dev"]),
        "steps": state["global_step"],
        "best_step": best_step,
        "criterion": recipe["selection"] if dev else "last",
        "dev": best and _dev_facts(best),
        "truncated": truncated,
        "dropped": dropped,
        "tokens": state["num_input_tokens_seen"],
    } | ({"dev_before": _dev_facts(curve[0])} if pairwise else {})
    _write(target, tokenizer, lambda partial: save(scratch / f"checkpoint-{best_step}", partial), report, curve)
    return report


def _write(target, tokenizer, save, report, curve):
    with whole_directory(target) as partial:
        tokenizer.save_pretrained(partial)
        save(partial)
        write_json(partial / "train.json", report)
        with open(partial / "loss.csv", "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(curve[0]) if curve else CURVE, lineterminator="\n")
            writer.writeheader()
            writer.writerows(curve)


def _untrained(recipe, base, scratch, target, save):
    """Write an adapter as it is before its first step, and return its report."""
    from transformers import AutoTokenizer, set_seed

    set_seed(recipe["seed"])
    start = scratch / "checkpoint-0"
    trained_model(recipe, base).save_pretrained(start)
    logger.warning("no row to train on: the adapter changes nothing")
    none = {"train": 0, "dev": 0}
    report = {"recipe": recipe, "n_train": 0, "n_dev": 0, "steps": 0, "best_step": 0, "criterion": "last", "dev": None}
    report |= {"truncated": none, "dropped": [], "tokens": 0}
    _write(target, AutoTokenizer.from_pretrained(base), lambda partial: save(start, partial), report, [])
    return report


def _dev_facts(row):
    """Return what an evaluation of the loss curve says; `nll` is of a token, of pairs that of the chosen answers."""
    if "nll" in row:
        return {"loss": row["loss"], "nll": row["nll"], "accuracy": row["accuracy"]}
    return {"nll": row["loss"], "accuracy": row["accuracy"]}


def _steps(recipe, rows):
    """Return the optimiser steps of a run on so many rows."""
    each = recipe["batch_size"] * recipe["accumulation"] * recipe.get("devices", 1)
    return recipe["max_steps"] or math.ceil((recipe["epochs"] or 1) * math.ceil(rows / each))


def _loss_curve(history, pairwise):
    """Return one row for each training step and each evaluation of a Trainer's log; of pairs with their `nll`."""
    curve = []
    for entry in history:
        if "loss" in entry:
            split, loss, accuracy = "train", entry["loss"], None
        elif "eval_nll" in entry:
            split, loss, accuracy = "dev", entry.get("eval_objective", entry["eval_nll"]), entry["eval_accuracy"]
        else:
            continue
        of_pairs = {"nll": entry.get("eval_nll")} if pairwise else {}
        curve.append(
            {
                "step": entry["step"],
                "split": split,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": entry.get("learning_rate"),
                **of_pairs,
            }
        )
    return curve
