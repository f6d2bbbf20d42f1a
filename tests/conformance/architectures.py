"""An architecture with its natural objective: its graph on MLX beside torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from torch import nn

from compiler.plan import Schedule
from compiler.recipe import AdamW
from runtimes.mlx.graph import Graph
from runtimes.mlx.lower import lower, unlowered, value_and_grad
from runtimes.mlx.optimizers import clip, global_norm, update, zero_moments
from runtimes.schedule import learning_rate
from tests.conformance.cells import Figures, difference, gradient_difference, worst_difference
from tests.runtimes.mlx.architectures import ARCHITECTURES, Images, Objective, Rows, sample
from tests.runtimes.mlx.running import arrays, buffers_of, graph_of, matrices_decay, mlx_step, parameters_of, torch_step

STEPS, RATE, DECAY, LIMIT = 20, 3e-3, 0.01, 1.0
SCHEDULE = Schedule(shape="cosine", warmup_steps=3, num_steps=STEPS)
# Rows and their length. Of one image, batch norm has four values a channel: there torch's own float32 is 2e-5 away from
# float64, and MLX 1e-4.
UNTRACED: Mapping[type[Objective], tuple[tuple[int, int], ...]] = {Images: ((4, 12), (2, 9))}
_UNTRACED = ((4, 12), (1, 9))


def operations(name: str) -> Figures:
    """How many operations the training graph has, each counted once, and how many have no lowering."""
    graph = graph_of(name)
    return {"operations": len({node.op for node in graph.nodes}), "unlowered": len(unlowered(graph))}


def loss_and_gradients(name: str) -> Figures:
    """Of one step, at sizes that were not traced; the loss and the logits count as one figure."""
    architecture, found = ARCHITECTURES[name], []
    for size in UNTRACED.get(architecture.objective, _UNTRACED):
        rows = sample(architecture.objective, *size)
        expected, gradients = torch_step(architecture.build(), rows)
        outputs, _, ours = mlx_step(graph_of(name), architecture.build().model, rows)
        assert outputs["count"] == expected["count"]
        losses = worst_difference(outputs["loss_sum"], expected["loss_sum"])
        logits = difference(outputs["logits"], expected["logits"])
        # torch gives none to what nothing reads (the pooler of an encoder that is a half), MLX gives zeros.
        ours = {name: value for name, value in ours.items() if name in gradients or np.any(value)}
        found.append((max(losses, logits), gradient_difference(ours, gradients)))
    return {"loss": max(loss for loss, _ in found), "gradients": max(gradient for _, gradient in found)}


def twenty_steps(name: str) -> Figures:
    """Of AdamW with schedule, clipping and accumulation; then the buffers, and the loss in eval mode."""
    steps, objective = _batches(name), ARCHITECTURES[name].build()
    ours = copy.deepcopy(objective)
    expected = _torch_losses(objective, steps)
    found, parameters, buffers = _mlx_losses(graph_of(name), ours.model, steps)
    figures = {"steps": worst_difference(found, expected), "learnt": expected[-2] / expected[0]}
    held = {key: np.array(value) for key, value in buffers_of(graph_of(name), objective.model).items()}
    if held:
        figures["buffers"] = max(difference(np.array(buffers[key]), value) for key, value in held.items())
    rows = sample(ARCHITECTURES[name].objective, 5, 7, seed=99)
    outputs, after = lower(graph_of(name, training=False))(parameters, buffers, arrays(rows), None)
    with torch.inference_mode():
        loss = objective.eval()(**{key: torch.from_numpy(value) for key, value in rows.items()})["loss_sum"].item()
    assert all(after[key] is buffers[key] for key in buffers), "evaluation changes no buffer"
    return {**figures, "evaluation": worst_difference(outputs["loss_sum"].item(), loss)}


def measure(name: str) -> Figures:
    """All of an architecture, on the CPU."""
    mx.set_default_device(mx.Device(mx.cpu))
    return {**operations(name), **loss_and_gradients(name), **twenty_steps(name)}


def _batches(name: str) -> list[tuple[Rows, Rows]]:
    """Two micro-batches for each step; the same rows come again, so that they can be learnt."""
    kind = ARCHITECTURES[name].objective
    return [(sample(kind, 4, 9, seed=step % 2), sample(kind, 3, 9, seed=2 + step % 2)) for step in range(STEPS)]


def _torch_losses(objective: Objective, steps: list[tuple[Rows, Rows]]) -> list[float]:
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


def _mlx_losses(graph: Graph, model: nn.Module, steps: list[tuple[Rows, Rows]]) -> tuple[list[float], Any, Any]:
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
            groups=matrices_decay(trained, DECAY),
            step=mx.array(step + 1),
            learning_rate=mx.array(learning_rate(SCHEDULE, RATE, step)),
        )
        mx.eval(trained, moments, buffers)
        losses.append(float(np.array(loss / count)))
    return losses, {**frozen, **trained}, buffers
