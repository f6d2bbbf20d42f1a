"""Which arrays of a batch a transformers model is given."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from transformers import PreTrainedModel

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What is made of a text."""


def input_names(model: PreTrainedModel, given: Iterable[str] = TEXT_INPUTS) -> tuple[str, ...]:
    """Those of the arrays given that a model takes everywhere: in training, by the gate, in the exported graph.

    They are those of `forward`, less token_type_ids where the model tells no segments apart: it has one type of them
    (RoBERTa), none (DeBERTa), or reads something else into them (GPT-2).
    """
    taken = inspect.signature(model.forward).parameters
    types = getattr(model.config, "type_vocab_size", 0) > 1
    return tuple(name for name in given if name in taken and (name != "token_type_ids" or types))


def taken_inputs(
    model: PreTrainedModel, batch: Mapping[str, np.ndarray], device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """The arrays of a batch that a model is given, as tensors on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(batch[name])).to(device) for name in input_names(model, batch)}
