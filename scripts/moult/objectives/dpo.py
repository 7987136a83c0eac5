"""Direct preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moult.objectives.base import Loss, Smoothing, logistic, smoothed

if TYPE_CHECKING:
    import torch


class DPO(Loss):
    """Direct preference optimisation: likelier than under the frozen reference, which is the base."""

    kind: Literal["dpo"] = Field(description="Kind of loss: DPO.")
    beta: float = Field(
        0.1,
        gt=0,
        description=(
            "Strength of the penalty for leaving the frozen reference: the scale of the gap in log-probability."
        ),
    )
    label_smoothing: Smoothing = 0.0
    needs_reference = True

    def words(self) -> str:
        return f"DPO beta {self.beta:g}" + smoothed(self.label_smoothing)

    def scores(self, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return gains, the log-probability of a whole answer less that under the reference; shape of `logps`."""
        return logps - reference

    def of_gaps(self, gaps: torch.Tensor) -> torch.Tensor:
        """Return −log sigmoid(beta × gap), in the shape of `gaps` (Rafailov et al. 2023, arXiv 2305.18290, equation
        7)."""
        return logistic(self.beta * gaps, self.label_smoothing)
