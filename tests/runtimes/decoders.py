"""Tiny random causal language models of real architectures, saved, and prompts for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from compiler.generation import Generation
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import Decoder, Forced, generate, left_padded
from runtimes.pytorch.decoding import TorchDecoder
from runtimes.pytorch.quiet import quiet
from tests.runtimes.mlx.architectures import DECODER, VOCABULARY, configuration

PAD = 1
LONGEST = 14
NEW = 12
WAYS = {
    "greedy": Generation(max_new_tokens=NEW),
    "beams": Generation(max_new_tokens=NEW, num_beams=3),
    "drawn": Generation(max_new_tokens=NEW, temperature=0.8, top_p=0.95, seed=3),
}
MODELS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 8, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**DECODER, "sliding_window": 5}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
}


TRACED = ("qwen3", "mistral", "gpt2")
"""Those that are traced: tied weights and norms of heads, a window, learnt positions. Llama is Mistral without it."""
OTHERS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
    ),
}
"""Models that keep something else than keys and values."""


def save_decoder(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The folder, with a model whose answers depend on its prompts."""
    model, config, settings = {**MODELS, **OTHERS}[name]
    torch.manual_seed(0)
    with quiet():
        getattr(transformers, model)(configuration(config, **settings)).to(dtype).save_pretrained(folder)
    return folder


def prompts(count: int = 6) -> list[list[int]]:
    """Prompts of different lengths, some longer than the window of the model that has one."""
    random = np.random.default_rng(0)
    lengths = [1, LONGEST, *random.integers(2, LONGEST, count - 2)]
    return [random.integers(4, VOCABULARY, length).tolist() for length in lengths]


def assert_same_logits(logits: Callable[[Ids, Ids], Floats], source: TorchDecoder, given: list[list[int]]) -> None:
    """Of a batch that is padded, on the left or on the right, those of each row alone."""
    ids, mask = left_padded(given, PAD)
    for rows, seen in ((ids, mask), (np.flip(ids, 1), np.flip(mask, 1))):
        found = logits(rows, seen)
        for row, prompt in enumerate(seen == 1):
            with torch.inference_mode():
                alone = source.model(torch.tensor(rows[row][prompt])[None]).logits[0].numpy()
            assert np.abs(found[row][prompt] - alone).max() < 1e-5


def assert_same_readings(found: Sequence[Forced], expected: Sequence[Forced]) -> None:
    """The same best tokens, with log-probabilities and margins within float32's noise."""
    for one, other in zip(found, expected, strict=True):
        assert one.best.tolist() == other.best.tolist()
        assert np.abs(one.log_probs - other.log_probs).max() < 1e-5
        assert np.abs(one.margins - other.margins).max() < 1e-5


def assert_same_answers(
    decoder: Decoder[Any], source: Decoder[Any], given: list[list[int]], generation: Generation
) -> None:
    """The same tokens, ended alike, with log-probabilities and margins within float32's noise."""
    free = generate(source, given, generation, eos_ids=[], pad_id=PAD)
    eos_ids = sorted({answer.ids[place + 2] for place, answer in enumerate(free[:2])})
    found, expected = (
        generate(one, given, generation, eos_ids=eos_ids, pad_id=PAD, batch_size=4 * generation.num_beams)
        for one in (decoder, source)
    )
    assert len({len(answer.ids) for answer in expected}) > 1, "no row ended early"
    for answer, other in zip(found, expected, strict=True):
        assert (answer.ids, answer.ended) == (other.ids, other.ended)
        assert np.abs(np.array(answer.log_probs) - other.log_probs).max() < 1e-5
        assert np.abs(np.array(answer.margins) - other.margins).max() < 1e-5
