"""Devices that this installation of PyTorch can compute on."""

from __future__ import annotations

from typing import assert_never

import torch

from compiler.placement import DeviceKind
from runtimes.errors import RunError

_MOST_OF_MPS = 2.0  # times the recommended memory; torch takes no more


def describe_devices() -> list[str]:
    """A line about each device."""
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps (Apple GPU)")
    return found


def limit_memory(kind: DeviceKind, gib: int) -> None:
    """Makes torch's allocator run out of memory beyond a limit, which may be more than the device has."""
    match kind:
        case "cuda":
            total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            torch.cuda.set_per_process_memory_fraction(min(gib * 2**30 / total, 1.0))
        case "mps":
            total = torch.mps.recommended_max_memory()
            torch.mps.set_per_process_memory_fraction(min(gib * 2**30 / total, _MOST_OF_MPS))
        case "cpu":
            raise AssertionError("limits on the CPU are refused where they are written")
        case _:
            assert_never(kind)


def require_device(kind: str) -> None:
    """Nothing when torch can compute there. Raises RunError with what to do otherwise."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[kind]:
        there = ", ".join(name for name, available in present.items() if available)
        message = f"the placement asks for {kind}, and this installation of PyTorch has {there}"
        raise RunError("E407", message, f"run with --target cpu, or install a build of PyTorch for {kind}")
