"""The task of learning preferences. All answers to a prompt are one row until the collator puts them into one batch, so
that no shuffle can part them."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moult.base.errors import UserError
from moult.base.files import read_json, write_json
from moult.base.rows import Dropped, Facts, Recipe
from moult.inference.engines.base import free_memory
from moult.objectives import loss_of
from moult.objectives.base import Loss
from moult.training.encoding import Encoded, answer_logps, collate_pairs, encode_pairs, length_of
from moult.training.model import reference_model
from moult.training.pairs import Pair, read_pairs

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerState


# Evaluations of a run, where the recipe does not say how often: what collapses is to be seen in time.
EVALUATIONS = 10
# What a batch holds for the loss alone.
NOT_THE_MODELS = ("labels", "shift_labels", "targets", "preferred", "reference")
logger = logging.getLogger(__name__)


class Preferences:
    """Training on preferences by the loss of a recipe; the methods are those of `supervised.Supervised`."""

    columns = ("step", "split", "loss", "accuracy", "learning_rate", "nll")
    measured = "objective"
    score = None

    def __init__(self, recipe: Recipe, base: str | Path) -> None:
        self.recipe, self.base, self.loss = recipe, base, loss_of(recipe["loss"])

    @staticmethod
    def read(recipe: Recipe, paths: Sequence[str | Path]) -> tuple[list[Pair], list[Pair], list[Dropped]]:
        return read_pairs(paths, recipe["data"], recipe["seed"])

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Pair]
    ) -> tuple[list[Encoded], int, list[Dropped]]:
        return encode_pairs(tokenizer, pairs, self.recipe["max_length"])

    def prepare(self, rows: dict[str, list[Encoded]], scratch: Path) -> dict[str, list[Encoded]]:
        if not self.loss.needs_reference:
            return rows
        load = functools.partial(reference_model, self.recipe, self.base)
        return with_reference(rows, load, self.recipe["batch_size"], scratch / "reference.json")

    def evaluate_every(self, rows: int) -> int:
        recipe = self.recipe
        each = recipe["batch_size"] * recipe["accumulation"] * recipe.get("devices", 1)
        steps = recipe["max_steps"] or math.ceil((recipe["epochs"] or 1) * math.ceil(rows / each))
        return recipe["evaluate_every"] or max(1, steps // EVALUATIONS)

    def collate(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        return collate_pairs(rows)

    def trainer(self) -> type[Trainer]:
        return preference_trainer(self.loss)

    def metrics(self, scores: np.ndarray) -> dict[str, float]:
        """Return the metrics of dev rows out of the trainer's (rows, 4): mean loss, mean NLL per token of the chosen
        answers, share of pairs in order, and the metric by which checkpoints are selected."""
        loss, nll, tokens, ordered = scores.astype("float64").sum(axis=0)
        loss, accuracy = loss / len(scores), ordered / len(scores)
        # Of two checkpoints with as many pairs in order the one with the lower loss wins.
        by_accuracy = ordered - loss / (1 + abs(loss))
        return {
            "objective": loss,
            "nll": nll / tokens,
            "accuracy": accuracy,
            "selection": by_accuracy if self.recipe["selection"] == "accuracy" else -loss,
        }

    def watch(self, state: TrainerState, first: Mapping[str, float], now: Mapping[str, float]) -> None:
        """Raise a UserError when the held-out chosen answers are more than `collapse` times as perplexing as before.

        Perplexity is the exponential of the mean NLL per token. Where the base is nearly sure of its own answers, a
        ratio of NLLs would be large for nothing.
        """
        recipe, before, nll = self.recipe, first["eval_nll"], now["eval_nll"]
        if nll - before > math.log(recipe["collapse"]):
            ratio = math.exp(min(nll - before, 700))
            raise UserError(
                f"collapsed at step {state.global_step} of {state.max_steps}: the held-out chosen answers of "
                f"{', '.join(recipe['data'])} have NLL {nll:.3f} a token, under {recipe['base']} {before:.3f}: "
                f"perplexity rose {ratio:.3g}-fold, `collapse` allows {recipe['collapse']:g}; nothing was written: "
                f"lower learning_rate (now {recipe['learning_rate']:g})."
            )
        if now["eval_objective"] == 0 and state.global_step == 0 and state.is_world_process_zero:
            logger.warning("held-out pairs are all in order by the margin: raise it, or nothing is learnt")

    def facts(self, curve: Sequence[Mapping[str, Any]]) -> Facts:
        return {"dev_before": self.dev_facts(curve[0])}

    def dev_facts(self, row: Mapping[str, Any]) -> Facts:
        return {"loss": row["loss"], "nll": row["nll"], "accuracy": row["accuracy"]}


def preference_trainer(loss: Loss) -> type[Trainer]:
    """Return the Trainer of a `moult.objectives` loss: its mean over the rows of a step, on all devices."""
    import torch
    from transformers import Trainer

    class PreferenceTrainer(Trainer):
        loss_is_scaled_for_ga = True

        def _prepare_inputs(self, inputs):
            """Return a batch on the device; its reference stays in float32, where the library, under DeepSpeed, rounds
            every number of a batch to the dtype of the weights."""
            reference = inputs.get("reference")
            prepared = super()._prepare_inputs(inputs)
            return prepared if reference is None else prepared | {"reference": reference.to(self.args.device)}

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            """Return the loss; and as `logits` (rows, 4): loss, NLL of the chosen answers, their tokens, share of pairs
            in order.

            num_items_in_batch: the rows of the step; the library counts them by `labels`, over all devices.
            """
            labels, targets, count = inputs["labels"], inputs["targets"], inputs["preferred"]
            outputs = model(**{name: value for name, value in inputs.items() if name not in NOT_THE_MODELS})
            # (answers, rows); an answer has a token at least, its end.
            logps, tokens = (value.view(-1, len(labels)) for value in answer_logps(outputs.logits, targets))
            preferred = torch.arange(len(logps), device=count.device)[:, None] < count
            others = ~preferred & (tokens > 0)
            # A device whose share is blank rows alone is given no reference; they count nowhere.
            reference = inputs["reference"].T if "reference" in inputs else torch.zeros_like(logps)
            # Checkpoints keep the step, and all devices and all forward passes of a step are at the same one.
            done = self.state.global_step / max(self.state.max_steps, 1)
            scores = loss.scores(logps, tokens, reference)
            losses = loss.losses(scores, preferred, others, done)
            # The chosen answers' mean NLL per token beside the loss (Pang et al. 2024, arXiv 2404.19733).
            means = (logps * preferred) / tokens.clamp(min=1)
            losses = losses - loss.nll_weight * (means.sum(0) / count.clamp(min=1))
            real = labels != -100
            total = (losses * real).sum() / (real.sum() if num_items_in_batch is None else num_items_in_batch)
            # The library averages over devices what is a share of the sum here.
            total = total * self.accelerator.num_processes
            if not return_outputs:
                return total
            ordered = loss.ordered(scores, preferred, others, done)
            nll, chosen = -(logps * preferred).sum(0), (tokens * preferred).sum(0)
            return total, {"logits": torch.stack([losses, nll, chosen, ordered], dim=-1)}

    return PreferenceTrainer


def with_reference(
    rows: dict[str, list[Encoded]], load: Callable[[], PreTrainedModel], batch_size: int, file: Path
) -> dict[str, list[Encoded]]:
    """Return the rows of each split with `reference`, the log-probabilities of their answers before training, in nats.

    They are computed once and kept in `file`: a second model in memory, or a second forward pass in each step of each
    epoch, would give the same numbers. `load()` returns the model, ready to be called.
    """
    if not Path(file).exists():
        model = load()
        write_json(file, {split: _logps(model, many, batch_size, split) for split, many in rows.items()})
        # The model that trains needs its place, in another process where there are several.
        del model
        free_memory()
    known = read_json(file)
    return {
        split: [row | {"reference": values} for row, values in zip(many, known[split], strict=True)]
        for split, many in rows.items()
    }


def _logps(model, rows, batch_size, split):
    import torch

    found = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: -length_of(rows[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = collate_pairs([rows[place] for place in places])
        targets = batch["targets"].to(model.device)
        inputs = {name: value.to(model.device) for name, value in batch.items() if name not in NOT_THE_MODELS}
        with torch.inference_mode():
            logps, _ = answer_logps(model(**inputs).logits, targets)
        for place, *values in zip(places, *logps.view(-1, len(places)).tolist(), strict=True):
            found[place] = values[: len(rows[place]["completions"])]
        if start % (64 * batch_size) == 0:
            logger.info("reference: %d of %d %s pairs", start + len(places), len(rows), split)
    return found
