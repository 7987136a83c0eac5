"""Train an adapter or all weights, on examples or preference pairs; a killed training resumes."""

import csv
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json, whole_directory, write_json
from moult.base.reasons import in_words
from moult.base.stage import Job
from moult.data.prompts import Example, videos_of
from moult.training import launcher
from moult.training.checkpoints import finished, last_whole, refuse_empty, save_like
from moult.training.model import trained_model
from moult.training.pairs import Pair
from moult.training.tasks import read_rows, task_of
from moult.training.trainer import run_trainer
from moult.weights.card import write_model_card
from moult.weights.headers import OTHER_FILES, copy_files

logger = logging.getLogger(__name__)
# Raise it when the same recipe would now give a different adapter or model: it retrains every one.
VERSION = 1


def finetune_lora(
    recipe: dict,
    base: Path,
    train: list[Example | Pair],
    dev: list[Example | Pair],
    scratch: Path,
    adapter: Path,
    data: Sequence[str | Path] = (),
) -> dict:
    """Train a LoRA adapter on the answers of `train`, write its directory whole, and return its report.

    A recipe with a `loss` (see `moult.objectives`) trains on pairs, and stops when the perplexity of the chosen
    answers of `dev` is more than `collapse` times that under the base; any other trains on examples. The report stands
    in `train.json`, with the recipe.

    The best checkpoint on `dev` is kept, or the last one where `dev` is empty. Checkpoints live in `scratch`, which
    must belong to this recipe and these rows alone; a second call with it goes on from the last whole one. Examples
    that show videos find their frames in the prepared datasets `data`; the vision tower stays frozen. Where there is no
    row and the recipe says `may_be_empty`, the adapter changes nothing: its B is 0, as before the first step.

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
    train: list[Example | Pair],
    dev: list[Example | Pair],
    scratch: Path,
    model: Path,
    data: Sequence[str | Path] = (),
) -> dict:
    """Train every weight of the base's language model, write its directory whole, and return its report.

    As `finetune_lora`; the weights are rounded once, to the dtype that the base is stored in, in the base's shards.
    """

    def save(checkpoint, folder):
        save_like(base, checkpoint, folder)
        copy_files(Path(base), folder, OTHER_FILES)

    return _finetune(recipe, base, train, dev, scratch, model, save, data)


def _finetune(recipe, base, train, dev, scratch, target, save, data):
    """Train, then write `target`: what `save(checkpoint, folder)` takes from the best checkpoint, and the report."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    shown = [str(folder) for folder in data] if any(videos_of(one.messages) for one in [*train, *dev]) else []
    task = task_of(recipe, base, shown)
    rows, truncated, dropped = {}, {}, []
    for split, examples in (("train", train), ("dev", dev)):
        rows[split], truncated[split], rejects = task.encode(tokenizer, examples)
        dropped += [{"split": split} | reject for reject in rejects]
        if not rows[split] and (examples or split == "train"):
            raise UserError(
                f"{split}: none of {len(examples)} rows can be trained on; "
                f"check the data, or raise max_length (now {recipe['max_length']})."
            )

    scratch.mkdir(parents=True, exist_ok=True)
    last = last_whole(scratch)
    if last is None or not finished(last):
        rows = task.prepare(rows, scratch)
        rhythm = {"evaluate_every": task.evaluate_every(len(rows["train"]))}
        work = {"recipe": recipe | rhythm, "base": str(base), "rows": rows, "scratch": str(scratch)}
        work["checkpoint"] = last and str(last)
        if recipe.get("devices", 1) == 1:
            run_trainer(task, **work)
        else:
            launcher.train_together(recipe["devices"], work | {"shown": shown}, scratch)
        last = last_whole(scratch)
    state = read_json(last / "trainer_state.json")

    curve = _loss_curve(state["log_history"], task)
    best_step = state["best_global_step"] or state["global_step"]
    best = next((row for row in curve if (row["step"], row["split"]) == (best_step, "dev")), None)
    report = {
        "n_train": len(rows["train"]),
        "n_dev": len(rows["dev"]),
        "steps": state["global_step"],
        "best_step": best_step,
        "criterion": recipe["selection"] if dev else "last",
        "dev": best and task.dev_facts(best),
        "truncated": truncated,
        "dropped": dropped,
        "tokens": state["num_input_tokens_seen"],
    } | task.facts(curve)
    _write(task, target, tokenizer, lambda partial: save(scratch / f"checkpoint-{best_step}", partial), report, curve)
    return report


def _write(task, target, tokenizer, save, report, curve):
    with whole_directory(target) as partial:
        tokenizer.save_pretrained(partial)
        save(partial)
        write_json(partial / "train.json", {"recipe": task.recipe} | report)
        with open(partial / "loss.csv", "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, task.columns, lineterminator="\n")
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
    report = {"n_train": 0, "n_dev": 0, "steps": 0, "best_step": 0, "criterion": "last", "dev": None}
    report |= {"truncated": none, "dropped": [], "tokens": 0}
    tokenizer = AutoTokenizer.from_pretrained(base)
    _write(task_of(recipe, base), target, tokenizer, lambda partial: save(start, partial), report, [])
    return report


def _loss_curve(history, task):
    """Return one row of the task's columns for each training step and each evaluation of a Trainer's log."""
    curve = []
    for entry in history:
        if "loss" in entry:
            found = {name: entry.get(name) for name in task.columns} | {"split": "train"}
        elif "eval_nll" in entry:
            found = {name: entry.get(f"eval_{name}") for name in task.columns}
            found |= {"split": "dev", "loss": entry[f"eval_{task.measured}"]}
        else:
            continue
        curve.append(found | {"step": entry["step"]})
    return curve


def run(job: Job) -> None:
    """Do the job of one of the rules that train."""
    recipe, inputs = job.recipe, job.inputs
    train, dev, dropped = read_rows(recipe, inputs.data)
    work = (recipe, inputs.base, train, dev, job.scratch)
    if "lora" in recipe:
        facts = finetune_lora(*work, job.outputs.adapter, inputs.data)
    else:
        facts = finetune_full(*work, job.outputs.model, inputs.data)
        write_model_card(job.outputs.model, job.card({}))
    job.facts = facts | {"dropped": dropped + facts["dropped"]}
    if lost := job.facts["dropped"]:
        logger.warning("%d rows are not trained on: %s", len(lost), in_words(row["reason"] for row in lost))
