"""An encoder-decoder as two functions of tensors alone: what the decoder sees of a source, and its next tokens."""

# Axes: B = rows, T = tokens of the source, P = cached tokens, S = new tokens, H = heads, D = size of a head

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from runtimes.errors import first_line
from runtimes.pytorch.cached import CacheError, LayerSizes, layer_of
from runtimes.pytorch.virtual import VirtualModel

START = 0  # any token: what the decoder sees of a source does not depend on what it reads


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSizes:
    """What a layer of the decoder keeps of a token: of its own ones, and of the source's."""

    own: LayerSizes
    source: LayerSizes


def sequence_sizes(model: Any) -> tuple[SequenceSizes, ...]:
    """What each layer of the decoder keeps of a token, by a look at one. Raises CacheError for a cache of others."""
    one = torch.ones((1, 1), dtype=torch.int64)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    try:
        with torch.no_grad():
            model(input_ids=one, attention_mask=one, decoder_input_ids=one, past_key_values=cache, use_cache=True)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError) as error:
        raise CacheError(f"it computes no token with a cache: {first_line(error)}") from error
    owns: Sequence[Any] = cache.self_attention_cache.layers
    sources: Sequence[Any] = cache.cross_attention_cache.layers
    if not owns or len(owns) != len(sources):
        raise CacheError("it does not keep keys and values of the source and of what it wrote in each layer")
    return tuple(
        SequenceSizes(own=_sizes(own), source=_sizes(source)) for own, source in zip(owns, sources, strict=True)
    )


def _sizes(layer: Any) -> LayerSizes:
    key, value = layer.keys.shape, layer.values.shape
    return LayerSizes(key=(int(key[1]), int(key[3])), value=(int(value[1]), int(value[3])))


def encoded(model: Any, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder makes of sources [B, T, ...], and their mask; of virtual tokens too, which stand before them."""
    if isinstance(model, VirtualModel):
        return model.encoded(ids_BT, mask_BT)
    return model.get_encoder()(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state, mask_BT


def inner_of(model: Any) -> Any:
    """The model that decodes: virtual tokens are the encoder's."""
    return model.inner if isinstance(model, VirtualModel) else model


def source_cache(model: Any, ids_BT: Tensor, mask_BT: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values [B, H, T, D] of sources in each layer of the decoder. They are padded on the right.

    Those of virtual tokens stand before them.
    """
    hidden, mask_BT = encoded(model, ids_BT, mask_BT)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    _decode(inner_of(model), torch.full_like(ids_BT[:, :1], START), mask_BT, hidden, cache)
    layers: Sequence[Any] = cache.cross_attention_cache.layers
    return [layer.keys for layer in layers], [layer.values for layer in layers]


@dataclass(frozen=True, slots=True)
class Continued:
    """Logits [B, S, V] of new tokens, and the decoder's own keys and values [B, H, P + S, D] after them."""

    logits: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def continued(
    model: Any,
    ids_BS: Tensor,
    mask_BT: Tensor,
    own: tuple[Sequence[Tensor], Sequence[Tensor]],
    source: tuple[Sequence[Tensor], Sequence[Tensor]],
) -> Continued:
    """What the decoder says of new tokens after cached ones. `own`, `source`: keys and values of each layer."""
    cache = EncoderDecoderCache(_cache(*own), _cache(*source))
    cache.is_updated = dict.fromkeys(range(len(source[0])), True)  # also where the trace knows no length
    hidden = torch.zeros((*mask_BT.shape, width(model)), dtype=source[0][0].dtype, device=mask_BT.device)
    logits = _decode(model, ids_BS, mask_BT, hidden, cache)  # of the source only the cache is read
    after: Sequence[Any] = cache.self_attention_cache.layers
    return Continued(logits, tuple(layer.keys for layer in after), tuple(layer.values for layer in after))


class ChosenLayer(DynamicLayer):
    """Keys and values of the source: `kept` [B, H, T, D] where `cached` says so, else those that are computed now."""

    def __init__(self, kept: tuple[Tensor, Tensor], cached: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(*kept)
        self.keys, self.values = kept
        self.cached = cached
        self.computed = kept

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What attention reads, of what the model has computed."""
        assert self.keys is not None and self.values is not None, "given at the start"
        self.computed = key_states, value_states
        return torch.where(self.cached, self.keys, key_states), torch.where(self.cached, self.values, value_states)


def chosen(
    model: Any,
    ids_BS: Tensor,
    mask_BT: Tensor,
    own: tuple[Sequence[Tensor], Sequence[Tensor]],
    hidden_BT: Tensor,
    source: Sequence[ChosenLayer],
) -> Continued:
    """As `continued`, but the source's keys and values may be computed, of what the encoder made of it."""
    sources = DynamicCache()
    sources.layers = [*source]
    cache = EncoderDecoderCache(_cache(*own), sources)
    cache.is_updated = dict.fromkeys(range(len(source)), False)
    logits = _decode(model, ids_BS, mask_BT, hidden_BT, cache)
    after: Sequence[Any] = cache.self_attention_cache.layers
    return Continued(logits, tuple(layer.keys for layer in after), tuple(layer.values for layer in after))


def _decode(model: Any, ids_BS: Tensor, mask_BT: Tensor, hidden: Tensor, cache: EncoderDecoderCache) -> Tensor:
    found: Tensor = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        attention_mask=mask_BT,
        decoder_input_ids=ids_BS,
        past_key_values=cache,
        use_cache=True,
    ).logits
    return found


def width(model: Any) -> int:
    """The size of what the encoder gives for a token."""
    return int(model.get_encoder().config.hidden_size)


def _cache(keys: Sequence[Tensor], values: Sequence[Tensor]) -> DynamicCache:
    """A cache that holds these."""
    cache = DynamicCache()
    cache.layers = [layer_of(key, value) for key, value in zip(keys, values, strict=True)]
    return cache
