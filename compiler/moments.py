"""Where an optimizer's running means can be held in 8 bits, or paged: by bitsandbytes, with PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compiler.placement import DeviceKind, Runtime
from compiler.recipe import AdamW, Optimizer

PACKAGE = "bitsandbytes"
_HELD_BY: Runtime = "pytorch"
_WAYS: Mapping[str, tuple[str, tuple[DeviceKind, ...]]] = {
    "state": ("running means in 8 bits", ("cuda", "cpu")),
    "paged": ("paged running means", ("cuda",)),
}


def wanted(optimizer: Optimizer) -> tuple[str, ...]:
    """The keys of an optimizer that ask for running means held otherwise than as 32-bit numbers on the device."""
    match optimizer:
        case AdamW(state=state, paged=paged):
            return (*(("state",) if state == "8-bit" else ()), *(("paged",) if paged else ()))
        case _:
            return ()


def unheld(optimizer: Optimizer, engine: Runtime, device: DeviceKind | None) -> Iterator[tuple[str, str]]:
    """The keys that an engine on a device can't fulfil, each with where it can be; None: wherever that may be."""
    for key in wanted(optimizer):
        what, devices = _WAYS[key]
        if engine != _HELD_BY or (device is not None and device not in devices):
            yield key, f"{what} need {_HELD_BY} on {' or '.join(devices)}"
