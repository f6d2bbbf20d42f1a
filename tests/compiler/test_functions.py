"""The shapes that a function for MLX is traced at, and which exports are one."""

from __future__ import annotations

import pytest

from compiler.functions import BATCH_SIZES, is_function, shapes_of
from compiler.generation import Generation
from compiler.lengths import length_grid
from compiler.recipe import Mlx, Onnx
from compiler.tasks import (
    ContinuedPretraining,
    ImageClassification,
    Task,
    TextClassification,
    TextGeneration,
    Translation,
    is_language_model,
)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (TextClassification(), True),
        (ImageClassification(), True),
        (Translation(), True),
        (ContinuedPretraining(objective="masked"), True),
        (ContinuedPretraining(objective="causal"), False),
        (TextGeneration(), False),
    ],
    ids=lambda value: getattr(value, "type", None),
)
def test_what_mlx_lm_does_not_run_becomes_a_function(task: Task, expected: bool) -> None:
    assert is_function(Mlx(), task) == expected
    assert not is_function(Onnx(), task)


def test_the_model_decides_where_the_objective_is_open() -> None:
    task = ContinuedPretraining()
    assert is_language_model(task, "decoder")
    assert not is_language_model(task, "encoder")


def test_texts_have_the_lengths_that_batches_are_trained_in() -> None:
    shapes = shapes_of(TextClassification(), 100)
    assert (shapes.batch_sizes, shapes.lengths, shapes.written) == (BATCH_SIZES, length_grid(100), ())
    assert str(shapes) == "1, 4, 16 rows by 11 lengths up to 100 tokens"


def test_images_have_one_size() -> None:
    assert shapes_of(ImageClassification(), 1).lengths == ()


@pytest.mark.parametrize(("most", "new", "written"), [(40, 8, (16, 32, 40)), (8, 20, (16, 20)), (8, 4, (8,))])
def test_what_is_written_has_room_for_targets_and_for_answers(most: int, new: int, written: tuple[int, ...]) -> None:
    shapes = shapes_of(Translation(max_target_length=most), 50, Generation(max_new_tokens=new))
    assert shapes.lengths == (16, 32, 50)
    assert shapes.written == written
    assert str(shapes).endswith(f" read and {len(written)} up to {written[-1]} written")
