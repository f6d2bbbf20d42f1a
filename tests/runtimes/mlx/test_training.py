"""Whole training on MLX beside torch: loss by loss, and what is left in the buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np
import peft
import torch
from torch import nn

from compiler.plan import Schedule
from compiler.recipe import AdamW
from runtimes.mlx.graph import Graph
from runtimes.mlx.lower import lower, value_and_grad
from runtimes.mlx.optimizers import clip, global_norm, update, zero_moments
from runtimes.mlx.passes import simplify
from runtimes.mlx.trace import trace, weightless
from runtimes.pytorch.quiet import quiet
from runtimes.schedule import learning_rate
from tests.runtimes.mlx.architectures import ARCHITECTURES, Objective, Rows, sample
from tests.runtimes.mlx.running import (
    arrays,
    assert_equal_gradients,
    buffers_of,
    graph_of,
    mlx_step,
    parameters_of,
    torch_step,
)

STEPS, RATE, DECAY, LIMIT = 20, 3e-3, 0.01, 1.0
SCHEDULE = Schedule(shape="cosine", warmup_steps=3, num_steps=STEPS)
QUICK = ("bert", "llama", "resnet")


def batches(name: str) -> list[tuple[Rows, Rows]]:
    """Two micro-batches for each step; the same rows come again, so that they can be learnt."""
    kind = ARCHITECTURES[name].objective
    return [(sample(kind, 4, 9, seed=step % 2), sample(kind, 3, 9, seed=2 + step % 2)) for step in range(STEPS)]


def torch_losses(objective: Objective, steps: list[tuple[Rows, Rows]]) -> list[float]:
    trained = [value for value in objective.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": DECAY},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    losses = []
    for step, micro_batches in enumerate(steps):
        found = [objective(**{name: torch.from_numpy(value) for name, value in rows.items()}) for rows in micro_batches]
        loss = sum(part["loss_sum"] for part in found) / sum(part["count"] for part in found)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, LIMIT)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(SCHEDULE, RATE, step)
        optimizer.step()
        losses.append(loss.item())
    return losses


def mlx_losses(graph: Graph, model: nn.Module, steps: list[tuple[Rows, Rows]]) -> tuple[list[float], Any, Any]:
    frozen = parameters_of(graph, model)
    trained = {name: frozen.pop(name) for name in graph.trainable}
    buffers, moments, optimizer = buffers_of(graph, model), zero_moments(AdamW(), trained), AdamW()
    step_of = value_and_grad(lower(graph), lambda outputs: outputs["loss_sum"])
    losses = []
    for step, micro_batches in enumerate(steps):
        loss, count = mx.array(0.0), mx.array(0.0)
        total = {name: mx.zeros_like(value) for name, value in trained.items()}
        for rows in micro_batches:
            (outputs, buffers), gradients = step_of(trained, frozen, buffers, arrays(rows), mx.random.key(step))
            loss, count = loss + outputs["loss_sum"], count + outputs["count"]
            total = {name: value + gradients[name] for name, value in total.items()}
        total = {name: value / count for name, value in total.items()}
        trained, moments = update(
            optimizer,
            trained,
            clip(total, global_norm(total), LIMIT),
            moments,
            step=mx.array(step + 1),
            learning_rate=mx.array(learning_rate(SCHEDULE, RATE, step)),
            weight_decay=DECAY,
        )
        mx.eval(trained, moments, buffers)
        losses.append(float(np.array(loss / count)))
    return losses, {**frozen, **trained}, buffers


def named(names: Any) -> Callable[[Any], Any]:
    return pytest.mark.parametrize(
        "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]
    )


@named(ARCHITECTURES)
def test_twenty_steps_of_adamw_with_schedule_clipping_and_accumulation_equal_torchs(name: str) -> None:
    steps, objective = batches(name), ARCHITECTURES[name].build()
    ours = copy.deepcopy(objective)
    expected = torch_losses(objective, steps)
    found, parameters, buffers = mlx_losses(graph_of(name), ours.model, steps)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected[-2] < 0.95 * expected[0], "the model learns, else all of this says little"
    for key, value in buffers_of(graph_of(name), objective.model).items():
        np.testing.assert_allclose(np.array(buffers[key]), np.array(value), rtol=1e-4, atol=1e-5)
    evaluated = simplify(trace(objective.eval(), ARCHITECTURES[name].inputs, root="model"))
    rows = sample(ARCHITECTURES[name].objective, 5, 7, seed=99)
    outputs, after = lower(evaluated)(parameters, buffers, arrays(rows), None)
    with torch.inference_mode():
        loss = objective(**{key: torch.from_numpy(value) for key, value in rows.items()})["loss_sum"].item()
    assert outputs["loss_sum"].item() == pytest.approx(loss, rel=1e-4)
    assert all(after[key] is buffers[key] for key in buffers), "evaluation changes no buffer"


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_compiled_step_equals_the_plain_one(name: str) -> None:
    graph, model = graph_of(name), ARCHITECTURES[name].build().model
    optimizer, step_of = AdamW(), value_and_grad(lower(graph), lambda outputs: outputs["loss_sum"])

    def step(trained: Any, moments: Any, buffers: Any, inputs: Any, number: mx.array) -> Any:
        (outputs, after), gradients = step_of(trained, {}, buffers, inputs, mx.random.key(0))
        rate = mx.array(RATE)
        moved = update(optimizer, trained, gradients, moments, step=number, learning_rate=rate, weight_decay=DECAY)
        return outputs["loss_sum"], *moved, after

    trained, buffers = parameters_of(graph, model), buffers_of(graph, model)
    plain = compiled = (mx.array(0.0), trained, zero_moments(optimizer, trained), buffers)
    fused = mx.compile(step)
    for number in range(1, 4):
        rows = arrays(sample(ARCHITECTURES[name].objective, 4, 9, seed=number))
        plain = step(*plain[1:], rows, mx.array(number))
        compiled = fused(*compiled[1:], rows, mx.array(number))
        np.testing.assert_allclose(np.array(compiled[0]), np.array(plain[0]), rtol=1e-5)
    for key, value in plain[3].items():
        np.testing.assert_allclose(np.array(compiled[3][key]), np.array(value), rtol=1e-4, atol=1e-5)


def with_lora(name: str, dropout: float = 0.0) -> Objective:
    """The objective on a model with low-rank updates of its linear layers, all else frozen."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "lora_dropout": dropout, "target_modules": "all-linear"}
    objective = ARCHITECTURES[name].build()
    kind = peft.TaskType.SEQ_CLS if name == "bert" else peft.TaskType.CAUSAL_LM
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


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_lora_on_a_frozen_base_has_torchs_loss_and_gradients(name: str) -> None:
    with weightless():
        bare = with_lora(name)
    graph = simplify(trace(bare, ARCHITECTURES[name].inputs, root="model"))
    objective = with_lora(name)
    lora_values(objective)
    rows = sample(ARCHITECTURES[name].objective, 4, 9)
    expected, expected_gradients = torch_step(objective, rows)
    found, _, gradients = mlx_step(graph, objective.model, rows)
    assert 0 < len(graph.trainable) < len(graph.parameters)
    assert found["loss_sum"] == pytest.approx(expected["loss_sum"], rel=1e-5)
    assert_equal_gradients(gradients, expected_gradients)


def test_lora_dropout_draws_another_mask_each_step() -> None:
    with weightless():
        bare = with_lora("llama", dropout=0.5)
    graph = simplify(trace(bare, ARCHITECTURES["llama"].inputs, root="model"))
    objective = with_lora("llama")
    lora_values(objective)
    rows = sample(ARCHITECTURES["llama"].objective, 4, 9)
    losses = [mlx_step(graph, objective.model, rows, key)[0]["loss_sum"].item() for key in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_bfloat16_computes_with_float32_masters(name: str) -> None:
    with weightless():
        bare = ARCHITECTURES[name].build(dtype=torch.bfloat16)
    graph = simplify(trace(bare, ARCHITECTURES[name].inputs, root="model"))
    assert {own.dtype for own in graph.parameters.values()} == {"bfloat16"}
    objective = ARCHITECTURES[name].build()
    rows = sample(ARCHITECTURES[name].objective, 8, 9)
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
