"""Low-rank updates that stay beside a graph of the builder: its logits are PyTorch's with them, and without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime_genai", reason="needs the onnx extra")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from runtimes.export.decoding import onnx_decoder
from runtimes.export.facts import GRAPH, adapter_file
from runtimes.generation.decoding import left_padded
from runtimes.pytorch import onnx_genai as writer
from runtimes.pytorch.quiet import quiet
from tests.runtimes.decoders import PAD, prompts
from tests.runtimes.pytorch.test_onnx_genai import MODELS, save

pytestmark = [pytest.mark.slow, pytest.mark.long]

PROMPTS = prompts()


def adapted(base: Path, folder: Path, **options: Any) -> Any:
    """A model of PEFT's with updates that say something, saved in the folder."""
    with quiet(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(base)
        linear = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
        settings = {"r": 4, "lora_alpha": 6, "target_modules": [f"model.{name}" for name in linear], **options}
        found = get_peft_model(model, LoraConfig(**settings)).eval()
        for name, parameter in found.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.1)
        found.save_pretrained(str(folder))
    return found


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return found


SETTINGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "some modules": ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "some packed modules": ("phi3", {"target_modules": ["qkv_proj", "down_proj"]}),
    "others beside packed modules": ("phi3", {"target_modules": ["o_proj", "down_proj"]}),
    "one module": ("qwen3", {"target_modules": ["k_proj"]}),
    "rank-stabilized": ("llama", {"use_rslora": True}),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in MODELS), *SETTINGS.values()],
    ids=[*MODELS, *SETTINGS],
)
def test_logits_are_those_of_peft_with_the_adapter_and_of_the_base_without(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    base = save(name, tmp_path / "model")
    model = adapted(base, tmp_path / "adapter", **options)
    facts = writer.export(base, tmp_path / "out", GRAPH, adapter=tmp_path / "adapter")
    graph = tmp_path / "out" / GRAPH
    assert not any("lora" in name for name in facts.inputs)
    ids, mask = left_padded(PROMPTS, PAD)
    with_it = onnx_decoder(graph, threads=1, adapter=adapter_file(graph)).logits(ids, mask)
    without = onnx_decoder(graph, threads=1).logits(ids, mask)
    assert np.abs(with_it - without).max() > 0.1
    for row, prompt in enumerate(PROMPTS):
        seen = mask[row] == 1
        assert np.abs(with_it[row][seen] - logits_of(model, prompt)).max() < 1e-5
        with model.disable_adapter():
            assert np.abs(without[row][seen] - logits_of(model, prompt)).max() < 1e-5


def test_a_graph_without_an_adapter_has_no_optional_inputs(tmp_path: Path) -> None:
    base = save("llama", tmp_path / "model")
    writer.export(base, tmp_path / "out", GRAPH)
    inner = onnx_decoder(tmp_path / "out" / GRAPH, threads=1).session.inner
    assert inner.get_overridable_initializers() == []
    assert not adapter_file(tmp_path / "out" / GRAPH).exists()
