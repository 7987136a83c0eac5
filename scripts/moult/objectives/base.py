"""What every loss over preferred and other answers declares: its settings, its formula, its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from moult.base.section import Section

if TYPE_CHECKING:
    import torch


class Loss(Section):
    """A loss over the answers to one prompt, some of which are preferred to the others.

    A subclass is a section of the config and, with the same fields, the loss of a recipe. It names itself by its `kind`
    and defines `scores`, `of_gaps` and `words`; a loss that is no mean over pairs overrides `losses` and `ordered`.

    In all shapes below, `answers` is the largest number of answers to a prompt of the batch. Arrays are tensors, and
    torch is imported inside functions alone: the config imports these modules too.
    """

    kind: str
    nll_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the chosen answers' mean NLL per token, added to the loss; 0 adds nothing.",
    )
    # Whether `scores` compares with the log-probabilities under the model that training begins with.
    needs_reference: ClassVar[bool] = False

    def words(self) -> str:
        """Return what the report calls this loss with its settings, e.g. `DPO beta 0.1`."""
        raise NotImplementedError

    def scores(self, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return what answers are compared by, in the shape of the arguments; the preferred one is to have more.

        logps: summed log-probability of the answer's tokens, in nats; tokens: their number, 0 of padding; reference:
        as logps, under the frozen reference (zeros where there is none).
        """
        raise NotImplementedError

    def of_gaps(self, gaps: torch.Tensor) -> torch.Tensor:
        """Return the loss of each gap, the score of a preferred answer less that of another, in the shape of `gaps`."""
        raise NotImplementedError

    def losses(self, scores: torch.Tensor, preferred: torch.Tensor, others: torch.Tensor, done: float) -> torch.Tensor:
        """Return (rows,) losses: means over all pairs of a preferred and another answer of a row.

        scores: (answers, rows); preferred, others: (answers, rows) bool, neither where an answer is padding; done: the
        share of the optimiser steps that are completed, in [0, 1) while training.
        """
        gaps, pairs = _gaps(scores, preferred, others)
        return _mean(self.of_gaps(gaps), pairs)

    def ordered(self, scores: torch.Tensor, preferred: torch.Tensor, others: torch.Tensor, done: float) -> torch.Tensor:
        """Return (rows,) shares of pairs in which the preferred answer has the greater score; arguments as `losses`."""
        gaps, pairs = _gaps(scores, preferred, others)
        return _mean((gaps > 0).to(scores.dtype), pairs)


def _gaps(scores, preferred, others):
    """Return (answers, answers, rows) scores of the first less those of the second, and where they are a pair."""
    import torch

    pairs = preferred[:, None] & others[None]
    gaps = scores[:, None] - scores[None]
    return torch.where(pairs, gaps, torch.zeros_like(gaps)), pairs


def _mean(values, pairs):
    """Return (rows,) means of (answers, answers, rows) values over pairs; 0 of a row without a pair."""
    import torch

    total = torch.where(pairs, values, torch.zeros_like(values)).sum((0, 1))
    return total / pairs.sum((0, 1)).clamp(min=1)


def per_token(sums: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return sums over the tokens of answers as means; of padding 0."""
    return sums / tokens.clamp(min=1)
