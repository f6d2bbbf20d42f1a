"""Devices that this installation of PyTorch can compute on."""

from __future__ import annotations

import torch

from runtimes.errors import RunError


def describe_devices() -> list[str]:
    """A line about each device."""
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps (Apple GPU)")
    return found


def require_device(kind: str) -> None:
    """Nothing when torch can compute there. Raises RunError with what to do otherwise."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[kind]:
        there = ", ".join(name for name, available in present.items() if available)
        message = f"the placement asks for {kind}, and this installation of PyTorch has {there}"
        raise RunError("E407", message, f"run with --target cpu, or install a build of PyTorch for {kind}")
