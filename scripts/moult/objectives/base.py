"""What every loss over preferred and other answers declares: its settings, its formula, its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from moult.base.section import Section

if TYPE_CHECKING:
    import torch

# A loss without it has no such key in its recipe.
Smoothing = Annotated[
    float,
    Field(
        ge=0,
        lt=0.5,
        exclude_if=lambda share: share == 0,
        description="Share of the rows whose preference is taken to be the wrong way round; 0: none.",
    ),
]


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
    # Whether of a row's preferred answers the last is to be the model's own, and those before it, one or more, those of
    # sources that it learns from.
    needs_sources: ClassVar[bool] = False
    # What `measured` returns: columns of loss.csv, beside those of every loss → what the report calls them.
    measures: ClassVar[Mapping[str, str]] = {}

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

    def measured(
        self,
        logps: torch.Tensor,
        tokens: torch.Tensor,
        scores: torch.Tensor,
        preferred: torch.Tensor,
        others: torch.Tensor,
        done: float,
    ) -> Mapping[str, torch.Tensor]:
        """Return what is logged of each row, as (rows,) tensors by the keys of `measures`; arguments as above."""
        return {}


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


def mean_of(values: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return (rows,) means of (answers, rows) values over those `answers`, bool; 0 of a row without any."""
    import torch

    return torch.where(answers, values, torch.zeros_like(values)).sum(0) / answers.sum(0).clamp(min=1)


def logistic(logits: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return −log sigmoid(logits), in their shape: the loss of a preference of which they are the log-odds.

    smoothing: the share of preferences that are the wrong way round, whose loss is −log sigmoid(−logits) (Mitchell
    2023, A note on DPO with noisy preferences and relationship to IPO).
    """
    import torch

    right = -torch.nn.functional.logsigmoid(logits)
    # Not added where it weighs nothing: what is infinite would make the sum no number.
    return (1 - smoothing) * right - smoothing * torch.nn.functional.logsigmoid(-logits) if smoothing else right


def smoothed(share: float) -> str:
    """Return what the words of a loss say of its label smoothing, nothing where there is none."""
    return f", labels smoothed by {share:g}" if share else ""
