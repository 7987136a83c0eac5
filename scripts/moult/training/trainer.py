"""A run of transformers' Trainer: the model, its arguments, and what watches it."""

import functools
import logging
import math
import time
from pathlib import Path

from moult.base.errors import UserError
from moult.base.lean_imports import without, without_deepspeed
from moult.data.videos.frames import Frames
from moult.inference.vision import VISION_TOWER, Vision, auto_class, is_vision_language
from moult.training import launcher
from moult.training import pairs as preference
from moult.training.checkpoints import mark_whole
from moult.training.encoding import collate, collate_pairs, length_of
from moult.training.order import GroupedRows
from moult.weights.agreement import refuse_unfoldable

logger = logging.getLogger(__name__)


def run_trainer(recipe, base, rows, scratch, checkpoint, shown):
    """Train from `checkpoint` (None: from the start) to the end, leaving whole checkpoints in `scratch`.

    `rows` are encoded, by split; `shown` are the datasets whose videos they show. All arguments are plain JSON:
    several processes may run this together.
    """
    with without("datasets", "scipy"):
        import transformers.trainer  # noqa: F401
    import torch
    from transformers import PrinterCallback, Trainer, set_seed
    from transformers.utils.logging import disable_progress_bar

    without_deepspeed()
    disable_progress_bar()
    torch.set_num_threads(recipe["threads"])
    arguments = _arguments(recipe, scratch, selecting=bool(rows["dev"]), starting=checkpoint is None)
    onednn = arguments.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if onednn and recipe["dtype"] == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("this CPU has no bfloat16 arithmetic: dtype float32 would be about 20 times faster")
    set_seed(recipe["seed"])
    trainer_of, collator, score, metrics = Trainer, collate, _score_answers, _dev_metrics
    if "loss" in recipe:
        trainer_of, collator, score = preference.pair_trainer(recipe["loss"]), collate_pairs, None
        metrics = preference.dev_metrics
    elif shown:
        collator = functools.partial(collate, vision=Vision(base, Frames(shown)))
    trainer = trainer_of(
        model=trained_model(recipe, base),
        args=arguments,
        data_collator=collator,
        train_dataset=GroupedRows(
            rows["train"],
            recipe["batch_size"],
            recipe["accumulation"],
            recipe["seed"],
            arguments.world_size,
            mixed=recipe.get("mixed", False),
        ),
        eval_dataset=sorted(rows["dev"], key=length_of, reverse=True),
        preprocess_logits_for_metrics=score,
        compute_metrics=lambda prediction: metrics(prediction.predictions, recipe["selection"]),
        callbacks=[_watch(recipe)],
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
        bf16=_is_mixed(recipe),
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
    # Else one process spreads its batches over all GPUs that it sees: more rows a step than the recipe says.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _is_mixed(recipe):
    """Whether products are in bfloat16 while an optimiser keeps the trained weights in float32.

    All weights train, or ZeRO-3 shards them, which it does in one dtype: small updates of bfloat16 weights would be
    rounded away. One device: float32 weights under autocast, which needs no DeepSpeed; several: its bf16 engine.
    LoRA weights are float32 anyway, beside a frozen base in `dtype`, and autocast would bring their products down.
    """
    return recipe["dtype"] == "bfloat16" and ("lora" not in recipe or recipe.get("zero") == 3)


def _base(recipe, base):
    alone = recipe.get("devices", 1) == 1
    dtype = "float32" if alone and _is_mixed(recipe) else recipe["dtype"]
    return auto_class(base).from_pretrained(base, dtype=dtype, local_files_only=True, use_safetensors=True)


def reference_model(recipe, base):
    """Return the base as the function of inputs that training begins with, its products in the same dtype."""
    import torch

    torch.set_num_threads(recipe["threads"])
    model = _base(recipe, base).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if recipe.get("devices", 1) == 1 and _is_mixed(recipe):
        model.forward = torch.autocast(model.device.type, torch.bfloat16)(model.forward)
    return model


def trained_model(recipe, base):
    """Return the base, whole or under LoRA, ready to train."""
    from peft import LoraConfig, get_peft_model

    model = _base(recipe, base)
    sees = is_vision_language(base)
    if "lora" not in recipe:
        if sees:
            model.get_submodule(f"model.{VISION_TOWER}").requires_grad_(False)
        return model
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe["lora"]["rank"],
        lora_alpha=recipe["lora"]["alpha"],
        lora_dropout=recipe["lora"]["dropout"],
        target_modules=recipe["lora"]["targets"],
        exclude_modules=rf".*\b{VISION_TOWER}\..*" if sees else None,
    )
    try:
        adapted = get_peft_model(model, lora)
    except ValueError as error:
        raise UserError(f"lora.targets {recipe['lora']['targets']} do not fit {recipe['base']}: {error}") from error
    refuse_unfoldable(adapted, base)
    return adapted


def _score_answers(logits, labels):
    """Return (rows, 3): summed negative log-likelihood of the answer, its number of tokens, 1 where all are argmax."""
    import torch

    logps, tokens = preference.answer_logps(logits, labels)
    right = ((logits.argmax(-1) == labels) | (labels == -100)).all(-1)
    return torch.stack([-logps, tokens, right], dim=-1)


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


def _watch(recipe):
    """Return the callback that logs each step, stops a run that diverges or collapses, and marks what has been saved
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
            if "eval_nll" in logs and "collapse" in recipe:
                # The first evaluation is of the base; checkpoints keep it.
                first = next(entry for entry in state.log_history if "eval_nll" in entry)
                preference.refuse_collapse(recipe, state, first["eval_nll"], logs["eval_nll"])
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
                if logs.get("eval_objective") == 0 and state.global_step == 0:
                    logger.warning("held-out pairs are all in order by the margin: raise it, or nothing is learnt")

        def on_save(self, args, state, control, **_):
            args.distributed_state.wait_for_everyone()
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
                mark_whole(checkpoint)

    return Watch()
