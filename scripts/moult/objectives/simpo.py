"""Simple preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moult.objectives.base import Loss, Smoothing, logistic, per_token, smoothed

if TYPE_CHECKING:
    import torch


class SimPO(Loss):
    """Simple preference optimisation: likelier per token, by a margin, with no reference."""

    kind: Literal["simpo"] = Field(description="Kind of loss: SimPO.")
    beta: float = Field(
        10.0, gt=0, description="Scale of the mean log-probability per token; published values: 2 to 10."
    )
    gamma_ratio: float = Field(
        0.3, ge=0, description="Target margin over beta: the wanted gap in mean log-probability per token, in nats."
    )
    label_smoothing: Smoothing = 0.0

    def words(self) -> str:
        return f"SimPO beta {self.beta:g}, gamma/beta {self.gamma_ratio:g}" + smoothed(self.label_smoothing)

    def scores(self, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return mean log-probabilities per token, in the shape of `logps`."""
        return per_token(logps, tokens)

    def of_gaps(self, gaps: torch.Tensor) -> torch.Tensor:
        """Return −log sigmoid(beta × gap − gamma), gamma being beta × gamma_ratio, in the shape of `gaps` (Meng et al.
        2024, arXiv 2405.14734, equation 6)."""
        return logistic(self.beta * (gaps - self.gamma_ratio), self.label_smoothing)
