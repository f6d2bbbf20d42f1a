"""Dropout on CPU from numpy's bits: torch draws its masks on one thread, number by number, which is a fifth of a step.

Masks are functions of the step's seed and the order of the draws.
"""

# B = batch, H = heads, T = tokens, D = size of a head

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

ATTENTION = "recipec_seeded"
_STEPS = 1 << 16  # 16 bits decide about an element: shares are rounded to 1 / 65536, and scaled by what they became


class Masks:
    """Where the masks of a model come from."""

    def __init__(self) -> None:
        self._bits = np.random.SFC64(0)

    def seed(self, seed: int) -> None:
        """Begins the masks of a step."""
        self._bits = np.random.SFC64(seed)

    def again(self) -> AbstractContextManager[None]:
        """A context, for later, in which the masks that come next are drawn once more."""
        return self._drawing_from(self._bits.state)

    @contextmanager
    def _drawing_from(self, state: Any) -> Iterator[None]:
        now = self._bits.state
        self._bits.state = state
        try:
            yield
        finally:
            self._bits.state = now

    def draw(self, shape: torch.Size, share: float) -> Tensor:
        """Zero for a share of the elements, 1 / (1 - share) for the others; float32."""
        count, dropped = math.prod(shape), min(round(share * _STEPS), _STEPS - 1)
        drawn = self._bits.random_raw(-(-count // 4)).view(np.uint16)[:count]
        return torch.from_numpy(np.multiply(drawn >= dropped, np.float32(_STEPS / (_STEPS - dropped)))).view(shape)


class SeededDropout(nn.Dropout):
    """nn.Dropout with masks of ours."""

    masks: Masks

    def forward(self, x: Tensor) -> Tensor:
        """X with a share of its elements zeroed."""
        if not self.training or self.p == 0.0:
            return x
        return x * self.masks.draw(x.shape, self.p).to(x.dtype)


def seeded_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention with dropout on its probabilities; all else is torch's own, in one kernel."""
    masks = getattr(module, "masks", None)
    if dropout == 0.0 or masks is None or not _is_plain(module, query_BHTD, key_BHTD, attention_mask, **kwargs):
        return sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHTT = torch.matmul(query_BHTD * scale, key_BHTD.transpose(-1, -2))
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores_BHTT.masked_fill_(~attention_mask, torch.finfo(scores_BHTT.dtype).min)
    elif attention_mask is not None:
        scores_BHTT.add_(attention_mask)
    shares_BHTT = scores_BHTT.softmax(dim=-1)
    shares_BHTT = shares_BHTT * masks.draw(shares_BHTT.shape, dropout).to(shares_BHTT.dtype)
    return torch.matmul(shares_BHTT, value_BHTD).transpose(1, 2).contiguous(), None


def _is_plain(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    attention_mask: Tensor | None,
    *,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> bool:
    """Whether the mask alone says who sees whom, and every head of the queries has its own keys."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    masked = attention_mask is not None or not causal
    return masked and position_bias is None and query_BHTD.shape[1] == key_BHTD.shape[1]


def seed_dropout(model: nn.Module, inner: PreTrainedModel) -> Masks:
    """The masks that a model on CPU takes from now on; names and files of the model stay as they are."""
    masks = Masks()
    for module in model.modules():
        module.masks = masks  # type: ignore[assignment]
        if type(module) is nn.Dropout:
            module.__class__ = SeededDropout
    if inner.config._attn_implementation == "sdpa":  # noqa: SLF001  (the only name it has)
        AttentionInterface.register(ATTENTION, seeded_attention)
        AttentionMaskInterface.register(ATTENTION, eager_mask)
        inner.set_attn_implementation(ATTENTION)
    return masks
