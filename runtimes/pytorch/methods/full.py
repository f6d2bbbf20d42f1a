"""Full tuning: every parameter is trained."""

from __future__ import annotations

from transformers import PreTrainedModel

from compiler.methods import Full
from runtimes.initial import New

DROPS_IN_FROZEN = True


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: Full, task_type: str, model_id: str) -> PreTrainedModel:
    """The model, all of it trainable."""
    return model.requires_grad_(True)


def new_parameters(model: PreTrainedModel) -> list[New]:
    """Nothing was added."""
    return []
