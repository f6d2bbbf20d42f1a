"""Partial tuning: the first layers, and as a rule the embeddings, stay as they are."""

from __future__ import annotations

from transformers import PreTrainedModel

from compiler.layers import layers_of
from compiler.methods import Freeze
from compiler.methods.freeze import frozen
from runtimes.errors import RunError
from runtimes.initial import New

DROPS_IN_FROZEN = False


def wrap(
    model: PreTrainedModel, head: tuple[str, ...], method: Freeze, task_type: str, model_id: str
) -> PreTrainedModel:
    """The model with its first layers frozen, as compiler/layers.py counts them."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    total = len({*layers_of(shapes).values()})
    if method.layers is None or method.layers >= total:
        message = f"/method/layers freezes {method.layers} of {total} layers, none is left to tune"
        raise RunError("E406", message, "freeze fewer, or use the method head")
    kept = frozen(method, shapes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in kept)
    return model


def new_parameters(model: PreTrainedModel) -> list[New]:
    """Nothing was added."""
    return []
