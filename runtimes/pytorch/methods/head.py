"""Head tuning: the encoder is frozen and computes as in evaluation, without dropout and without gradients."""

from __future__ import annotations

from transformers import PreTrainedModel

from compiler.methods import Head
from runtimes.initial import New

DROPS_IN_FROZEN = False


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: Head, task_type: str, model_id: str) -> PreTrainedModel:
    """The model with only its head trainable."""
    model.requires_grad_(False)
    for name in head:
        model.get_submodule(name).requires_grad_(True)
    return model


def new_parameters(model: PreTrainedModel) -> list[New]:
    """Nothing was added."""
    return []
