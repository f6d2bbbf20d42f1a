"""Graphs of onnxruntime-genai's builder: what they say of themselves, and answers that are PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime_genai", reason="needs the onnx extra")

import torch
import transformers

from compiler.generation import Generation
from runtimes.decoding import left_padded
from runtimes.export.decoding import onnx_decoder
from runtimes.export.facts import ExportFacts
from runtimes.export.grouped import GroupedDecoder
from runtimes.pytorch import onnx_genai as writer
from runtimes.pytorch.decoding import torch_decoder
from runtimes.pytorch.quiet import quiet
from runtimes.saved import SavedModel
from tests.runtimes.decoders import PAD, assert_same_answers, prompts
from tests.runtimes.mlx.architectures import DECODER, configuration
from tests.tiny import save_causal_tokenizer

NEW = 12
WINDOW = 5
ALL: dict[str, Any] = {**DECODER, "hidden_size": 64, "head_dim": 16, "pad_token_id": PAD}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "gemma": ("GemmaForCausalLM", "GemmaConfig", ALL),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**ALL, "sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "granite": ("GraniteForCausalLM", "GraniteConfig", {**ALL, "logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**ALL, "attention_bias": True, "mlp_bias": True}),
    "llama3": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**ALL, "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}},
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**ALL, "sliding_window": WINDOW}),
    "phi3": (
        "Phi3ForCausalLM",
        "Phi3Config",
        {**ALL, "sliding_window": WINDOW, "original_max_position_embeddings": 64},
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {**ALL, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**ALL, "tie_word_embeddings": True}),
}
PROMPTS = prompts()
WAYS = {
    "greedy": Generation(max_new_tokens=NEW),
    "beams": Generation(max_new_tokens=NEW, num_beams=3),
    "drawn": Generation(max_new_tokens=NEW, temperature=0.8, top_p=0.95, seed=3),
}
Exported = tuple[Path, Path, ExportFacts]


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The folder, with a model whose biases and norms say something too, and a tokenizer."""
    model, config, settings = MODELS[name]
    save_causal_tokenizer(folder)
    torch.manual_seed(0)
    with quiet(), torch.no_grad():
        made = getattr(transformers, model)(configuration(config, **settings))
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        made.to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    saved = save(request.param, folder / "model")
    return saved, folder / "out", writer.export(saved, folder / "out", "onnx/model.onnx")


@pytest.fixture(scope="module")
def decoder(exported: Exported) -> GroupedDecoder:
    found = onnx_decoder(exported[1] / "onnx" / "model.onnx", threads=1, max_positions=64)
    assert isinstance(found, GroupedDecoder)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_pytorch(exported: Exported, decoder: GroupedDecoder, way: str) -> None:
    assert_same_answers(decoder, torch_decoder(SavedModel(exported[0])), PROMPTS, WAYS[way])


def test_all_logits_of_a_padded_batch_are_those_of_pytorch(exported: Exported, decoder: GroupedDecoder) -> None:
    ids, mask = left_padded(PROMPTS, PAD)
    model = torch_decoder(SavedModel(exported[0])).model
    for rows, seen in ((ids, mask), (np.flip(ids, 1), np.flip(mask, 1))):  # padded on the left, on the right
        found = decoder.logits(rows, seen)
        for row, prompt in enumerate(seen == 1):
            with torch.inference_mode():
                alone = model(torch.tensor(rows[row][prompt])[None]).logits[0].numpy()
            assert np.abs(found[row][prompt] - alone).max() < 1e-5
