"""Placement: where and in what portions a plan runs. A value beside the plan, outside every key."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

DeviceKind = Literal["cpu", "cuda", "mps"]
Runtime = Literal["pytorch", "mlx"]
EVERY_RUNTIME: tuple[Runtime, ...] = get_args(Runtime)
# Where a runtime keeps to a limit of memory: PyTorch's allocator on the CPU has none.
KEEPS_LIMITS: Mapping[Runtime, tuple[DeviceKind, ...]] = {"pytorch": ("cuda", "mps"), "mlx": ("cpu", "cuda", "mps")}
LIMIT_HINT = "write --target {kind} without a limit, or --runtime mlx"
_TARGET = re.compile(r"(cpu|cuda|mps)(?::([1-9][0-9]*)GiB)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of device, its memory in GiB where it was said, and why it was chosen."""

    kind: DeviceKind
    memory_gib: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and in what portions a step is computed. Changing it changes speed and memory, not what a step means."""

    engine: Runtime
    engine_reason: str
    device: DeviceKind
    device_reason: str
    memory_gib: int | None = None  # of the device, that training keeps to; None: all that there is
    micro_batch_size: int  # rows computed at once
    gradient_checkpointing: bool = False  # whether layers are computed again for their gradients, instead of kept


def parse_target(text: str) -> Target:
    """The target in `cpu`, `cuda`, `mps` or `cuda:80GiB`. Raises ValueError with what was expected."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise ValueError(
            f'"{text}" is not a target: write cpu, cuda, mps, or one with its memory in whole GiB, cuda:80GiB'
        )
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


def unkept_limit(target: Target, wanted: Literal["auto"] | Runtime) -> str:
    """Why nothing would keep to the memory of a target; empty where it is kept to, or where none was said."""
    engine, _ = choose_runtime(target, wanted)
    if target.memory_gib is None or target.kind in KEEPS_LIMITS[engine]:
        return ""
    return f"{engine} can't be held to {target.memory_gib} GiB on {target.kind}"


def place(
    target: Target,
    batch_size: int,
    micro_batch_size: int | None,
    runtime: Literal["auto"] | Runtime = "auto",
    *,
    gradient_checkpointing: bool = False,
) -> Placement:
    """The placement of a training step on a target. Limits of memory are taken as they are: see unkept_limit."""
    engine, reason = choose_runtime(target, runtime)
    memory = f", {target.memory_gib} GiB" if target.memory_gib is not None else ""
    return Placement(
        engine=engine,
        engine_reason=reason,
        device=target.kind,
        device_reason=f"{target.reason}{memory}",
        memory_gib=target.memory_gib,
        micro_batch_size=min(micro_batch_size or batch_size, batch_size),
        gradient_checkpointing=gradient_checkpointing,
    )
