"""Placement: where and in what portions a plan runs. A value beside the plan, outside every key."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

DeviceKind = Literal["cpu", "cuda", "mps"]
Runtime = Literal["pytorch", "mlx"]
EVERY_RUNTIME: tuple[Runtime, ...] = get_args(Runtime)
_TARGET = re.compile(r"(cpu|cuda|mps)(?::([1-9][0-9]*)GiB)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of device, its memory in GiB where it was said, and why it was chosen."""

    kind: DeviceKind
    memory_gib: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Engine, device and rows computed at once. Changing it changes speed and memory, not what a step means."""

    engine: Runtime
    engine_reason: str
    device: DeviceKind
    device_reason: str
    micro_batch_size: int


def parse_target(text: str) -> Target:
    """The target in `cpu`, `cuda`, `mps` or `cuda:80GiB`. Raises ValueError with what was expected."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text}" is not a target: write cpu, cuda, mps, or a device with its memory, cuda:80GiB')
    kind: DeviceKind = "cuda" if found[1].lower() == "cuda" else "mps" if found[1].lower() == "mps" else "cpu"
    return Target(kind=kind, memory_gib=int(found[2]) if found[2] else None, reason="asked for")


def this_machine() -> Target:
    """The kind of device here, told from the system without importing a framework."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if Path("/proc/driver/nvidia/version").exists() and hidden not in ("", "-1"):
        return Target(kind="cuda", memory_gib=None, reason="an NVIDIA driver is loaded")
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return Target(kind="mps", memory_gib=None, reason="Apple silicon")
    return Target(kind="cpu", memory_gib=None, reason="no accelerator was found")


def choose_runtime(target: Target, wanted: Literal["auto"] | Runtime) -> tuple[Runtime, str]:
    """What runs a plan on a target, and why."""
    if wanted != "auto":
        return wanted, "asked for"
    if target.kind == "mps":
        return "mlx", "the fast runtime of Apple silicon"
    return "pytorch", f"the usual runtime on {target.kind}"


def place(
    target: Target, batch_size: int, micro_batch_size: int | None, runtime: Literal["auto"] | Runtime = "auto"
) -> Placement:
    """The placement of a training step on a target."""
    engine, reason = choose_runtime(target, runtime)
    memory = f", {target.memory_gib} GiB" if target.memory_gib is not None else ""
    return Placement(
        engine=engine,
        engine_reason=reason,
        device=target.kind,
        device_reason=f"{target.reason}{memory}",
        micro_batch_size=min(micro_batch_size or batch_size, batch_size),
    )
