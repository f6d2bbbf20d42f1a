"""Saved models with virtual tokens: PEFT's own, called as the model inside it, and what a decoder starts from."""

# B = rows, V = virtual tokens, T = tokens, H = heads of keys, D = size of a head

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, PeftType, PromptLearningConfig
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from runtimes.errors import RunError
from runtimes.generation.virtual import VirtualCache
from runtimes.pytorch.precision import exact_float32

_VECTORS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)
"""Virtual tokens that take part as tokens do, and that a model answers for."""
_POSITIONS = ("CAUSAL_LM", "TOKEN_CLS")
_RESULTS = ("logits", "start_logits", "end_logits")


def configuration_of(model: PeftModel) -> PromptLearningConfig | None:
    """How the virtual tokens of a PEFT model are made; None for one without."""
    found = model.peft_config["default"]
    return found if isinstance(found, PromptLearningConfig) else None


def answering_for_rows(model: PeftModel) -> PeftModel:
    """The model itself, which gives no outputs for virtual tokens from then on, where it has outputs for each token."""
    configuration = configuration_of(model)
    if configuration is None or configuration.peft_type not in _VECTORS:
        return model
    if configuration.task_type in _POSITIONS:
        count = configuration.num_virtual_tokens

        def cut(_: nn.Module, given: object, found: Any) -> Any:
            for name in _RESULTS:
                if name in found:
                    found[name] = found[name][:, count:]
            return found

        model.register_forward_hook(cut)
    return model


def require_no_prefix(model: nn.Module) -> None:
    """Nothing when layers see all of a model without a cache. Raises RunError E410 when they would miss a prefix."""
    configuration = configuration_of(model) if isinstance(model, PeftModel) else None
    if configuration is not None and configuration.peft_type not in _VECTORS:
        message = "a layer that is computed again is given no cache, and would not see the prefix"
        raise RunError("E410", message, "leave out /training/gradient_checkpointing")


def called_as_inner(model: PeftModel) -> nn.Module:
    """A PEFT model with the arguments of the model inside, and with what callers ask that model for."""
    inner = cast(PreTrainedModel, model.get_base_model())

    class Called(VirtualModel):
        def forward(self, **given: Any) -> Any:
            return self.adapted(**given)

    Called.forward.__signature__ = inspect.signature(type(inner).forward)  # type: ignore[attr-defined]
    Called.__name__ = type(inner).__name__
    return Called(model)


def virtual_cache(model: VirtualModel) -> VirtualCache:
    """What a decoder keeps of its virtual tokens: no later token changes it."""
    with torch.inference_mode(), exact_float32():
        prompt: Any = model.adapted.get_prompt(batch_size=1)
        if isinstance(prompt, Tensor):
            cache = DynamicCache()  # that keeps all tokens, also of layers with a window
            model.inner(inputs_embeds=prompt, past_key_values=cache, use_cache=True)
            prompt = cache
    layers: Iterable[Any] = prompt.layers
    return VirtualCache(tuple((_array(layer.keys), _array(layer.values)) for layer in layers))


def _array(kept_1HVD: Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = kept_1HVD.float().cpu().numpy()
    return np.ascontiguousarray(found)


class VirtualModel(nn.Module):
    """A model with virtual tokens; see called_as_inner."""

    def __init__(self, adapted: PeftModel) -> None:
        super().__init__()
        self.adapted = adapted

    @property
    def inner(self) -> PreTrainedModel:
        """The model without virtual tokens."""
        return cast(PreTrainedModel, self.adapted.get_base_model())

    @property
    def config(self) -> Any:
        """The configuration of the model inside."""
        return self.inner.config

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.inner.dtype

    @property
    def num_tokens(self) -> int:
        """How many virtual tokens stand before each source."""
        configuration = configuration_of(self.adapted)
        return 0 if configuration is None else int(configuration.num_virtual_tokens)

    def encoded(self, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """What an encoder makes of virtual tokens and sources, [B, V + T, ...], and the mask of both."""
        embeddings: Any = self.adapted.word_embeddings
        rows = embeddings(ids_BT)
        virtual: Any = self.adapted.get_prompt(batch_size=ids_BT.shape[0])
        mask = torch.cat([torch.ones_like(virtual[..., 0], dtype=mask_BT.dtype), mask_BT], dim=1)
        encoder: Any = self.inner.get_encoder()
        hidden = encoder(inputs_embeds=torch.cat([virtual, rows], dim=1), attention_mask=mask).last_hidden_state
        return hidden, mask

    def get_input_embeddings(self) -> nn.Module:
        """The vectors of tokens."""
        return self.inner.get_input_embeddings()
