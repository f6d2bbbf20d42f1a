"""Virtual tokens through PEFT: vectors before the tokens of each row, the model frozen, the head trained in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import peft
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from runtimes.initial import New
from runtimes.pytorch import adapters
from runtimes.pytorch.virtual import answering_for_rows

Config = TypeVar("Config", bound=peft.PromptLearningConfig)
ENCODER = "prompt_encoder.default"
_FOR_POSITIONS = "TOKEN_CLS"
"""What stands for tasks that PEFT has no type for: it gives on all that a model of texts takes, and all that it gives.
"""


def sizes(model: PreTrainedModel) -> dict[str, Any]:
    """What PEFT's configurations ask of a model, which PEFT itself reads for some architectures only."""
    config: Any = getattr(model.config, "encoder", None) or model.config.get_text_config()
    return {
        "token_dim": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        "num_transformer_submodules": 1,
    }


def embedding_size(model: PreTrainedModel) -> int:
    """The size of a token's vector as the model is given it."""
    return cast(nn.Embedding, model.get_input_embeddings()).embedding_dim


def wrapped(
    model: PreTrainedModel, head: tuple[str, ...], configuration: Config, task_type: str, model_id: str
) -> PeftModel:
    """The PEFT model of a configuration, which answers for the rows' own tokens alone."""
    model.requires_grad_(False)
    configuration.task_type = peft.TaskType[task_type or _FOR_POSITIONS]
    configuration.base_model_name_or_path = model_id
    configuration.modules_to_save = list(head) or None
    return answering_for_rows(adapters.wrapped(model, configuration, head, model_id))


def encoder_parameters(model: nn.Module) -> list[New]:
    """The parameters of what makes virtual tokens, as torch draws them: vectors normal, layers by their inputs."""
    encoder = model.get_submodule(ENCODER)
    return [new for name, module in encoder.named_modules() for new in _drawn(f"{ENCODER}.{name}", module)]


def _drawn(name: str, module: nn.Module) -> Iterator[New]:
    if isinstance(module, nn.Embedding):
        yield New(name=f"{name}.weight", shape=tuple(module.weight.shape), kind="normal", scale=1.0)
    if isinstance(module, nn.Linear):
        for own, value in module.named_parameters():
            yield New(name=f"{name}.{own}", shape=tuple(value.shape), kind="uniform", scale=module.in_features**-0.5)
