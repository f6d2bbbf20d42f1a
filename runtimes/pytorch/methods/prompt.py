"""Prompt tuning through PEFT: the vectors of virtual tokens are the parameters."""

from __future__ import annotations

import peft
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from compiler.methods import Prompt
from runtimes.initial import New
from runtimes.pytorch.methods import virtual

DROPS_IN_FROZEN = True
_DEVIATION = 0.02  # where the model's configuration does not name its initializer_range


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: Prompt, task_type: str, model_id: str) -> PeftModel:
    """A PEFT model: virtual tokens before each row."""
    sizes = virtual.sizes(model) | {"token_dim": virtual.embedding_size(model)}
    configuration = peft.PromptTuningConfig(num_virtual_tokens=method.num_virtual_tokens, **sizes)
    return virtual.wrapped(model, head, configuration, task_type, model_id)


def new_parameters(model: nn.Module) -> list[New]:
    """The vectors, drawn as transformers draws those of tokens."""
    name = f"{virtual.ENCODER}.embedding.weight"
    deviation = float(getattr(model.config, "initializer_range", None) or _DEVIATION)
    return [New(name=name, shape=tuple(model.get_parameter(name).shape), kind="normal", scale=deviation)]
