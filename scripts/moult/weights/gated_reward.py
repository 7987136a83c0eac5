"""ArmoRM: a Llama with nineteen rewards and a gate for each, which the prompt decides (Wang et al. 2024, arXiv
2406.12845, section 3). The names of the parts are those of its published weights; its own code is never run.
"""

from functools import cache
from typing import Any

# How config.json calls such a model.
ARCHITECTURE = "LlamaForRewardModelWithGating"


@cache
def gated_reward_class() -> Any:
    """Return the class of such models, which transformers has none of; torch is imported by the call alone."""
    import torch
    from transformers import LlamaModel, LlamaPreTrainedModel

    class Gating(torch.nn.Module):
        """What weighs the rewards: an MLP with ReLU whose softmax is cooled by a temperature and scaled as a whole."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.temperature = config.gating_temperature
            self.logit_scale = torch.nn.Parameter(torch.ones(1))
            inner = [config.gating_hidden_dim] * config.gating_n_hidden
            widths = [config.hidden_size, *inner, config.num_objectives]
            self.layers = torch.nn.ModuleList(map(torch.nn.Linear, widths, widths[1:]))

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            """Return gates (rows, rewards) of hidden states (rows, width)."""
            *inner, last = self.layers
            for layer in inner:
                hidden = layer(hidden).relu()
            return (last(hidden) / self.temperature).softmax(-1) * self.logit_scale

    class GatedReward(LlamaPreTrainedModel):
        """The Llama, its regression layer, the matrix that takes rewards apart, and the gates."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = LlamaModel(config)
            count = config.num_objectives
            self.regression_layer = torch.nn.Linear(config.hidden_size, count, bias=False)
            self.reward_transform_matrix = torch.nn.Parameter(torch.eye(count), requires_grad=False)
            self.gating = Gating(config)
            self.post_init()

        def of_states(
            self, last: torch.Tensor, header: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            """Return (scores (rows,), rewards and gates (rows, count)) of two hidden states (rows, width) of each row:
            that of its last token, and that at which the last header of the assistant begins. score = Σ_k gate_k
            (rewards · T)_k, with T the matrix."""
            rewards, gates = self.regression_layer(last), self.gating(header)
            return (gates * (rewards @ self.reward_transform_matrix)).sum(-1), rewards, gates

    return GatedReward
