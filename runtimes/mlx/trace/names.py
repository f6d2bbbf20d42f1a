"""What transformers calls in a model what a file calls otherwise."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def names_in_model(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """From the names of a file's tensors to those of the model's parameters, as transformers loads them.

    Tensors that transformers computes with on the way (experts that it merges into one) are not among them.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    held = model.state_dict()
    found: dict[str, str] = {}
    for name in stored:
        renamed, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, held)
        if converter is None:
            found[name] = renamed
    return found
