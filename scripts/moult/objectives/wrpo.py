"""Weighted-reward preference optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moult.objectives.base import Loss, Smoothing, logistic, mean_of, smoothed

if TYPE_CHECKING:
    import torch


class WRPO(Loss):
    """Weighted-reward preference optimisation: learns from sources, more and more, beside its own answers."""

    kind: Literal["wrpo"] = Field(description="Kind of loss: WRPO.")
    beta: float = Field(
        0.01,
        gt=0,
        description=(
            "Strength of the penalty for leaving the frozen reference: the scale of the gap in log-probability."
        ),
    )
    alpha_end: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Weight of the sources' answers, beside 1 - alpha_end of the model's own, at the end of training.",
    )
    schedule: Literal["linear", "constant"] = Field(
        "linear",
        description=(
            "How the sources' weight goes: `linear`, by the share of steps done, 0 in the first one, or `constant`."
        ),
    )
    label_smoothing: Smoothing = 0.0
    needs_reference = True
    needs_sources = True
    measures = {
        "alpha": "weight of the sources' answers",
        "reward_source": "reward of the sources' answers",
        "reward_target": "reward of the own answer to prefer",
        "reward_weighted": "weighted reward of both",
        "reward_rejected": "reward of the rejected answer",
        "margin": "weighted reward less that of the rejected answer",
        "accuracy_source": "share of rows whose sources' answers have more reward than the rejected one",
        "accuracy_target": "share of rows whose own answer to prefer has more reward than the rejected one",
        "logp_source": "log-probability of the sources' answers",
        "logp_target": "log-probability of the own answer to prefer",
        "logp_rejected": "log-probability of the rejected answer",
        "tokens_source": "tokens of the sources' answers",
        "tokens_target": "tokens of the own answer to prefer",
        "tokens_rejected": "tokens of the rejected answer",
    }

    def words(self) -> str:
        rise = "to " if self.schedule == "linear" else ""
        return f"WRPO beta {self.beta:g}, alpha {rise}{self.alpha_end:g}" + smoothed(self.label_smoothing)

    def alpha(self, done: float) -> float:
        """Return the weight of the sources' answers; done: the share of the optimiser steps that are completed."""
        return self.alpha_end * (done if self.schedule == "linear" else 1.0)

    def scores(self, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return gains, the log-probability of a whole answer less that under the reference; shape of `logps`."""
        return logps - reference

    def losses(self, scores: torch.Tensor, preferred: torch.Tensor, others: torch.Tensor, done: float) -> torch.Tensor:
        """Return (rows,) means, over the answers that are not preferred, of −log sigmoid(beta × (weighted − score)).

        weighted = alpha × the sources' mean score + (1 − alpha) × that of the model's own answer, the last of those to
        prefer (Yang et al. 2024, arXiv 2412.03187).
        """
        gaps = self._weighted(scores, preferred, done) - scores
        return mean_of(logistic(self.beta * gaps, self.label_smoothing), others)

    def ordered(self, scores: torch.Tensor, preferred: torch.Tensor, others: torch.Tensor, done: float) -> torch.Tensor:
        """Return (rows,) shares of the answers that are not preferred whose score is below the weighted one."""
        return _above(self._weighted(scores, preferred, done), scores, others)

    def measured(
        self,
        logps: torch.Tensor,
        tokens: torch.Tensor,
        scores: torch.Tensor,
        preferred: torch.Tensor,
        others: torch.Tensor,
        done: float,
    ) -> Mapping[str, torch.Tensor]:
        """Return what is logged of each row. A reward is beta × the score; of several answers it is their mean."""
        import torch

        sources, own = _parted(preferred)
        parts = {"source": sources, "target": own, "rejected": others}
        means = {part: mean_of(scores, answers) for part, answers in parts.items()}
        weighted = self._weighted(scores, preferred, done)
        return {
            "alpha": torch.full_like(weighted, self.alpha(done), dtype=torch.float64),
            "reward_source": self.beta * means["source"],
            "reward_target": self.beta * means["target"],
            "reward_weighted": self.beta * weighted,
            "reward_rejected": self.beta * means["rejected"],
            "margin": self.beta * (weighted - means["rejected"]),
            "accuracy_source": _above(means["source"], scores, others),
            "accuracy_target": _above(means["target"], scores, others),
            **{f"logp_{part}": mean_of(logps, answers) for part, answers in parts.items()},
            **{f"tokens_{part}": mean_of(tokens.to(logps.dtype), answers) for part, answers in parts.items()},
        }

    def _weighted(self, scores, preferred, done):
        """Return (rows,) scores of the answers to prefer, the sources' weighed against the model's own."""
        alpha = self.alpha(done)
        sources, own = (mean_of(scores, answers) for answers in _parted(preferred))
        return alpha * sources + (1 - alpha) * own


def _parted(preferred):
    """Return which of the answers to prefer are sources', and which is the model's own, as (answers, rows) bool."""
    import torch

    behind = torch.cat([preferred[1:], torch.zeros_like(preferred[:1])])
    return preferred & behind, preferred & ~behind


def _above(score, scores, others):
    """Return (rows,) shares of `others` whose score is below `score` (rows,)."""
    return mean_of((score > scores).to(scores.dtype), others)
