"""pass@k beside a count over all choices of k answers."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.metrics.pass_at_k import mean_pass_at_k, pass_at_k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_it_is_the_share_of_choices_with_an_answer_that_passes(case: tuple[int, int, int]) -> None:
    drawn, passed, k = case
    answers = [True] * passed + [False] * (drawn - passed)
    choices = [any(choice) for choice in combinations(answers, k)]
    assert pass_at_k(passed, drawn, k) == pytest.approx(sum(choices) / len(choices), abs=1e-12)


def test_rows_count_the_same() -> None:
    assert mean_pass_at_k([0, 10], 10, 1) == 0.5
    assert mean_pass_at_k([1, 1], 2, 2) == 1.0


@pytest.mark.parametrize(("passed", "drawn", "k"), [(0, 3, 4), (4, 3, 1), (0, 3, 0)])
def test_more_answers_than_were_drawn_are_refused(passed: int, drawn: int, k: int) -> None:
    with pytest.raises(ValueError, match="drawn answers"):
        pass_at_k(passed, drawn, k)
