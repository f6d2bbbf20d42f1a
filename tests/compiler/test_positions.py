"""How many tokens a model has positions for: the compiler and both halves of a run read it alike."""

from __future__ import annotations

from typing import Any

import pytest

from compiler.positions import num_positions
from runtimes.bundles.bundle import positions_of

CONFIGS: list[tuple[dict[str, Any], int | None]] = [
    ({"model_type": "gpt2", "n_positions": 1024}, 1024),
    ({"model_type": "bart", "max_position_embeddings": 64}, 64),
    ({"model_type": "t5", "n_positions": 512}, None),
    ({"model_type": "bloom"}, None),
    ({"model_type": "odd", "max_position_embeddings": True}, None),
]


@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_positions_that_are_relative_have_no_number(config: dict[str, Any], expected: int | None) -> None:
    assert num_positions(config) == expected
    assert positions_of(config) == expected
    assert positions_of({"model_type": "encoder-decoder", "decoder": config}) == expected


def test_a_model_in_memory_has_as_many_as_its_file_says() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    from runtimes.pytorch.decoding import max_positions

    assert max_positions(transformers.T5Config(n_positions=512)) is None
    assert max_positions(transformers.GPT2Config(n_positions=64)) == 64
    assert max_positions(transformers.BartConfig(max_position_embeddings=32)) == 32
