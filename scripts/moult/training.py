"""LoRA fine-tuning: a run of transformers' Trainer that may be killed at any moment and then goes on."""

import csv
import logging
import math
import shutil
import time
from pathlib import Path

from moult.errors import UserError
from moult.files import read_json, sha256_file, whole_directory, write_json
from moult.imports import without, without_deepspeed
from moult.prompts import Example, end_of_turn_id, prompt_ids

logger = logging.getLogger(__name__)

# Raise it when the same recipe would now give a different adapter: it retrains every adapter.
VERSION = 1

MARKER = "whole.json"


def finetune_lora(
    recipe: dict, base: Path, train: list[Example], dev: list[Example], scratch: Path, adapter: Path
) -> dict:
    """Train a LoRA adapter on the answers of `train`, write its directory whole, and return its `train.json`.

    The best checkpoint on `dev` is kept, or the last one where `dev` is empty. Checkpoints live in `scratch`, which
    must belong to this recipe and these rows alone; a second call with it goes on from the last whole one.

    Raises:
        UserError: no row of a split fits `max_length`, `lora.targets` names no layer, or the loss is not finite.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows, truncated, dropped = {}, {}, []
    for split, examples in (("train", train), ("dev", dev)):
        rows[split], truncated[split], rejects = encode_examples(tokenizer, examples, recipe["max_length"])
        dropped += [{"split": split} | reject for reject in rejects]
        if not rows[split] and (examples or split == "train"):
            raise UserError(
                f"{split}: none of {len(examples)} rows can be trained on; "
                f"check the data, or raise max_length (now {recipe['max_length']})."
            )

    scratch.mkdir(parents=True, exist_ok=True)
    last = _last_whole_checkpoint(scratch)
    if last is None or not _finished(last):
        _run_trainer(recipe, base, rows, scratch, last)
        last = _last_whole_checkpoint(scratch)
    state = read_json(last / "trainer_state.json")

    curve = _loss_curve(state["log_history"])
    best_step = state["best_global_step"] or state["global_step"]
    best = next((row for row in curve if (row["step"], row["split"]) == (best_step, "dev")), None)
    report = {
        "recipe": recipe,
        "n_train": len(rows["train"]),
        "n_dev": len(rows["dev"]),
        "steps": state["global_step"],
        "best_step": best_step,
        "criterion": recipe["selection"] if dev else "last",
        "dev": best and {"nll": best["loss"], "accuracy": best["accuracy"]},
        "truncated": truncated,
        "dropped": dropped,
        "tokens": state["num_input_tokens_seen"],
    }
    with whole_directory(adapter) as partial:
        tokenizer.save_pretrained(partial)
        checkpoint = scratch / f"checkpoint-{best_step}"
        shutil.copyfile(checkpoint / "adapter_model.safetensors", partial / "adapter_model.safetensors")
        config = read_json(checkpoint / "adapter_config.json")
        # peft writes the path of the base as it was here, and a set in the order of this process.
        config |= {"base_model_name_or_path": recipe["base"], "target_modules": sorted(config["target_modules"])}
        write_json(partial / "adapter_config.json", config)
        write_json(partial / "train.json", report)
        with open(partial / "loss.csv", "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(curve[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(curve)
    return report


def encode_examples(tokenizer, examples, max_length):
    """Return (rows, number of truncated prompts, dropped) for chat examples.

    A row has `input_ids` (prompt, answer, end of turn) and `start`, the index of the answer's first token. A prompt
    that is too long loses its oldest tokens, save a leading BOS that many models lean on; an answer is never cut:
    one that leaves no room for a token of prompt is dropped as {uid, reason}.
    """
    end = end_of_turn_id(tokenizer)
    rows, truncated, dropped = [], 0, []
    for example in examples:
        prompt = prompt_ids(tokenizer, example.messages)
        # Control tokens are spelt out, as in prompts: an answer must not teach the model to end or open a turn.
        answer = tokenizer(example.answer, add_special_tokens=False, split_special_tokens=True)["input_ids"] + [end]
        room = max_length - len(answer)
        if room < 1:
            reason = f"the answer and its end are {len(answer)} tokens, max_length is {max_length}"
            dropped.append({"uid": example.uid, "reason": reason})
            continue
        if len(prompt) > room:
            truncated += 1
            head = [token for token in prompt[:1] if token == tokenizer.bos_token_id]
            prompt = head + prompt[len(prompt) - room + len(head) :]
        rows.append({"input_ids": prompt + answer, "start": len(prompt)})
    return rows, truncated, dropped


def collate(rows):
    """Return a batch (rows, longest row) padded on the right, with the answers as labels.

    `logits_to_keep` names, row by row, the positions that predict the answer, so that the model computes logits
    there alone; `labels`, and `shift_labels` since they need no shift any more, are the tokens to be predicted.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def padded(values, padding):
        return pad_sequence([torch.tensor(value) for value in values], batch_first=True, padding_value=padding)

    labels = padded([row["input_ids"][row["start"] :] for row in rows], -100)
    return {
        "input_ids": padded([row["input_ids"] for row in rows], 0),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "logits_to_keep": padded([range(row["start"] - 1, len(row["input_ids"]) - 1) for row in rows], 0),
        "labels": labels,
        "shift_labels": labels,
    }


