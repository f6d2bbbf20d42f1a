"""BitFit: biases are trained, all else is frozen."""

from __future__ import annotations

from transformers import PreTrainedModel

from compiler.methods import BitFit
from compiler.weights import is_bias
from runtimes.initial import New

DROPS_IN_FROZEN = True


def wrap(
    model: PreTrainedModel, head: tuple[str, ...], method: BitFit, task_type: str, model_id: str
) -> PreTrainedModel:
    """The model with its biases and its head trainable; of a head that gives words, which is the model's own, biases.

    Such a head shares its matrix with the embeddings of words, as a rule.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_bias(name, parameter.ndim))
    if model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        for name in head:
            model.get_submodule(name).requires_grad_(True)
    return model


def new_parameters(model: PreTrainedModel) -> list[New]:
    """Nothing was added."""
    return []
