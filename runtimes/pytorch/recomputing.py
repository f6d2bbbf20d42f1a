"""Gradient checkpointing: a layer keeps its inputs alone, and is computed again when its gradients are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from runtimes.errors import RunError
from runtimes.pytorch.dropout import Masks

# Called where a layer begins; gives the context in which the layer draws once more what it draws from there.
Again = Callable[[], AbstractContextManager[None]]


def recompute_layers(model: PreTrainedModel, masks: Masks | None, device: torch.device) -> None:
    """Checkpoints every layer of a model wherever gradients are on. Raises RunError E410 when it can't be.

    The layers are those that transformers would checkpoint. Its own switch passes over layers in evaluation mode, which
    frozen layers are in here, although gradients may flow through them to earlier ones; and it knows of no masks of
    ours. `masks`: where dropout is drawn from, None where torch draws it.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not (model.supports_gradient_checkpointing and layers):
        message = f"transformers can't compute the layers of {type(model).__name__} again for their gradients"
        raise RunError("E410", message, "leave out /training/gradient_checkpointing")
    again = masks.again if masks else _mps_again if device.type == "mps" else nullcontext
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward, again)


def _recomputed(forward: Callable[..., Any], again: Again, *args: Any, **kwargs: Any) -> Any:
    """What the layer's own forward returns."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # A layer that is computed twice would add its keys and values to a cache twice. Nothing in training reads one.
    args = tuple(None if isinstance(value, Cache) else value for value in args)
    kwargs = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    if "use_cache" in kwargs:
        kwargs["use_cache"] = False
    return checkpoint(
        partial(forward, **kwargs), *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again())
    )


def _mps_again() -> AbstractContextManager[None]:
    """Torch's checkpoint keeps the generators of the CPU and of CUDA, not that of MPS."""
    return _mps_drawing_from(torch.mps.get_rng_state())


@contextmanager
def _mps_drawing_from(state: Tensor) -> Iterator[None]:
    now = torch.mps.get_rng_state()
    torch.mps.set_rng_state(state)
    try:
        yield
    finally:
        torch.mps.set_rng_state(now)
