"""Train steps on two engines: the same batches, the same loss, files that both read; whole runs through the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compiler.placement import DeviceKind, Runtime, parse_target, place
from compiler.plan import Train
from runtimes import steps, tasks
from runtimes.backends import backend
from runtimes.execute import execute
from runtimes.protocol import Batch, Engine
from runtimes.rows.batches import collate
from runtimes.rows.features import Features
from runtimes.rows.packing import POSITIONS, SEGMENTS
from runtimes.saved import trained_folder, trained_model
from runtimes.schedule import learning_rate
from tests.conformance.cells import Figures, difference, gradient_difference, worst_difference
from tests.conformance.subjects import FACTS, Project
from tests.runtimes.tiny import placed

STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """An engine after its steps, and what it said on the way."""

    engine: Engine
    losses: np.ndarray[Any, Any]  # of each step, as its norms
    norms: np.ndarray[Any, Any]
    gradients: Mapping[str, np.ndarray[Any, Any]]  # of the first step, clipped, by parameter
    buffers: Mapping[str, np.ndarray[Any, Any]]
    before: float  # the mean loss of a batch in eval mode, as of the next
    after: float


def train_step(project: Project) -> Train:
    """The plan's train step."""
    step = project.compiled.plan.step("train")
    assert isinstance(step, Train)
    return step


def prepared(project: Project) -> Features:
    """The train rows, as the plan's first step leaves them."""
    context = steps.Context(
        plan=project.compiled.plan,
        key="",
        folder=project.folder / "prepared",
        inputs={},
        root=project.folder,
        sources=FACTS.sources,
        placement=project.compiled.placement,
        stop=lambda: False,
    )
    list(steps.execute(project.compiled.plan.step("prepare"), context))
    return Features(context.folder / "train")


def micro_batches(rows: Features, step: Train, number: int) -> tuple[Batch, ...]:
    """Two portions of other lengths; the last one has a row of weight zero."""
    start = number * 7 % (len(rows.targets) - 9)
    parts = (np.arange(start, start + 5), np.arange(start + 5, start + 9))
    weigh = partial(tasks.module_of(step.task).weights, step.task, step.loss)
    return tuple(collate(rows, part, grid=step.lengths, weigh=weigh, fill_to=5) for part in parts)


def unpacked(batch: Batch) -> Batch:
    """A batch as it is evaluated: a sequence is a row."""
    inputs = {name: values for name, values in batch.inputs.items() if name not in (SEGMENTS, POSITIONS)}
    return replace(batch, inputs=inputs)


def do_step(engine: Engine, rows: Features, step: Train, number: int, rate: float) -> tuple[float, float]:
    """The loss of an optimizer step, and the norm of its gradient."""
    batches = micro_batches(rows, step, number)
    total = float(sum(batch.weights.sum() for batch in batches))
    done = engine.train_step(
        batches, denominators={"loss": total}, learning_rates=(rate,), seed=number, number=number
    ).result()
    return done.losses["loss"], done.grad_norm


def twenty_steps(
    name: Runtime, step: Train, model: Path, rows: Features, folder: Path, device: DeviceKind = "cpu"
) -> Trained:
    """An engine after 20 steps. `folder`: engines that share it give new parameters the same first values."""
    from safetensors.numpy import load_file

    engine = backend(name).load_engine(step, model, folder / "init.safetensors", placed(name, device))
    batch = unpacked(micro_batches(rows, step, 3)[0])
    before = engine.evaluate(batch).losses.mean()
    found, gradients = [], {}
    for number in range(STEPS):
        rate = learning_rate(step.schedule, step.learning_rate, number)
        found.append(do_step(engine, rows, step, number, rate))
        if number == 0:
            engine.save_state(folder)
            gradients = _part(load_file(folder / "state.safetensors"), "optimizer/", "/exp_avg")
    engine.save_state(folder)
    state = load_file(folder / "state.safetensors")
    losses, norms = np.asarray(found).T
    return Trained(
        engine=engine,
        losses=losses,
        norms=norms,
        gradients=gradients,
        buffers=_part(state, "buffers/", ""),
        before=float(before),
        after=float(engine.evaluate(batch).losses.mean()),
    )


def _part(state: Mapping[str, Any], prefix: str, suffix: str) -> dict[str, Any]:
    """The values whose names begin and end so, without that."""
    return {
        name.removeprefix(prefix).removesuffix(suffix): value
        for name, value in state.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }


def compare(found: Trained, expected: Trained) -> Figures:
    """How an engine differs from the one that is right. The first moment of Adam is a gradient, times 1 - beta1."""
    figures = {
        "gradients": gradient_difference(found.gradients, expected.gradients),
        "steps": worst_difference(found.losses, expected.losses),
        "norms": worst_difference(found.norms, expected.norms),
        "evaluation": worst_difference(found.after, expected.after),
        "parameters": float(np.abs(np.subtract(found.engine.num_parameters, expected.engine.num_parameters)).max()),
    }
    assert abs(expected.after - expected.before) > 1e-3 * expected.before, "who does not move is equal to anybody"
    assert found.buffers.keys() == expected.buffers.keys()
    if found.buffers:
        figures["buffers"] = max(difference(found.buffers[name], value) for name, value in expected.buffers.items())
    return figures


def saved(name: Runtime, engine: Engine, step: Train, model: Path, rows: Features, folder: Path) -> Figures:
    """What an engine saved answers on both engines, beside what it answers itself."""
    target = folder / "trained" / trained_folder(step)
    target.mkdir(parents=True)
    engine.save_model(target)
    batch = unpacked(micro_batches(rows, step, 0)[0])
    units = np.asarray(tasks.module_of(step.task).head(step.task).units)
    own = engine.evaluate(batch).outputs[batch.positions] / units
    readers = (
        backend(reader).scores(step.task, trained_model(step, folder / "trained", model), "cpu")
        for reader in ("pytorch", "mlx")
    )
    return {"saved": max(difference(scores(batch)[batch.positions] / units, own) for scores in readers)}


def measure(project: Project, runtime: Runtime = "mlx", device: DeviceKind = "cpu") -> Figures:
    """An engine on a device beside PyTorch on the CPU: twenty steps, and the files that it leaves."""
    step, rows = train_step(project), prepared(project)
    expected = twenty_steps("pytorch", step, project.model, rows, project.folder)
    found = twenty_steps(runtime, step, project.model, rows, project.folder, device)
    return {**compare(found, expected), **saved(runtime, found.engine, step, project.model, rows, project.folder)}


def gate(project: Project, runtime: Runtime, device: DeviceKind = "cpu") -> Figures:
    """A whole run: the largest difference that the gate found, in those that it allows, and how many rows it looked at.

    Raises GateError when the gate fails.
    """
    import json

    runs, plan = project.folder / "runs" / runtime, project.compiled.plan
    placement = place(parse_target(device), 9, 5, runtime)
    list(execute(plan, placement, runs=runs, root=project.folder, sources=FACTS.sources))
    report = json.loads((runs / plan.name / "report.json").read_text(encoding="utf-8"))
    assert report["gate_passed"] is True
    edges = report["gates"]["verify"]["verification"]["edges"]
    outputs = [check for edge in edges for check in edge["checks"] if check["type"] == "outputs"]
    return {
        "gate": max(check["max_abs"] / check["tolerance"] for check in outputs),
        "rows": max(check["rows"] for check in outputs),
    }
