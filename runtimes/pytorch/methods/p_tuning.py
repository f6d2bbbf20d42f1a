"""P-tuning through PEFT: an MLP makes the vectors of virtual tokens; they are saved, and it is not."""

from __future__ import annotations

import peft
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from compiler.methods import PTuning
from runtimes.initial import New
from runtimes.pytorch.methods import virtual

DROPS_IN_FROZEN = True


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: PTuning, task_type: str, model_id: str) -> PeftModel:
    """A PEFT model: virtual tokens before each row, made by an MLP."""
    assert method.hidden_size != "auto", "resolved"
    configuration = peft.PromptEncoderConfig(
        num_virtual_tokens=method.num_virtual_tokens,
        encoder_hidden_size=method.hidden_size,
        encoder_reparameterization_type=peft.PromptEncoderReparameterizationType.MLP,
        **virtual.sizes(model) | {"token_dim": virtual.embedding_size(model)},
    )
    return virtual.wrapped(model, head, configuration, task_type, model_id)


def new_parameters(model: nn.Module) -> list[New]:
    """What the MLP is given, and the MLP, as PEFT draws them."""
    return virtual.encoder_parameters(model)
