"""Identity preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moult.objectives.base import Loss, per_token

if TYPE_CHECKING:
    import torch


class IPO(Loss):
    """Identity preference optimisation: likelier than under the frozen reference by a set gap, and not by more."""

    kind: Literal["ipo"] = Field(description="Kind of loss: IPO.")
    beta: float = Field(
        0.1,
        gt=0,
        description=(
            "Strength of the penalty for leaving the frozen reference; the target gap in log-probability is 1/(2 beta)."
        ),
    )
    sum: bool = Field(
        False,
        description=(
            "Whether whole answers are compared (sum over tokens); false, as the authors mean it: means per token."
        ),
    )
    needs_reference = True

    def words(self) -> str:
        return f"IPO beta {self.beta:g}" + (" of sums" if self.sum else "")

    def scores(self, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return gains, the log-probability per token (`sum`: of the whole answer) less that under the reference; in
        the shape of `logps`."""
        gains = logps - reference
        return gains if self.sum else per_token(gains, tokens)

    def of_gaps(self, gaps: torch.Tensor) -> torch.Tensor:
        """Return (gap − 1/(2 beta))², in the shape of `gaps` (Azar et al. 2023, arXiv 2310.12036, equation 17, where
        beta is called tau)."""
        return (gaps - 1 / (2 * self.beta)) ** 2
