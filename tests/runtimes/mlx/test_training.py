"""Training a decoder on MLX beside torch: LoRA and bfloat16. tests/runtimes/test_engines.py trains encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np
import peft
import torch
from transformers import BertConfig, BertModel

from runtimes.mlx.backend import headers
from runtimes.mlx.lower import lower, value_and_grad
from runtimes.mlx.passes import simplify
from runtimes.mlx.trace import trace, weightless
from runtimes.mlx.trace.training import build
from runtimes.mlx.weights import weight_files
from runtimes.pytorch.quiet import quiet
from runtimes.tasks import Head
from tests.runtimes.mlx.architectures import ARCHITECTURES, Objective, sample
from tests.runtimes.mlx.running import (
    arrays,
    assert_equal_gradients,
    mlx_step,
    parameters_of,
    torch_step,
)

LLAMA = ARCHITECTURES["llama"]


def with_lora() -> Objective:
    """Llama's objective with low-rank updates of its linear layers, all else frozen."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    objective = LLAMA.build()
    kind = peft.TaskType.CAUSAL_LM
    with quiet():
        objective.model = peft.get_peft_model(objective.model, peft.LoraConfig(**settings, task_type=kind))
    return objective.train()


def lora_values(objective: Objective) -> None:
    """Random updates: those of a new adapter are zero, and half of its gradients with them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in objective.named_parameters():
            if "lora_" in key:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))


def test_lora_on_a_frozen_base_has_torchs_loss_and_gradients() -> None:
    with weightless():
        bare = with_lora()
    graph = simplify(trace(bare, LLAMA.inputs, root="model"))
    objective = with_lora()
    lora_values(objective)
    rows = sample(LLAMA.objective, 4, 9)
    expected, expected_gradients = torch_step(objective, rows)
    found, _, gradients = mlx_step(graph, objective.model, rows)
    assert 0 < len(graph.trainable) < len(graph.parameters)
    assert found["loss_sum"] == pytest.approx(expected["loss_sum"], rel=1e-5)
    assert_equal_gradients(gradients, expected_gradients)


def test_bfloat16_computes_with_float32_masters() -> None:
    with weightless():
        bare = LLAMA.build(dtype=torch.bfloat16)
    graph = simplify(trace(bare, LLAMA.inputs, root="model"))
    assert {own.dtype for own in graph.parameters.values()} == {"bfloat16"}
    objective = LLAMA.build()
    rows = sample(LLAMA.objective, 8, 9)
    expected, expected_gradients = torch_step(objective, rows)
    trained = parameters_of(graph, objective.model)
    step = value_and_grad(lower(graph), lambda outputs: outputs["loss_sum"])
    (outputs, _), gradients = step(trained, {}, {}, arrays(rows), mx.random.key(0))
    assert outputs["logits"].dtype == mx.bfloat16
    assert {value.dtype for value in gradients.values()} == {mx.float32}
    # bfloat16 has 8 bits: 0.4 % for each rounding, of which a two-layer model makes a few dozen.
    assert outputs["loss_sum"].item() == pytest.approx(float(expected["loss_sum"]), rel=0.02)
    flat = [
        np.concatenate([values[key].ravel() for key in expected_gradients])
        for values in (
            {key: np.array(value) for key, value in gradients.items()},
            expected_gradients,
        )
    ]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert cosine > 0.99


def test_a_model_that_was_saved_in_bfloat16_is_built_in_float32(tmp_path: Path) -> None:
    settings = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert: Any = BertModel(BertConfig.from_dict(settings))
    with quiet():
        bert.to(torch.bfloat16).save_pretrained(tmp_path)
    head = Head(auto_class="AutoModelForSequenceClassification", peft_task="SEQ_CLS", config={}, num_outputs=2)
    loaded, _ = build(tmp_path, head, headers(weight_files(tmp_path)))
    assert {value.dtype for value in loaded.model.parameters()} == {torch.float32}
