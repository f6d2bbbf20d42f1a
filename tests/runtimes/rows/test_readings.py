"""Readings of logits: numpy's are torch's, and both are what they say."""

# P = positions, V = vocabulary

from __future__ import annotations

import numpy as np
import pytest

from runtimes.rows.features import IGNORED
from runtimes.rows.readings import BEST, NUM_FIGURES, SECOND, TARGET, decide_tokens, read_outputs, sample

LOGITS = np.random.default_rng(0).normal(size=(3, 5, 50)).astype(np.float32) * 4
TARGETS = np.random.default_rng(1).integers(0, 50, (3, 5))
TARGETS[1, 2:] = IGNORED


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    found: np.ndarray = exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    return found


def test_figures_are_log_probabilities_of_the_target_the_best_two_and_a_sample() -> None:
    found, expected = read_outputs("tokens", LOGITS, TARGETS), log_probabilities(LOGITS)
    assert found.shape == (3, 5, NUM_FIGURES)
    ordered = np.sort(expected, axis=-1)
    np.testing.assert_allclose(found[..., BEST], ordered[..., -1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[..., SECOND], ordered[..., -2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[..., 3:], expected[..., sample(50)], rtol=1e-5, atol=1e-6)
    assert found[0, 0, TARGET] == pytest.approx(expected[0, 0, TARGETS[0, 0]], rel=1e-5)
    assert (found[1, 2:, TARGET] == 0).all()


def test_the_sample_reaches_from_the_first_token_to_the_last() -> None:
    assert (sample(50)[0], sample(50)[-1]) == (0, 49)
    assert len(set(sample(50).tolist())) == NUM_FIGURES - 3


def test_plain_logits_are_read_as_they_are() -> None:
    assert (read_outputs("logits", LOGITS, TARGETS) == LOGITS).all()


def test_torch_reads_the_same_figures() -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from runtimes.pytorch.objective import read_outputs as read_tensors

    found = read_tensors("tokens", torch.from_numpy(LOGITS), torch.from_numpy(TARGETS)).numpy()
    np.testing.assert_allclose(found, read_outputs("tokens", LOGITS, TARGETS), rtol=1e-5, atol=1e-5)


def test_a_decision_is_whether_the_target_is_the_best_token_and_its_margin_how_far_from_otherwise() -> None:
    figures = np.asarray([[-0.1, -0.1, -2.1], [-3.0, -0.5, -1.0]], np.float32)  # target, best, second
    decided, margins = decide_tokens(figures)
    assert decided.tolist() == [1, 0]
    np.testing.assert_allclose(margins, [2.0, 2.5], rtol=1e-6)
