"""Generation by PyTorch: the untouched transformers (or peft) model with its own cache, float32, no tensor floats."""

# Axes: B = rows, T = tokens of the prompt, S = tokens so far, V = vocabulary

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from compiler.positions import num_positions
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import positions
from runtimes.generation.virtual import VirtualCache
from runtimes.pytorch.loading import load_saved
from runtimes.pytorch.precision import exact_float32
from runtimes.pytorch.virtual import VirtualModel, virtual_cache
from runtimes.saved import SavedModel
from runtimes.tasks.interface import Head

CAUSAL_LANGUAGE_MODEL = "AutoModelForCausalLM"
HEAD = Head(auto_class=CAUSAL_LANGUAGE_MODEL, peft_task="CAUSAL_LM", config={}, num_outputs=0)


@dataclass(frozen=True, slots=True)
class TorchDecoder:
    """A loaded model in evaluation mode."""

    model: Any
    device: str
    taken: frozenset[str]
    """The arguments of its `forward`."""
    max_positions: int | None
    before: VirtualCache
    """What stands before each row."""
    encodes = False

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, DynamicCache]:
        """The logits [B, V] of the last position of prompts, and the cache."""
        return self._logits(ids_BT, mask_BT, self._begun(len(ids_BT)))

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: DynamicCache) -> tuple[Floats, DynamicCache]:
        """The logits [B, V] of one token more for each row."""
        return self._logits(ids_B1, mask_BS, cache)

    def reorder(self, cache: DynamicCache, rows: Ids) -> DynamicCache:
        """The same cache, with these rows of it."""
        cache.reorder_cache(torch.from_numpy(rows))  # type: ignore[arg-type]
        return cache

    def logits(self, ids_BT: Ids, mask_BT: Ids) -> Floats:
        """The logits [B, T, V] at every position of rows, padded on any side; nothing is cached before them."""
        with torch.inference_mode(), exact_float32():
            begun = {"past_key_values": self._begun(len(ids_BT))} if self.before.layers else {}
            logits = self.model(**self._inputs(ids_BT, mask_BT), **begun, use_cache=False).logits
            found: Floats = logits.float().cpu().numpy()
        return found

    def _begun(self, num_rows: int) -> DynamicCache:
        """The cache before the first token of each row."""
        cache = DynamicCache(config=self.model.config)
        for at, layer in enumerate(self.before.of_rows(num_rows)):
            key, value = (torch.from_numpy(array).to(self.device) for array in layer)
            cache.update(key, value, at)
        return cache

    def _logits(self, ids: Ids, mask: Ids, cache: DynamicCache) -> tuple[Floats, DynamicCache]:
        last = {"logits_to_keep": 1} if "logits_to_keep" in self.taken else {}
        with torch.inference_mode(), exact_float32():
            found = self.model(**self._inputs(ids, mask), **last, past_key_values=cache, use_cache=True)
            logits_BV: Floats = found.logits[:, -1].float().cpu().numpy()
        return logits_BV, cache

    def _inputs(self, ids: Ids, mask: Ids) -> dict[str, torch.Tensor]:
        mask = self.before.seen(mask)
        given: Mapping[str, npt.NDArray[np.int64]] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions(mask, ids.shape[1]),
        }
        return {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(self.device)
            for name, value in given.items()
            if name in self.taken
        }


def torch_decoder(saved: SavedModel, head: Head = HEAD, *, device: str = "cpu") -> TorchDecoder:
    """The decoder of a saved model. Raises SourceError for a weight that is in none of its files."""
    return decoder_of(load_saved(saved, head), device=device)


def decoder_of(model: Any, *, device: str = "cpu") -> TorchDecoder:
    """The decoder of a loaded model in evaluation mode; arguments that its `forward` does not take are left out."""
    before = VirtualCache()
    if isinstance(model, VirtualModel):
        before, model = virtual_cache(model), model.inner
    return TorchDecoder(
        model=model.to(device),
        device=device,
        taken=frozenset(inspect.signature(model.forward).parameters),
        max_positions=before.left(max_positions(model.config)),
        before=before,
    )


def max_positions(config: Any) -> int | None:
    """Tokens that a row of a model may have, by its configuration; None where it does not say."""
    text = config.get_text_config(decoder=True)
    return num_positions(text.to_dict())
