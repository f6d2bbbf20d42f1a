from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.generation import Generation
from runtimes.generation.decoding import Decoder, generate, left_padded
from runtimes.generation.shared_prefix import SharedPrefix, common_prefix
from runtimes.saved import SavedModel
from tests.runtimes.tables import random_tables

tokens = st.lists(st.integers(1, 11), min_size=1, max_size=6)
GENERATIONS = {
    "greedy": Generation(max_new_tokens=8),
    "beams": Generation(max_new_tokens=8, num_beams=3),
    "drawn": Generation(max_new_tokens=8, temperature=0.9, seed=2),
}


@given(prefix=st.lists(st.integers(1, 11), max_size=6), rests=st.lists(tokens, min_size=1, max_size=5))
def test_the_common_beginning_is_the_longest_that_leaves_a_token_of_each(
    prefix: list[int], rests: list[list[int]]
) -> None:
    prompts = [[*prefix, *rest] for rest in rests]
    found = common_prefix(*left_padded(prompts, 0))
    assert len(prefix) <= found < min(map(len, prompts))
    assert len({tuple(prompt[:found]) for prompt in prompts}) == 1
    assert found == min(map(len, prompts)) - 1 or len({prompt[found] for prompt in prompts}) > 1


@given(prefix=st.lists(st.integers(1, 11), max_size=6), rests=st.lists(tokens, min_size=1, max_size=9))
def test_a_table_that_minds_every_place_writes_the_same(prefix: list[int], rests: list[list[int]]) -> None:
    prompts = [[*prefix, *rest] for rest in rests]
    tables = random_tables()
    decoders: tuple[Decoder[Any], ...] = (SharedPrefix(tables), tables)
    for generation in GENERATIONS.values():
        found, expected = (
            generate(each, prompts, generation, eos_ids=[3], pad_id=0, batch_size=4) for each in decoders
        )
        assert found == expected


def models(folder: Path, runtime: str) -> Decoder[Any]:
    """A tiny Llama on a runtime."""
    pytest.importorskip("torch", reason="needs the torch extra")
    from tests.runtimes.decoders import save_decoder

    save_decoder("llama", folder)
    if runtime == "pytorch":
        from runtimes.pytorch.decoding import torch_decoder

        return torch_decoder(SavedModel(folder))
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    from runtimes.mlx.decoding import mlx_decoder

    return mlx_decoder(folder)


@pytest.mark.parametrize("runtime", ["pytorch", "mlx"])
def test_a_model_writes_the_same_whether_it_reads_the_beginning_once_or_in_each_row(
    tmp_path: Path, runtime: str
) -> None:
    """Up to float32's rounding: sums are taken in another order."""
    decoder = models(tmp_path, runtime)
    random = np.random.default_rng(0)
    prefix = random.integers(4, 40, 20).tolist()
    prompts = [[*prefix, *random.integers(4, 40, length).tolist()] for length in (1, 9, 4, 4, 2)]
    for generation in GENERATIONS.values():
        found, expected = (
            generate(each, prompts, generation, eos_ids=[], pad_id=1, batch_size=4)
            for each in (SharedPrefix(decoder), decoder)
        )
        for one, other in zip(found, expected, strict=True):
            assert one.ids == other.ids
            assert np.abs(np.array(one.log_probs) - other.log_probs).max() < 1e-5
