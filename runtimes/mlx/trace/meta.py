"""Modules without weights: shapes are enough to trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class TraceError(Exception):
    """A module can't become a graph: what it is, where, and what to do."""


class _EmptyOnMeta(TorchFunctionMode):
    """Sends what `torch.empty` makes, the weights of modules before their first values, to the meta device.

    Buffers are computed (arange, zeros, tensor), so they keep their values: rotary frequencies, positions.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        return func(*args, **({**given, "device": "meta"} if func is torch.empty else given))


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Inside, modules are built without memory for their weights, and with the values of their buffers."""
    with _EmptyOnMeta():
        yield


@contextlib.contextmanager
def on_meta(module: nn.Module) -> Iterator[None]:
    """Inside, every parameter and buffer of the module is on the meta device; tied ones stay tied."""
    known: dict[int, Tensor] = {}
    saved = [(part, dict(part._parameters), dict(part._buffers)) for part in module.modules()]  # noqa: SLF001
    try:
        for part, parameters, buffers in saved:
            part._parameters.update({name: _parameter(value, known) for name, value in parameters.items()})  # noqa: SLF001
            part._buffers.update({name: _buffer(value, known) for name, value in buffers.items()})  # noqa: SLF001
        yield
    finally:
        for part, parameters, buffers in saved:
            part._parameters.update(parameters)  # noqa: SLF001
            part._buffers.update(buffers)  # noqa: SLF001


def _parameter(value: nn.Parameter | None, known: dict[int, Tensor]) -> Any:
    if value is not None and id(value) not in known:
        known[id(value)] = nn.Parameter(value.detach().to("meta"), requires_grad=value.requires_grad)
    return None if value is None else known[id(value)]


def _buffer(value: Tensor | None, known: dict[int, Tensor]) -> Any:
    if value is not None and id(value) not in known:
        known[id(value)] = value.detach().to("meta")
    return None if value is None else known[id(value)]
