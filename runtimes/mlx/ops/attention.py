"""Attention, on MLX's fused kernel where no probability is dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from runtimes.mlx.ops.random import native_dropout

# B = batch, H = heads, T = queries, S = keys, D = size of a head


def scaled_dot_product_attention(  # noqa: PLR0913  (torch's own arguments)
    key: mx.array,
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    attn_mask: mx.array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> mx.array:
    """Attention as torch defines it: a mask says who sees whom, or is added; who sees nothing gets zeros.

    The first argument is the key of the random numbers.
    """
    shape = (*queries.shape[:-1], values.shape[-1])
    queries_BHTD, keys_BHSD, values_BHSD = (_four_axes(part) for part in (queries, keys, values))
    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    mask = attn_mask
    if is_causal and queries.shape[-2] != keys.shape[-2]:
        # MLX's own causal mask is aligned at the last query, torch's at the first.
        mask = mx.tri(queries.shape[-2], keys.shape[-2], dtype=mx.bool_)
    if dropout_p:
        causal = mx.tri(queries.shape[-2], dtype=mx.bool_) if is_causal and mask is None else mask
        found = _with_dropout(key, queries_BHTD, keys_BHSD, values_BHSD, causal, dropout_p, factor)
    else:
        name = "causal" if is_causal and mask is None else _finite(mask, queries.dtype)
        found = mx.fast.scaled_dot_product_attention(queries_BHTD, keys_BHSD, values_BHSD, scale=factor, mask=name)
    return _unless_blind(found, mask).reshape(shape)


def _four_axes(x: mx.array) -> mx.array:
    return x.reshape((1,) * (4 - x.ndim) + x.shape) if x.ndim < 4 else x


def _finite(mask: mx.array | None, dtype: mx.Dtype) -> mx.array | None:
    """The mask without infinities: a row of them alone would be no number."""
    if mask is None or mask.dtype == mx.bool_:
        return mask
    held, least = mask.astype(dtype), mx.finfo(dtype).min
    return mx.where(held < least, least, held)


def _unless_blind(found: mx.array, mask: mx.array | None) -> mx.array:
    """The result, and zero for queries that see no key."""
    if mask is None:
        return found
    sees = mask if mask.dtype == mx.bool_ else mask > -float("inf")
    return mx.where(mx.any(sees, axis=-1, keepdims=True), found, mx.zeros_like(found))


def _with_dropout(
    key: mx.array,
    queries_BHTD: mx.array,
    keys_BHSD: mx.array,
    values_BHSD: mx.array,
    mask: mx.array | None,
    share: float,
    scale: float,
) -> mx.array:
    """Attention written out: the fused kernel drops nothing."""
    groups = queries_BHTD.shape[1] // keys_BHSD.shape[1]
    if groups > 1:
        keys_BHSD, values_BHSD = (mx.repeat(part, groups, axis=1) for part in (keys_BHSD, values_BHSD))
    scores_BHTS = (queries_BHTD * scale) @ keys_BHSD.swapaxes(-1, -2)
    added = _finite(mask, scores_BHTS.dtype)
    if added is not None and added.dtype == mx.bool_:
        scores_BHTS = mx.where(added, scores_BHTS, mx.finfo(scores_BHTS.dtype).min)
    elif added is not None:
        scores_BHTS = scores_BHTS + added
    shares_BHTS, _ = native_dropout(key, mx.softmax(scores_BHTS, axis=-1, precise=True), share)
    return shares_BHTS @ values_BHSD


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.scaled_dot_product_attention.default": scaled_dot_product_attention,
}
