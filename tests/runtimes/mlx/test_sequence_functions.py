"""Encoder-decoders as functions for MLX write what they write on PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

from compiler.functions import Shapes
from compiler.generation import Generation
from compiler.recipe import Mlx
from compiler.tasks import Translation
from runtimes.export.functions import FUNCTION
from runtimes.mlx.format import write_function
from runtimes.mlx.sequence_functions import sequence_function
from runtimes.pytorch.sequence_decoding import sequence_decoder
from runtimes.saved import SavedModel
from tests.runtimes.mlx.test_sequence_decoding import assert_same
from tests.runtimes.pairs import LIMITS, PAD, save_pair
from tests.tiny import save_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.long]

TASK = Translation(start_id=2, end_id=3, max_target_length=8)
SHAPES = Shapes(batch_sizes=(1, 4), lengths=(8, 16), written=(4, 10))


def saved(name: str, folder: Path) -> Path:
    """The folder, with a model and a tokenizer: what a function is filled up with stands in their files."""
    save_tokenizer(folder, ("the", "film"), pad_token_id=PAD)
    return save_pair(name, folder)


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "encoder-decoder"])
def test_what_a_function_writes_is_what_torch_writes(tmp_path: Path, name: str) -> None:
    folder = saved(name, tmp_path / "model")
    says = write_function(Mlx(), TASK, SavedModel(folder), SHAPES, tmp_path, "cpu").says
    assert "traced at 1, 4 rows by 2 lengths up to 16 tokens read and 2 up to 10 written" in says
    found = sequence_function(tmp_path / FUNCTION, start_id=2, max_positions=LIMITS[name])
    source = sequence_decoder(SavedModel(folder))
    assert found.max_positions == 10
    for num_beams in (1, 3):
        assert_same(found, source, Generation(max_new_tokens=8, num_beams=num_beams))


def test_weights_that_read_and_write_are_stored_once(tmp_path: Path) -> None:
    folder = saved("t5", tmp_path / "model")
    few, many = (Shapes(batch_sizes=sizes, lengths=(8,), written=(4,)) for sizes in ((1,), (1, 4)))
    sizes = [
        write_function(Mlx(), TASK, SavedModel(folder), shapes, tmp_path, "cpu").facts["num_bytes"]
        for shapes in (few, many)
    ]
    traces = sizes[1] - sizes[0]  # a trace that reads and one that writes, without weights
    stored = (folder / "model.safetensors").stat().st_size
    assert abs(sizes[0] - traces - stored) < 0.2 * stored
