"""The head's last layer: where a task's scale and shift go, so that a saved model answers in the targets' unit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from runtimes.errors import RunError
from runtimes.tasks import Head


@contextlib.contextmanager
def folded(trained: Mapping[str, nn.Parameter], head: Head) -> Iterator[None]:
    """Inside, outputs are raw outputs * scale + shift; afterwards the weights are what they were, to the bit."""
    if (head.scale, head.shift) == (1.0, 0.0):
        yield
        return
    weight, bias = _last_layer(trained, head)
    kept = [value.detach().clone() for value in (weight, bias) if value is not None]
    with torch.no_grad():
        weight.mul_(head.scale)
        if bias is not None:
            bias.mul_(head.scale).add_(head.shift)
    try:
        yield
    finally:
        with torch.no_grad():
            for value, before in zip((weight, bias), kept, strict=False):
                if value is not None:
                    value.copy_(before)


def _last_layer(trained: Mapping[str, nn.Parameter], head: Head) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of the last trained layer that has the head's outputs."""
    names = [name for name, value in trained.items() if value.ndim == 2 and len(value) == head.num_outputs]
    if not names:
        raise RunError("E406", "the model's head has no linear layer at its end", "choose another model")
    bias = trained.get(names[-1].removesuffix("weight") + "bias")
    if bias is None and head.shift:
        raise RunError("E406", "the model's head has no bias to put the mean on", 'set "mean": 0 in the task')
    return trained[names[-1]], bias