class GroupedRows:
    """Rows in an order of their own each epoch, rows of like length side by side.

    The order depends on seed and epoch alone, so that a resumed run meets the same batches; the Trainer's own
    length-grouped sampler draws it from a generator whose state no checkpoint holds.
    """

    def __init__(self, rows, group, seed):
        """Take `group` rows, those of one optimiser step, as the unit that is put together and shuffled."""
        self.rows, self.group, self.seed = rows, group, seed
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Draw the order of an epoch; the data loader calls this."""
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        generator = torch.Generator().manual_seed(self.seed + epoch)
        lengths = [len(row["input_ids"]) for row in self.rows]
        order = get_length_grouped_indices(lengths, self.group, generator=generator)
        # The library runs from long to short within each of a few large blocks, which the loss would follow. The
        # first group keeps its place, it has the longest row and fails early if memory is short; so does the last.
        groups = [order[i : i + self.group] for i in range(0, len(order), self.group)]
        middle = [groups[i + 1] for i in torch.randperm(max(len(groups) - 2, 0), generator=generator)]
        self.order = [index for group in groups[:1] + middle + groups[1:][-1:] for index in group]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[self.order[index]]


def _run_trainer(recipe, base, rows, scratch, checkpoint):
    """Train from `checkpoint` (None: from the start) to the end, leaving whole checkpoints in `scratch`."""
    with without("datasets", "scipy"):
        import transformers.trainer  # noqa: F401
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainingArguments, set_seed
    from transformers.utils.logging import disable_progress_bar

    without_deepspeed()
    disable_progress_bar()
    torch.set_num_threads(recipe["threads"])
    rhythm = "steps" if recipe["evaluate_every"] else "epoch"
    arguments = TrainingArguments(
        output_dir=str(scratch),
        seed=recipe["seed"],
        optim="adamw_torch",
        learning_rate=recipe["learning_rate"],
        num_train_epochs=recipe["epochs"] or 1,
        max_steps=recipe["max_steps"] or -1,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(recipe["schedule"], recipe["schedule"]),
        warmup_steps=recipe["warmup_ratio"],
        weight_decay=recipe["weight_decay"],
        max_grad_norm=recipe["max_grad_norm"],
        per_device_train_batch_size=recipe["batch_size"],
        per_device_eval_batch_size=recipe["batch_size"],
        gradient_accumulation_steps=recipe["accumulation"],
        activation_checkpointing=recipe["gradient_checkpointing"],
        train_sampling_strategy="sequential",  # GroupedRows has the order
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        eval_strategy=rhythm if rows["dev"] else "no",
        eval_steps=recipe["evaluate_every"],
        eval_on_start=bool(rows["dev"]) and checkpoint is None,
        metric_for_best_model="selection" if rows["dev"] else None,
        greater_is_better=True,
        save_strategy=rhythm,
        save_steps=recipe["evaluate_every"] or 500,
        save_total_limit=2,
        disable_tqdm=True,
        report_to=[],
    )
    onednn = arguments.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if onednn and recipe["dtype"] == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("this CPU has no bfloat16 arithmetic: dtype float32 would be about 20 times faster")
    set_seed(recipe["seed"])
    # The frozen base is in `dtype`; peft keeps the LoRA weights and their arithmetic in float32, so that small
    # updates are not rounded away. Autocast would bring LoRA's own products down to bfloat16 and is left off.
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=recipe["dtype"], local_files_only=True, use_safetensors=True
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe["lora"]["rank"],
        lora_alpha=recipe["lora"]["alpha"],
        lora_dropout=recipe["lora"]["dropout"],
        target_modules=recipe["lora"]["targets"],
    )
    try:
        model = get_peft_model(model, lora)
    except ValueError as error:
        raise UserError(f"lora.targets {recipe['lora']['targets']} do not fit {recipe['base']}: {error}") from error
    group = recipe["batch_size"] * recipe["accumulation"] * arguments.world_size
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=GroupedRows(rows["train"], group, recipe["seed"]),
        eval_dataset=sorted(rows["dev"], key=lambda row: len(row["input_ids"]), reverse=True),
        preprocess_logits_for_metrics=_score_answers,
        compute_metrics=lambda prediction: _dev_metrics(prediction.predictions, recipe["selection"]),
        callbacks=[_watch()],
    )
    trainer.remove_callback(PrinterCallback)
    logger.info("ready: training on %d rows, %d for selection", len(rows["train"]), len(rows["dev"]))
    if checkpoint:
        logger.info("resuming after %s", checkpoint.name)
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))


def _score_answers(logits, labels):
    """Return (rows, 3): summed negative log-likelihood of the answer, its number of tokens, 1 where all are argmax."""
    import torch

    counted = labels != -100
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
    right = ((logits.argmax(-1) == labels) | ~counted).all(-1)
    return torch.stack([losses.sum(-1), counted.sum(-1), right], dim=-1)


def _dev_metrics(scores, selection):
    """Return mean NLL of an answer token, accuracy of whole answers, and the number by which checkpoints compete."""
    losses, tokens, right = scores.astype("float64").sum(axis=0)
    nll = losses / tokens
    # Of two checkpoints with as many right answers the likelier one wins: the fraction stays below one answer.
    by_accuracy = right - nll / (1 + nll)
    return {
        "nll": nll,
        "accuracy": right / len(scores),
        "selection": by_accuracy if selection == "accuracy" else -nll,
    }


def _watch():
    """Return the callback that logs each step, stops a run that diverges, and marks what has been saved whole."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        start = None

        def on_step_begin(self, args, state, control, **_):
            self.start = self.start or (time.monotonic(), state.global_step, state.num_input_tokens_seen)

        def on_log(self, args, state, control, logs, **_):
            for name in ("loss", "grad_norm", "eval_nll"):
                if not math.isfinite(logs.get(name, 0)):
                    raise UserError(
                        f"training diverged at step {state.global_step}: {name} is {logs[name]}; "
                        f"lower learning_rate (now {args.learning_rate}) or raise warmup_ratio."
                    )
            if not state.is_world_process_zero:
                return
            place = f"step {state.global_step} of {state.max_steps}"
            if "loss" in logs:
                began, step, tokens = self.start
                seconds = time.monotonic() - began
                logger.info(
                    "%s: loss %.4f, learning rate %.2e, %.0f tokens/s, %.0f s left",
                    place,
                    logs["loss"],
                    logs["learning_rate"],
                    (state.num_input_tokens_seen - tokens) / seconds,
                    seconds / (state.global_step - step) * (state.max_steps - state.global_step),
                )
            elif "eval_nll" in logs:
                logger.info("%s: dev nll %.4f, accuracy %.4f", place, logs["eval_nll"], logs["eval_accuracy"])

        def on_save(self, args, state, control, **_):
            args.distributed_state.wait_for_everyone()
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
                write_json(checkpoint / MARKER, _listing(checkpoint))

    return Watch()


