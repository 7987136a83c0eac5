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
from moult.inference.engines.trees import takes_tree
from moult.objectives import loss_of
from moult.objectives.base import Loss
from moult.training.encoding import (
    Encoded,
    collate_pairs,
    collate_trees,
    encode_pairs,
    exact_dtype,
    length_of,
    preference_logps,
)
from moult.training.model import reference_model
from moult.training.pairs import Pair, read_pairs

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerState


# Evaluations of a run, where the recipe does not say how often: what collapses is to be seen in time.
EVALUATIONS = 10
logger = logging.getLogger(__name__)


class Preferences:
    """Training on preferences by the loss of a recipe; the methods are those of `supervised.Supervised`."""

    measured = "objective"
    score = None

    def __init__(self, recipe: Recipe, base: str | Path) -> None:
        self.recipe, self.base, self.loss = recipe, base, loss_of(recipe["loss"])
        self.columns = ("step", "split", "loss", "accuracy", "learning_rate", "nll", *self.loss.measures)

    @staticmethod
    def read(recipe: Recipe, paths: Sequence[str | Path]) -> tuple[list[Pair], list[Pair], list[Dropped]]:
        return read_pairs(paths, recipe["data"], recipe["seed"], loss_of(recipe["loss"]).needs_sources)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Pair]
    ) -> tuple[list[Encoded], int, list[Dropped]]:
        return encode_pairs(tokenizer, pairs, self.recipe["max_length"])

    def prepare(self, rows: dict[str, list[Encoded]], scratch: Path) -> dict[str, list[Encoded]]:
        if not self.loss.needs_reference:
            return rows
        load = functools.partial(reference_model, self.recipe, self.base)
        return with_reference(rows, load, self.recipe["batch_size"], scratch / "reference.json", self.shared)

    @property
    def shared(self) -> bool:
        """Whether the answers to a prompt are to stand behind one copy of it."""
        return self.recipe.get("shared_prompt", False)

    def evaluate_every(self, rows: int) -> int:
        recipe = self.recipe
        each = recipe["batch_size"] * recipe["accumulation"] * recipe.get("devices", 1)
        steps = recipe["max_steps"] or math.ceil((recipe["epochs"] or 1) * math.ceil(rows / each))
        return recipe["evaluate_every"] or max(1, steps // EVALUATIONS)

    def collate(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        return collate_pairs(rows)

    def trainer(self) -> type[Trainer]:
        return preference_trainer(self.loss, self.shared)

    def metrics(self, scores: np.ndarray) -> dict[str, float]:
        """Return the metrics of dev rows out of the trainer's (rows, 4 + measures): mean loss, mean NLL per token of
        the chosen answers, share of pairs in order, the metric that selects checkpoints, and means of measures."""
        loss, nll, tokens, ordered, *measured = scores.astype("float64").sum(axis=0)
        loss, accuracy = loss / len(scores), ordered / len(scores)
        # Of two checkpoints with as many pairs in order the one with the lower loss wins.
        by_accuracy = ordered - loss / (1 + abs(loss))
        return {
            "objective": loss,
            "nll": nll / tokens,
            "accuracy": accuracy,
            "selection": by_accuracy if self.recipe["selection"] == "accuracy" else -loss,
        } | {name: value / len(scores) for name, value in zip(self.loss.measures, measured, strict=True)}

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
        return {name: row[name] for name in ("loss", "nll", "accuracy", *self.loss.measures)}


def preference_trainer(loss: Loss, shared: bool = False) -> type[Trainer]:
    """Return the Trainer of a `moult.objectives` loss: its mean over the rows of a step, on all devices.

    shared: the answers to a prompt stand behind one copy of it, if the model's attention can be masked so.
    """
    import torch
    from transformers import Trainer

    class PreferenceTrainer(Trainer):
        loss_is_scaled_for_ga = True

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.base = getattr(self.model, "get_base_model", lambda: self.model)()
            if shared and _takes_tree(self.base):
                self.data_collator = collate_trees
            # Sums of what the loss measures over the rows of a step, and their number.
            self.sums = torch.zeros(len(loss.measures) + 1, dtype=torch.float64)

        def _prepare_inputs(self, inputs):
            """Return a batch on the device; its reference stays as exact as it is, where the library, under DeepSpeed,
            rounds every number of a batch to the dtype of the weights."""
            reference = inputs.get("reference")
            prepared = super()._prepare_inputs({name: value for name, value in inputs.items() if name != "reference"})
            if reference is None:
                return prepared
            device = self.args.device
            return prepared | {"reference": reference.to(device, exact_dtype(device))}

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            """Return the loss; and as `logits` (rows, 4 + measures): loss, NLL of the chosen answers, their tokens,
            share of pairs in order, and what the loss measures.

            num_items_in_batch: the rows of the step; the library counts them by `labels`, over all devices.
            """
            labels, count = inputs["labels"], inputs["preferred"]
            # (answers, rows); an answer has a token at least, its end.
            logps, tokens = preference_logps(model, self.base, inputs)
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
            with torch.no_grad():
                # Told and compared in float32, in which two sums are equal where nothing has moved yet.
                logps = logps.float()
                scores = loss.scores(logps, tokens, reference.float())
                measured = loss.measured(logps, tokens, scores, preferred, others, done)
                told = [measured[name] for name in loss.measures]
                if not return_outputs:
                    if told:
                        self.sums += torch.stack([*told, torch.ones_like(losses)]).double()[:, real].sum(-1).cpu()
                    return total
                ordered = loss.ordered(scores, preferred, others, done)
            nll, chosen = -(logps * preferred).sum(0), (tokens * preferred).sum(0)
            return total, {"logits": torch.stack([losses, nll, chosen, ordered, *told], dim=-1)}

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """Log the means of what the loss measured over the rows of a step, on all devices, beside its loss."""
            if loss.measures and "loss" in logs:
                *sums, rows = self.accelerator.reduce(self.sums.to(self.args.device)).tolist()
                logs |= {name: value / rows for name, value in zip(loss.measures, sums, strict=True)}
                self.sums.zero_()
            super().log(logs, start_time)

    return PreferenceTrainer


def _takes_tree(model):
    """Return whether a model takes a tree, and say so where it does not."""
    if takes_tree(model):
        return True
    logger.info("shared_prompt: %s reads a prompt once for each of its answers", type(model).__name__)
    return False


def with_reference(
    rows: dict[str, list[Encoded]],
    load: Callable[[], PreTrainedModel],
    batch_size: int,
    file: Path,
    shared: bool = False,
) -> dict[str, list[Encoded]]:
    """Return the rows of each split with `reference`, the log-probabilities of their answers before training, in nats.

    They are computed once and kept in `file`: a second model in memory, or a second forward pass in each step of each
    epoch, would give the same numbers. `load()` returns the model, ready to be called; shared: as for
    `preference_trainer`.
    """
    if not Path(file).exists():
        model = load()
        write_json(file, {split: _logps(model, many, batch_size, split, shared) for split, many in rows.items()})
        # The model that trains needs its place, in another process where there are several.
        del model
        free_memory()
    known = read_json(file)
    return {
        split: [row | {"reference": values} for row, values in zip(many, known[split], strict=True)]
        for split, many in rows.items()
    }


def _logps(model, rows, batch_size, split, shared):
    import torch

    collated = collate_trees if shared and takes_tree(model) else collate_pairs
    found = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: -length_of(rows[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = {name: value.to(model.device) for name, value in collated([rows[place] for place in places]).items()}
        with torch.inference_mode():
            logps, _ = preference_logps(model, model, batch)
        for place, values in zip(places, logps.T.tolist(), strict=True):
            found[place] = values[: len(rows[place]["completions"])]
        if start % (64 * batch_size) == 0:
            logger.info("reference: %d of %d %s pairs", start + len(places), len(rows), split)
    return found
