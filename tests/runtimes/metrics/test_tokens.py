from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.metrics import Accuracy, Perplexity, TokenAccuracy
from runtimes.metrics.tokens import perplexity, score_tokens


@pytest.mark.parametrize("num_tokens", [2, 10, 50257])
def test_guessing_among_k_tokens_has_a_perplexity_of_k(num_tokens: int) -> None:
    losses = np.full(7, math.log(num_tokens), np.float32)
    # float32 losses carry 7 digits, and exp multiplies their relative error by the loss, at most 11.
    assert perplexity(losses) == pytest.approx(num_tokens, rel=2e-6)


def test_metrics_of_tokens_are_what_they_are_by_hand() -> None:
    losses, hits = np.log([2.0, 8.0, 4.0, 1.0]), np.asarray([False, True, True, True])
    found = score_tokens((Perplexity(), TokenAccuracy()), losses, hits)
    assert found == {"perplexity": pytest.approx(64 ** (1 / 4)), "token-accuracy": 0.75}


@given(st.lists(st.floats(0, 30), min_size=1, max_size=40))
def test_perplexity_is_the_geometric_mean_of_one_over_the_shares(losses) -> None:
    found = perplexity(np.asarray(losses))
    assert found == pytest.approx(math.prod(math.exp(loss / len(losses)) for loss in losses), rel=1e-9)
    assert found >= 1.0


def test_what_can_not_be_said_in_a_float_is_the_largest() -> None:
    assert perplexity(np.asarray([1e4])) == sys.float_info.max


def test_without_a_token_nothing_was_right() -> None:
    found = score_tokens((Perplexity(), TokenAccuracy()), np.zeros(0), np.zeros(0, np.bool_))
    assert found == {"perplexity": sys.float_info.max, "token-accuracy": 0.0}


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is no metric of tokens"):
        score_tokens((Accuracy(),), np.zeros(1), np.zeros(1, np.bool_))