def _last_whole_checkpoint(scratch):
    """Delete checkpoints that were not saved whole, or whose best one is gone; return the last, None if none is left.

    A kill during a save leaves a directory that looks like a checkpoint; only its marker, written last, tells.
    """
    whole = {}
    for path in sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        try:
            sound = read_json(path / MARKER) == _listing(path)
            best_step = read_json(path / "trainer_state.json")["best_global_step"] if sound else None
        except UserError:
            sound = False
        whole[path.name] = path
        if not sound or (best_step and f"checkpoint-{best_step}" not in whole):
            logger.warning("%s was not saved whole: deleted", path.name)
            shutil.rmtree(whole.pop(path.name))
    return list(whole.values())[-1] if whole else None


def _listing(checkpoint):
    """Return size and hash of each file of a checkpoint but its marker."""
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARKER)
    return {
        path.relative_to(checkpoint).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }


def _finished(checkpoint):
    """Whether training had reached its last step when this checkpoint was saved."""
    state = read_json(checkpoint / "trainer_state.json")
    return state["global_step"] >= state["max_steps"]


def _loss_curve(history):
    """Return one row for each training step and each evaluation of a Trainer's log."""
    curve = []
    for entry in history:
        if "loss" in entry:
            split, loss, accuracy = "train", entry["loss"], None
        elif "eval_nll" in entry:
            split, loss, accuracy = "dev", entry["eval_nll"], entry["eval_accuracy"]
        else:
            continue
        curve.append(
            {
                "step": entry["step"],
                "split": split,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": entry.get("learning_rate"),
            }
        )
    return curve
