"""NEFTune: noise on the embeddings of what is read, in training alone (Jain et al. 2023, arXiv:2310.05914)."""

# B = batch, T = tokens, D = width of an embedding

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compiler.plan import Train
from runtimes.rows.packing import SEGMENTS


class EmbeddingNoise:
    """Adds uniform noise within +-alpha / sqrt(tokens of the row * D) to what an embedding gives."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.counts: Tensor | None = None  # [B, 1 or T] tokens of the row that a token is in; None: no noise
        self.reading = True  # what an encoder-decoder writes has no noise

    def measure(self, inputs: Mapping[str, Tensor] | None) -> None:
        """Takes the rows' tokens of the inputs that come next; None for no noise on them."""
        self.counts = None if inputs is None else token_counts(inputs)

    def __call__(self, module: Any, args: Any, embedded_BTD: Tensor) -> Tensor:
        """The embeddings with noise: a hook on the module that gives them."""
        if self.counts is None or not self.reading:
            return embedded_BTD
        drawn_BTD = torch.rand_like(embedded_BTD, dtype=torch.float32) * 2 - 1
        most = self.alpha / math.sqrt(embedded_BTD.shape[-1]) / self.counts.clamp(min=1).to(torch.float32).sqrt()
        return embedded_BTD + (drawn_BTD * most[..., None]).to(embedded_BTD.dtype)


def token_counts(inputs: Mapping[str, Tensor]) -> Tensor:
    """How many tokens, padding apart, the row of each token has: [B, 1], or [B, T] where rows share a sequence."""
    if SEGMENTS not in inputs:
        return inputs["attention_mask"].sum(dim=1, keepdim=True)
    segments_BT = inputs[SEGMENTS]
    return (segments_BT[:, :, None] == segments_BT[:, None, :]).sum(dim=-1)


def embedding_noise(step: Train, model: PreTrainedModel) -> EmbeddingNoise | None:
    """The noise of a train step, hooked into its model; None where there is none."""
    if not step.neftune_alpha:
        return None
    noise = EmbeddingNoise(step.neftune_alpha)
    reader: Any = model
    if model.config.is_encoder_decoder:
        reader = model.get_encoder()
        noise.reading = False
        reader.register_forward_pre_hook(lambda *_: setattr(noise, "reading", True))
        reader.register_forward_hook(lambda *_: setattr(noise, "reading", False))
    reader.get_input_embeddings().register_forward_hook(noise)
    return noise
