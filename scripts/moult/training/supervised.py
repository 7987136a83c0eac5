"""The task of learning the answers of examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moult.base.rows import Dropped, Facts, Recipe
from moult.data.examples import training_examples
from moult.data.prompts import Example
from moult.data.videos.frames import Frames
from moult.inference.vision import Vision
from moult.training.encoding import Encoded, answer_logps, collate, encode_examples

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerState


class Supervised:
    """Training on examples: what the trainer and its report ask a task for.

    `columns`: those of loss.csv. `measured`: the metric that an evaluation writes into the column `loss`.
    """

    columns = ("step", "split", "loss", "accuracy", "learning_rate")
    measured = "nll"

    def __init__(self, recipe: Recipe, base: str | Path, shown: Sequence[str | Path]) -> None:
        """`shown` are the prepared datasets whose videos the examples show."""
        self.recipe = recipe
        self.vision = Vision(base, Frames(shown)) if shown else None

    @staticmethod
    def read(recipe: Recipe, paths: Sequence[str | Path]) -> tuple[list[Example], list[Example], list[Dropped]]:
        """Return (train, dev, dropped) of the data sources of a recipe."""
        (train, no_train), (dev, no_dev) = (
            training_examples(paths, recipe["data"], split) for split in ("train", "dev")
        )
        return train, dev, no_train + no_dev

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]
    ) -> tuple[list[Encoded], int, list[Dropped]]:
        """Return (rows, number of truncated prompts, dropped)."""
        return encode_examples(tokenizer, examples, self.recipe["max_length"], self.vision)

    def prepare(self, rows: dict[str, list[Encoded]], scratch: Path) -> dict[str, list[Encoded]]:
        """Return split → encoded rows with what they need beside their tokens; `scratch` keeps what that cost."""
        return rows

    def evaluate_every(self, rows: int) -> int | None:
        """Return after how many optimiser steps a run on so many rows is evaluated; None: after each epoch."""
        return self.recipe["evaluate_every"]

    def collate(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Return the batch of encoded rows."""
        return collate(rows, self.vision)

    def trainer(self) -> type[Trainer]:
        """Return the class of transformers' Trainer."""
        from transformers import Trainer

        return Trainer

    def score(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return (rows, 3): summed negative log-likelihood of the answer, its number of tokens, 1 where all are argmax.

        None in place of this function: the trainer's own outputs are what `metrics` takes.
        """
        import torch

        logps, tokens = answer_logps(logits, labels)
        right = ((logits.argmax(-1) == labels) | (labels == -100)).all(-1)
        return torch.stack([-logps, tokens, right], dim=-1)

    def metrics(self, scores: np.ndarray) -> dict[str, float]:
        """Return mean NLL per answer token, accuracy of whole answers, and the metric by which checkpoints are
        selected."""
        losses, tokens, right = scores.astype("float64").sum(axis=0)
        nll = losses / tokens
        # Of two checkpoints with as many right answers the likelier one wins: the fraction stays below one answer.
        by_accuracy = right - nll / (1 + nll)
        return {
            "nll": nll,
            "accuracy": right / len(scores),
            "selection": by_accuracy if self.recipe["selection"] == "accuracy" else -nll,
        }

    def watch(self, state: TrainerState, first: Mapping[str, float], now: Mapping[str, float]) -> None:
        """Look at the first evaluation, of the base, and at the latest one; raise a UserError to end the run."""

    def facts(self, curve: Sequence[Mapping[str, Any]]) -> Facts:
        """Return what the report says of the loss curve, beside what every report does."""
        return {}

    def dev_facts(self, row: Mapping[str, Any]) -> Facts:
        """Return what an evaluation of the loss curve says."""
        return {"nll": row["loss"], "accuracy": row["accuracy"]}
