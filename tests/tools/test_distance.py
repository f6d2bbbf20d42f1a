"""How far two answers of different readers are apart."""

import math

import pytest

pytest.importorskip("torch", reason="needs the torch extra")

from tools.outside_reader import TOLERANCE, distance, only


def test_numbers_are_compared_by_their_size_and_all_else_exactly() -> None:
    assert distance({"value": 1000.01}, {"value": 1000.0}) == pytest.approx(1e-5)
    assert distance({"label": "a", "scores": {"a": 0.5}}, {"label": "a", "scores": {"a": 0.25}}) == 0.25
    assert distance({"text": "a"}, {"text": "b"}) == math.inf
    assert distance([{"start": 1}], [{"start": 1}, {"start": 2}]) == math.inf


@pytest.mark.parametrize("answer", [{"value": math.nan}, {"scores": {"a": math.inf}}, [{"score": math.nan}]])
def test_what_is_no_number_is_like_nothing(answer: object) -> None:
    other = {"value": 0.5} if isinstance(answer, dict) and "value" in answer else answer
    assert not distance(answer, other) <= TOLERANCE


def test_only_what_both_say_is_compared() -> None:
    assert only({"label": "a", "score": 0.5}, {"label": "b"}) == {"label": "a"}
    assert only([{"start": 1, "text": "x"}], [{"start": 1}]) == [{"start": 1}]
