"""BitFit: biases are trained, all else is frozen."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from compiler.methods import BitFit
from compiler.weights import is_bias
from runtimes.initial import New

DROPS_IN_FROZEN = True


def wrap(
    model: PreTrainedModel, head: tuple[str, ...], method: BitFit, task_type: str, model_id: str
) -> PreTrainedModel:
    """The model with its biases and its head trainable, but for the matrix by which a head gives words.

    That one is the embeddings' own as a rule, and comes with the model.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_bias(name, parameter.ndim))
    for name in head:
        model.get_submodule(name).requires_grad_(True)
    words: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if words is not None:
        words.weight.requires_grad_(False)
    return model


def new_parameters(model: PreTrainedModel) -> list[New]:
    """Nothing was added."""
    return []
