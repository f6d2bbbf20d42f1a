"""A causal language model as a function of tensors alone: its cache of keys and values goes in and comes out."""

# Axes: B = rows, P = cached tokens, S = new tokens, H = heads of keys, D = size of a head, V = vocabulary

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from runtimes.errors import first_line


class CacheError(Exception):
    """A model does not keep keys and values of each token, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSizes:
    """What one layer keeps of a token: keys [H, D] and values [H, D], which may differ in D."""

    key: tuple[int, int]
    value: tuple[int, int]


def cache_sizes(model: nn.Module) -> tuple[LayerSizes, ...]:
    """What each layer keeps of a token, by a look at one. Raises CacheError for a cache of another kind."""
    cache = DynamicCache(config=_inner(model).config)
    one = torch.ones((1, 1), dtype=torch.int64)
    try:
        with torch.no_grad():
            model(input_ids=one, attention_mask=one, past_key_values=cache, use_cache=True)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError) as error:
        raise CacheError(f"it computes no token with a cache: {first_line(error)}") from error
    layers: Sequence[Any] = cache.layers
    kinds = {type(layer) for layer in layers}
    if others := sorted(kind.__name__ for kind in kinds - {DynamicLayer, DynamicSlidingWindowLayer}):
        raise CacheError(f"it keeps more than keys and values of tokens: {', '.join(others)}")
    return tuple(LayerSizes(key=_sizes(layer.keys), value=_sizes(layer.values)) for layer in layers)


def _sizes(kept_BHSD: Any) -> tuple[int, int]:
    return int(kept_BHSD.shape[1]), int(kept_BHSD.shape[3])


def _inner(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


@dataclass(frozen=True, slots=True)
class Continued:
    """Logits [B, S, V] of new tokens, and the keys and values [B, H, P + S, D] of each layer after them."""

    logits: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def continued(
    model: nn.Module,
    given: Mapping[str, Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    last_only: bool = False,
) -> Continued:
    """What a model says of new tokens after cached ones.

    `given`: input_ids [B, S], attention_mask [B, P + S], position_ids [B, S]; what its `forward` lacks is left out.
    Every layer keeps all tokens, those with a window too: the mask alone makes the window, so one graph does for all
    lengths. `last_only`: logits of the last token alone, where the model can.
    """
    taken = inspect.signature(_inner(model).forward).parameters
    inputs: dict[str, Any] = {name: value for name, value in given.items() if name in taken}
    if last_only and "logits_to_keep" in taken:
        inputs["logits_to_keep"] = 1
    cache = DynamicCache()
    cache.layers = [layer_of(key, value) for key, value in zip(keys, values, strict=True)]
    logits = model(**inputs, past_key_values=cache, use_cache=True).logits
    after: Sequence[Any] = cache.layers
    return Continued(logits, tuple(layer.keys for layer in after), tuple(layer.values for layer in after))


def layer_of(key_BHPD: Tensor, value_BHPD: Tensor) -> DynamicLayer:
    """A layer of a cache that holds these."""
    layer = DynamicLayer()  # type: ignore[no-untyped-call]
    layer.lazy_initialization(key_BHPD, value_BHPD)
    layer.keys, layer.values = key_BHPD, value_BHPD
    return layer
