"""Tiny random encoder-decoders of real architectures, saved, and sources for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from runtimes.pytorch.quiet import quiet
from tests.runtimes.mlx.architectures import BERT, NO_DROPOUT, VOCABULARY, configuration, two_berts

PAD, START, END = 1, 2, 3
LONGEST = 14
_HALVES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "init_std": 0.3,
    "dropout": 0.0,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": START,
    "forced_eos_token_id": None,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": START,
}
MODELS: Mapping[str, tuple[str, Any]] = {
    "t5": ("T5ForConditionalGeneration", lambda: configuration("T5Config", **_T5)),
    "bart": ("BartForConditionalGeneration", lambda: configuration("BartConfig", **_HALVES)),
    "marian": ("MarianMTModel", lambda: configuration("MarianConfig", **_HALVES)),
    "encoder-decoder": (
        "EncoderDecoderModel",
        lambda: two_berts({**BERT, **NO_DROPOUT, "initializer_range": 0.3, "max_position_embeddings": 40}),
    ),
}
LIMITS: Mapping[str, int | None] = {"t5": None, "bart": 40, "marian": 40, "encoder-decoder": 40}
"""Tokens that each writes at most."""


def save_pair(name: str, folder: Path) -> Path:
    """The folder, with a model whose answers depend on its sources."""
    model, config = MODELS[name]
    torch.manual_seed(1 if name == "marian" else 2)
    with quiet():
        getattr(transformers, model)._from_config(config(), dtype=torch.float32).save_pretrained(folder)
    return folder


def sources(count: int = 6) -> list[list[int]]:
    """Sources of different lengths."""
    random = np.random.default_rng(0)
    lengths = [1, LONGEST, *random.integers(2, LONGEST, count - 2)]
    return [random.integers(4, VOCABULARY, length).tolist() for length in lengths]
