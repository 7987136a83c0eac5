"""A run of transformers' Trainer: the model, its arguments, and what watches it."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moult.base.errors import UserError
from moult.base.lean_imports import hide_deepspeed, hide_packages
from moult.base.rows import Recipe
from moult.training import launcher
from moult.training.checkpoints import mark_whole
from moult.training.encoding import Encoded, length_of
from moult.training.model import is_mixed, trained_model
from moult.training.order import GroupedRows

if TYPE_CHECKING:
    from moult.training.tasks import Task


logger = logging.getLogger(__name__)


def run_trainer(
    task: Task, recipe: Recipe, base: str | Path, rows: dict[str, list[Encoded]], scratch: str, checkpoint: str | None
) -> None:
    """Train from `checkpoint` (None: from the start) to the end, leaving whole checkpoints in `scratch`.

    `rows` are encoded by the task (see `tasks.task_of`), by split. All other arguments are plain JSON: several
    processes may run this together.
    """
    with hide_packages("datasets", "scipy"):
        import transformers.trainer  # noqa: F401
    import torch
    from transformers import PrinterCallback, set_seed
    from transformers.utils.logging import disable_progress_bar

    hide_deepspeed()
    disable_progress_bar()
    torch.set_num_threads(recipe["threads"])
    arguments = _arguments(recipe, scratch, selecting=bool(rows["dev"]), starting=checkpoint is None)
    onednn = arguments.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if onednn and recipe["dtype"] == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("this CPU has no bfloat16 arithmetic: dtype float32 would be about 20 times faster")
    set_seed(recipe["seed"])
    trainer = task.trainer()(
        model=trained_model(recipe, base),
        args=arguments,
        data_collator=task.collate,
        train_dataset=GroupedRows(
            rows["train"],
            recipe["batch_size"],
            recipe["accumulation"],
            recipe["seed"],
            arguments.world_size,
            mixed=recipe.get("mixed", False),
        ),
        eval_dataset=sorted(rows["dev"], key=length_of, reverse=True),
        preprocess_logits_for_metrics=task.score,
        compute_metrics=lambda prediction: task.metrics(prediction.predictions),
        callbacks=[_watch(task)],
    )
    trainer.remove_callback(PrinterCallback)
    logger.info("ready: training on %d rows, %d for selection", len(rows["train"]), len(rows["dev"]))
    if checkpoint:
        logger.info("resuming after %s", Path(checkpoint).name)
    trainer.train(resume_from_checkpoint=checkpoint)


def _arguments(recipe, scratch, selecting, starting):
    """Return the TrainingArguments of a recipe; `selecting`: there are dev rows; `starting`: not resumed."""
    import torch
    from transformers import TrainingArguments

    rhythm = "steps" if recipe["evaluate_every"] else "epoch"
    arguments = TrainingArguments(
        output_dir=scratch,
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
        use_cpu=not torch.cuda.is_available(),
        bf16=is_mixed(recipe),
        deepspeed=launcher.deepspeed_settings(recipe["zero"]) if recipe.get("devices", 1) > 1 else None,
        train_sampling_strategy="sequential",  # GroupedRows has the order
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        eval_strategy=rhythm if selecting else "no",
        eval_steps=recipe["evaluate_every"],
        eval_on_start=selecting and starting,
        metric_for_best_model="selection" if selecting else None,
        greater_is_better=True,
        save_strategy=rhythm,
        save_steps=recipe["evaluate_every"] or 500,
        save_total_limit=2,
        disable_tqdm=True,
        report_to=[],
    )
    # Else one process spreads its batches over all GPUs that it sees: more rows per step than the recipe says.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _watch(task):
    """Return the callback that logs each step, stops a run that diverges, and marks what has been saved
    whole."""
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
            if "eval_nll" in logs:
                # The first evaluation is of the base; checkpoints keep it.
                task.watch(state, next(entry for entry in state.log_history if "eval_nll" in entry), logs)
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
                mark_whole(checkpoint)

    return Watch()
