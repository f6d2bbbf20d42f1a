"""Every cell of the conformance table."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from compiler.placement import DeviceKind, Runtime
from tests.conformance.cells import Cell, Figures, UnrunError
from tests.conformance.subjects import (
    Subject,
    cover,
    every_encoder,
    every_gate,
    every_masked,
    every_method,
    every_vision,
    loss_names,
    runtimes_of,
    subject_of,
    task_names,
    variants_of,
    write,
)

# What a machine may have: engine, kind of device, and what it is in words.
DEVICES: tuple[tuple[Runtime, DeviceKind, str], ...] = (
    ("mlx", "mps", "an Apple GPU"),
    ("mlx", "cuda", "an NVIDIA GPU"),
    ("pytorch", "cuda", "an NVIDIA GPU"),
    ("pytorch", "mps", "an Apple GPU"),
)


def cells() -> tuple[Cell, ...]:
    """Every cell, in the order of the tables."""
    return (
        *_architectures(),
        *_methods(),
        *_gates(),
        *_masked(),
        *_masked_gates(),
        *_encoders(),
        *_encoder_gates(),
        *_devices(),
        *_device_gates(),
    )


def _architectures() -> Iterator[Cell]:
    """Each architecture that is lowered, with its natural objective."""
    from tests.runtimes.mlx.architectures import ARCHITECTURES

    for name, architecture in ARCHITECTURES.items():
        names = {"architecture": name, "objective": architecture.objective.__name__.lower()}
        yield Cell(table="architectures", names=names, measure=partial(_beside_torch, name))


def _methods() -> Iterator[Cell]:
    """Each task with each loss and method: MLX beside PyTorch."""
    subjects = every_method()
    for subject in (*subjects, *variants_of(subjects)):
        names = {"task": subject.task_name, "loss": subject.loss, "method": subject.method}
        yield Cell(table="methods", names=names, measure=partial(_beside_pytorch, subject, "mlx", "cpu"))


def _gates() -> Iterator[Cell]:
    """Each task with its usual loss and each method: a whole run on each engine that runs the method."""
    gates = every_gate()
    varied = [(subject, engine) for usual, engine in gates for subject in variants_of([usual])]
    for subject, engine in (*gates, *varied):
        names = {"task": subject.task_name, "method": subject.method, "engine": engine}
        yield Cell(table="gates", names=names, measure=partial(_through_the_gate, subject, engine, "cpu"))


def _masked() -> Iterator[Cell]:
    """Hidden tokens: MLX beside PyTorch."""
    for subject in every_masked():
        if len(runtimes_of(subject.method)) > 1:
            names = {"encoder": subject.encoder, "method": subject.method}
            yield Cell(table="masked", names=names, measure=partial(_beside_pytorch, subject, "mlx", "cpu"))


def _masked_gates() -> Iterator[Cell]:
    """Hidden tokens: a whole run on each engine that runs the method."""
    for subject in every_masked():
        for engine in runtimes_of(subject.method):
            names = {"encoder": subject.encoder, "method": subject.method, "engine": engine}
            yield Cell(table="masked gates", names=names, measure=partial(_through_the_gate, subject, engine, "cpu"))


def _encoders() -> Iterator[Cell]:
    """Each encoder and vision model as it may be stored: MLX beside PyTorch."""
    for subject in (*every_encoder(), *every_vision()):
        names = {"encoder": subject.encoder, "stored": subject.stored, "method": subject.method}
        yield Cell(table="encoders", names=names, measure=partial(_beside_pytorch, subject, "mlx", "cpu"))


def _encoder_gates() -> Iterator[Cell]:
    """Each encoder with updates that are merged: a whole run on MLX."""
    for subject in every_encoder():
        if subject.method == "lora":
            names = {"encoder": subject.encoder, "stored": subject.stored, "method": subject.method}
            yield Cell(table="encoder gates", names=names, measure=partial(_through_the_gate, subject, "mlx", "cpu"))


def _devices() -> Iterator[Cell]:
    """Each engine on each kind of device beside PyTorch on the CPU: few subjects with everything somewhere."""
    for engine, device, needed in DEVICES:
        for subject in cover():
            names = {"engine": engine, "device": device, "task": subject.task_name, "loss": subject.loss}
            names |= {"method": subject.method, "model": subject.encoder}
            measure = partial(_on_device, engine, device, needed, partial(_beside_pytorch, subject, engine, device))
            yield Cell(table="devices", names=names, measure=measure)


def _device_gates() -> Iterator[Cell]:
    """Each task, all of it tuned, on each kind of device: a whole run, whose trained model the gate asks there."""
    for engine, device, needed in DEVICES:
        for task in task_names():
            subject = subject_of(task, loss_names(task)[0], "full")
            names = {"engine": engine, "device": device, "task": task, "model": subject.encoder}
            measure = partial(_on_device, engine, device, needed, partial(_through_the_gate, subject, engine, device))
            yield Cell(table="device gates", names=names, measure=measure)


def _beside_torch(architecture: str, folder: Path) -> Figures:
    from tests.conformance.architectures import measure

    return measure(architecture)


def _beside_pytorch(subject: Subject, engine: Runtime, device: DeviceKind, folder: Path) -> Figures:
    from tests.conformance.engines import measure

    return measure(write(subject, folder), engine, device)


def _through_the_gate(subject: Subject, engine: Runtime, device: DeviceKind, folder: Path) -> Figures:
    from tests.conformance.engines import gate

    return gate(write(subject, folder), engine, device)


def _on_device(
    engine: Runtime, device: DeviceKind, needed: str, measure: Callable[[Path], Figures], folder: Path
) -> Figures:
    if not _has(engine, device):
        system = f"{platform.system()} {platform.machine()}"
        raise UnrunError(f"it needs {needed}, and {engine} found none here ({system})")
    return measure(folder)


def _has(engine: Runtime, device: DeviceKind) -> bool:
    """Whether an engine can use a kind of device here."""
    import mlx.core as mx
    import torch

    if engine == "mlx":
        return mx.is_available(mx.Device(mx.gpu)) and (device == "mps") is (platform.system() == "Darwin")
    return torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
