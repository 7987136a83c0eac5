"""METEOR's objective for self-training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moult.objectives.base import Loss, per_token

if TYPE_CHECKING:
    import torch


class Contrastive(Loss):
    """The preferred answer is to have the lower NLL per token, by a margin."""

    kind: Literal["contrastive"] = Field("contrastive", description="Kind of loss: contrastive.")
    margin: float = Field(
        0.0, ge=0, description="Gap in NLL per token, in nats, above which a rightly ordered pair has no loss."
    )

    def words(self) -> str:
        return f"contrastive margin {self.margin:g}"

    def scores(self, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return mean log-probabilities per token, in the shape of `logps`."""
        return per_token(logps, tokens)

    def of_gaps(self, gaps: torch.Tensor) -> torch.Tensor:
        """Return max(0, margin − gap), in the shape of `gaps`: gap = NLL of the other − NLL of the preferred answer."""
        return (self.margin - gaps).relu()
