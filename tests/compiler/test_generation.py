from __future__ import annotations

import pytest

from compiler.generation import Generation
from compiler.typed import ShapeError, fields, read, to_json


def test_what_an_author_leaves_out_is_greedy() -> None:
    generation = read(Generation, {})
    assert generation == Generation()
    assert (generation.max_new_tokens, generation.num_beams, generation.samples) == (128, 1, False)


def test_a_section_is_read_and_written_alike() -> None:
    written = {
        "max_new_tokens": 32,
        "num_beams": 1,
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.9,
        "stop": ["\n\n", "###"],
        "rows": 20,
        "few_shot": 2,
        "seed": 7,
    }
    generation = read(Generation, written)
    assert generation.samples
    assert generation.stop == ("\n\n", "###")
    assert to_json(generation) == written


@pytest.mark.parametrize(("max_positions", "room"), [(None, None), (1024, 1024 - 128), (100, 50)])
def test_an_answer_takes_positions_of_the_prompt_but_half_of_them_at_most(
    max_positions: int | None, room: int | None
) -> None:
    assert Generation(max_new_tokens=128).room(max_positions) == room


def test_a_key_that_there_is_not_is_named() -> None:
    with pytest.raises(ShapeError, match="repetition_penalty"):
        read(Generation, {"repetition_penalty": 1.1})


def test_every_key_says_what_it_means() -> None:
    assert all(field.about.text for field in fields(Generation))
