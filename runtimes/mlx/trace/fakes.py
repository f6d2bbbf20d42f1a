"""Modules without weights: shapes are enough to trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
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
def weighty() -> Iterator[None]:
    """Inside of `weightless`, modules are built with their weights all the same."""
    with torch._C.DisableTorchFunction():  # noqa: SLF001  (documented for those who write modes, under this name)
        yield


@contextlib.contextmanager
def faked(module: nn.Module) -> Iterator[FakeTensorMode]:
    """Inside, parameters and buffers of the module have no memory and are on CPU; tied ones stay tied.

    On CPU, not on meta, so that constants that `forward` makes, and tensors that are no buffers, keep their values.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    known: dict[int, Tensor] = {}
    saved = [(part, dict(part._parameters), dict(part._buffers)) for part in module.modules()]  # noqa: SLF001
    try:
        for part, parameters, buffers in saved:
            for own, values in ((part._parameters, parameters), (part._buffers, buffers)):  # noqa: SLF001
                own.update({name: _fake(value, mode, known) for name, value in values.items()})
        yield mode
    finally:
        for part, parameters, buffers in saved:
            part._parameters.update(parameters)  # noqa: SLF001
            part._buffers.update(buffers)  # noqa: SLF001


def _fake(value: Tensor | None, mode: FakeTensorMode, known: dict[int, Tensor]) -> Any:
    """A tensor of the same shape without memory; the same one for the same tensor."""
    if value is None:
        return None
    if id(value) not in known:
        with mode:
            bare = torch.empty(value.shape, dtype=value.dtype, device="cpu")
            known[id(value)] = nn.Parameter(bare, value.requires_grad) if isinstance(value, nn.Parameter) else bare
    return known[id(value)]
