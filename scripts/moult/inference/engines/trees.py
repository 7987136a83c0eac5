"""Several continuations behind one prompt in one sequence: each sees the prompt and itself, by mask and positions."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from moult.weights.architectures import is_bert_like

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel


def pads(model: PreTrainedModel) -> bool:
    """Return whether a model may see padding before a prompt: it goes by transformers' own masks and positions.

    Others count from the first token, padding or not (BART), or let it into their state (RWKV).
    """
    parameters = inspect.signature(model.forward).parameters
    return hasattr(_module(model), "create_causal_mask") and "position_ids" in parameters


def takes_tree(model: PreTrainedModel) -> bool:
    """Return whether all continuations may stand in one sequence, by a mask of four dimensions and our own positions.

    Not where a layer is recurrent, where a bias grows with the distance in the sequence (ALiBi), and where a model that
    is BERT's kin counts positions from its padding token's id on.
    """
    recurrent = model._is_stateful or not set(_layer_kinds(model)) <= {"full_attention", "sliding_attention"}
    other = getattr(model.config.get_text_config(), "alibi", False) or is_bert_like(model)
    return pads(model) and not recurrent and not other


def tree_mask(
    model: PreTrainedModel, positions: torch.Tensor, owners: torch.Tensor, behind: int = 0
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return what is added to attention scores, (rows, 1, queries, keys), by kind of layer where there are two.

    positions: (rows, length), each token's place in its own continuation, counted from the beginning of the prompt;
    owners: (rows, length), 0 of padding, 1 of the prompt, and a number of its own for each continuation. behind: how
    many tokens of the prompt were read before, and are no queries.
    """
    import torch

    read = torch.arange(behind, device=owners.device).expand(len(owners), -1)
    places, keys = torch.cat([read, positions], 1), torch.cat([torch.ones_like(read), owners], 1)
    own = owners[:, :, None] == keys[:, None, :]
    seen = (own | (keys[:, None, :] == 1)).tril(behind)
    masks = {"full_attention": seen}
    if window := getattr(model.config.get_text_config(), "sliding_window", None):
        masks["sliding_attention"] = seen & (positions[:, :, None] - places[:, None, :] < window)
    dtype = model.dtype
    masks = {
        kind: torch.zeros_like(masks[kind], dtype=dtype).masked_fill(~masks[kind], torch.finfo(dtype).min)[:, None]
        for kind in set(_layer_kinds(model))
    }
    return masks if len(masks) > 1 else masks.popitem()[1]


def read_ahead(model: PreTrainedModel, ids: list[int]) -> Cache:
    """Return what a model makes of tokens that several prompts begin with: keys and values of each layer, one row."""
    import torch
    from transformers import DynamicCache

    # Without a config no layer forgets what is behind its window: the mask says what is seen.
    read, tokens = DynamicCache(), torch.tensor([ids], device=model.device)
    positions = torch.arange(len(ids), device=model.device)[None]
    mask = tree_mask(model, positions, torch.ones_like(tokens))
    model.get_decoder()(tokens, attention_mask=mask, position_ids=positions, past_key_values=read, use_cache=True)
    return read


def behind(read: Cache) -> Cache:
    """Return a cache for a batch whose rows all stand behind what was read; it keeps nothing of them."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    class Layer(DynamicLayer):
        def update(self, key_states, value_states, *args, **kwargs):
            both = ((self.keys, key_states), (self.values, value_states))
            first, second = (torch.cat([old.expand(len(new), *old.shape[1:]), new], -2) for old, new in both)
            return first, second

    taken = DynamicCache()
    for layer in read.layers:
        own = Layer()
        own.lazy_initialization(layer.keys, layer.values)
        own.keys, own.values = layer.keys, layer.values
        taken.layers.append(own)
    return taken


def _module(model: PreTrainedModel) -> ModuleType:
    """Return the module of transformers in which the language model's class stands."""
    return sys.modules[type(model.get_decoder()).__module__]


def _layer_kinds(model):
    config = model.config.get_text_config()
    # Some configs have a window that their model does not look at.
    looks = hasattr(_module(model), "create_sliding_window_causal_mask")
    sliding = looks and getattr(config, "sliding_window", None)
    return getattr(config, "layer_types", None) or ["sliding_attention" if sliding else "full_attention"]
