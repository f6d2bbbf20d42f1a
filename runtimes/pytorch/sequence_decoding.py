"""Generation by PyTorch with an encoder-decoder: it encodes once, and its decoder writes with two caches."""

# Axes: B = rows, T = tokens of the source, V = vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import right_padded
from runtimes.pytorch.decoding import max_positions
from runtimes.pytorch.loading import SourceError, load_saved
from runtimes.pytorch.precision import exact_float32
from runtimes.pytorch.sequence_cached import encoded, inner_of
from runtimes.saved import SavedModel
from runtimes.tasks.interface import Head

SEQUENCE_TO_SEQUENCE = "AutoModelForSeq2SeqLM"
HEAD = Head(auto_class=SEQUENCE_TO_SEQUENCE, peft_task="SEQ_2_SEQ_LM", config={}, num_outputs=0)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder made of sources [B, T, ...], their mask, and the decoder's keys and values."""

    hidden: Tensor
    mask: Tensor
    cache: EncoderDecoderCache


@dataclass(frozen=True, slots=True)
class TorchSequenceDecoder:
    """A loaded encoder-decoder in evaluation mode."""

    model: Any
    device: str
    start_id: int
    """The token that the decoder reads first."""
    max_positions: int | None
    encodes = True

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Encoded]:
        """The logits [B, V] of the first token of each answer, and what the steps read."""
        ids, mask = (torch.from_numpy(values).to(self.device) for values in right_padded(ids_BT, mask_BT))
        with torch.inference_mode(), exact_float32():
            hidden, mask = encoded(self.model, ids, mask)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        first_B1 = np.full((len(ids_BT), 1), self.start_id, np.int64)
        return self.step(first_B1, mask_BT, Encoded(hidden, mask, cache))

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Encoded) -> tuple[Floats, Encoded]:
        """The logits [B, V] of one token more for each row."""
        with torch.inference_mode(), exact_float32():
            found = inner_of(self.model)(
                encoder_outputs=BaseModelOutput(last_hidden_state=cache.hidden),
                attention_mask=cache.mask,
                decoder_input_ids=torch.from_numpy(ids_B1).to(self.device),
                past_key_values=cache.cache,
                use_cache=True,
            )
            logits_BV: Floats = found.logits[:, -1].float().cpu().numpy()
        return logits_BV, cache

    def reorder(self, cache: Encoded, rows: Ids) -> Encoded:
        """The same caches, with these rows of them."""
        places = torch.from_numpy(rows).to(self.device)
        cache.cache.reorder_cache(places)  # type: ignore[arg-type]
        return Encoded(cache.hidden[places], cache.mask[places], cache.cache)


def sequence_decoder(saved: SavedModel, head: Head = HEAD, *, device: str = "cpu") -> TorchSequenceDecoder:
    """The decoder of a saved encoder-decoder. Raises SourceError for a weight that is in none of its files."""
    return sequence_decoder_of(load_saved(saved, head), device=device)


def sequence_decoder_of(model: Any, *, device: str = "cpu") -> TorchSequenceDecoder:
    """The decoder of a loaded model in evaluation mode."""
    inner = inner_of(model)
    return TorchSequenceDecoder(
        model=model.to(device), device=device, start_id=start_of(inner), max_positions=max_positions(inner.config)
    )


def start_of(model: Any) -> int:
    """The token that a model's decoder reads first. Raises SourceError where nothing says it."""
    for config in (model.config, model.generation_config, getattr(model.config, "decoder", None)):
        start = getattr(config, "decoder_start_token_id", None)
        if isinstance(start, int):
            return start
    raise SourceError("config.json of the model has no decoder_start_token_id, the token that the decoder reads first")
