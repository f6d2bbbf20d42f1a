"""Prefix tuning through PEFT: keys and values of virtual tokens in every layer, or a network that makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import peft
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from compiler.methods import Prefix
from runtimes.initial import New
from runtimes.pytorch.methods import virtual

DROPS_IN_FROZEN = True
_DEVIATION = 0.02
"""Of keys and values at first. PEFT's 1 would turn all that the model has learnt to attend to."""


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: Prefix, task_type: str, model_id: str) -> PeftModel:
    """A PEFT model: keys and values before those of each row."""
    config: Any = model.config.get_text_config()
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = virtual.sizes(model) | {"token_dim": num_heads * head_size, "num_attention_heads": num_heads}
    if method.projection:
        sizes["encoder_hidden_size"] = method.hidden_size
    configuration = peft.PrefixTuningConfig(
        num_virtual_tokens=method.num_virtual_tokens,
        prefix_projection=method.projection,
        **sizes,
    )
    return virtual.wrapped(model, head, configuration, task_type, model_id)


def new_parameters(model: nn.Module) -> list[New]:
    """Small keys and values; what a network makes them of, and the network, as PEFT draws them."""
    found = virtual.encoder_parameters(model)
    return found if len(found) > 1 else [replace(found[0], scale=_DEVIATION)]
