"""Encoder-decoders on MLX write what they write on PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import numpy as np
import peft
import torch

from compiler.generation import Generation
from compiler.methods import LoRA
from compiler.tasks import Translation
from runtimes.generation.decoding import Decoder, generate
from runtimes.mlx.sequence_decoding import mlx_sequence_decoder
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.sequence_decoding import sequence_decoder
from runtimes.saved import Adapter, SavedModel
from runtimes.tasks import module_of
from tests.runtimes.pairs import LIMITS, PAD, save_pair, sources

TASK = Translation(start_id=2, end_id=3)


def assert_same(decoder: Decoder[Any], source: Decoder[Any], generation: Generation) -> None:
    """The same tokens, with log-probabilities within float32's noise."""
    found, expected = (generate(one, sources(), generation, eos_ids=[3], pad_id=PAD) for one in (decoder, source))
    assert len({answer.ids for answer in expected}) > 1
    for answer, other in zip(found, expected, strict=True):
        assert (answer.ids, answer.ended) == (other.ids, other.ended)
        assert np.abs(np.array(answer.log_probs) - other.log_probs).max() < 1e-5


@pytest.mark.parametrize("name", ["t5", "marian", "encoder-decoder"])
def test_what_is_written_is_what_torch_writes(tmp_path: Path, name: str) -> None:
    """T5 tells positions by distance, Marian computes them and has them in no file."""
    folder = save_pair(name, tmp_path)
    decoder, source = mlx_sequence_decoder(folder), sequence_decoder(SavedModel(folder))
    assert (decoder.start_id, decoder.max_positions) == (source.start_id, LIMITS[name])
    for num_beams in (1, 3):
        assert_same(decoder, source, Generation(max_new_tokens=8, num_beams=num_beams))


def test_an_adapter_that_is_not_merged_writes_as_on_torch(tmp_path: Path) -> None:
    base = save_pair("bart", tmp_path / "base")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    with quiet():
        peft.get_peft_model(sequence_decoder(SavedModel(base)).model, config).save_pretrained(str(tmp_path / "adapter"))
    decoder = mlx_sequence_decoder(base, adapter=tmp_path / "adapter")
    source = sequence_decoder(SavedModel(base, Adapter(tmp_path / "adapter", LoRA())), module_of(TASK).head(TASK))
    assert_same(decoder, source, Generation(max_new_tokens=8))
