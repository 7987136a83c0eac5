"""The keys and values of a batch: memory that is taken a piece at a time, and how much of it a batch may take."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

# Tokens by which a full cache grows: it is copied once per so many new tokens, the library's own once per token.
STEP = 64
# Tokens of a batch that are read at once. More would not be read faster, and each holds its activations meanwhile.
PIECE = 1024
# Bytes that the keys and values of a batch may take however small the model is.
LEAST = 128_000_000


def growing_cache(model: PreTrainedModel, width: int) -> Cache:
    """Return an empty cache for a model, with room for `width` tokens of each row and some new ones."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=model.config.get_text_config())
    layer_class = _growing_layer()
    cache.layers = [layer_class(width) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@functools.cache
def _growing_layer() -> Any:
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        """A layer's keys and values, (rows, heads, tokens, size of a head), as views of memory with room to spare."""

        keys: Any
        values: Any

        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width
            self.held: list[torch.Tensor] = []

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Add the states of new tokens; return those of all."""
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            begun = self.get_seq_length()
            end = begun + key_states.shape[-2]
            # Whoever selects rows puts other memory into the place of ours.
            ours = self.held and self.held[0].data_ptr() == self.keys.data_ptr()
            if not ours or end > self.held[0].shape[-2]:
                room = max(end, self.width) + STEP
                self.held = [_grown(self.keys, key_states, begun, room), _grown(self.values, value_states, begun, room)]
            for held, states in zip(self.held, (key_states, value_states), strict=True):
                held[:, :, begun:end] = states
            self.keys, self.values = (held[:, :, :end] for held in self.held)
            return self.keys, self.values

    return GrowingLayer


def _grown(old, states, begun, room):
    rows, heads, _, size = states.shape
    grown = states.new_empty(rows, heads, room, size)
    if begun:
        grown[:, :, :begun] = old
    return grown


def most_tokens(model: PreTrainedModel) -> float:
    """Return how many tokens, padding included, the rows of a batch may have together: their keys and values take half
    as much memory as the weights, or LEAST."""
    import torch

    with torch.inference_mode():
        read = model.get_decoder()(torch.zeros(1, 1, dtype=torch.long), use_cache=True).past_key_values
    each = sum(layer.keys.nbytes + layer.values.nbytes for layer in read.layers)
    return max(model.get_memory_footprint() / 2, LEAST) // each
