"""Labels as answers: what ranks rows, what the gate excuses, and losses."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.metrics import AUROC, Accuracy
from compiler.recipe import CrossEntropy, Focal
from compiler.tasks import TextClassification
from runtimes.rows.features import Ragged
from runtimes.tasks import text_classification as task

TASK = TextClassification(labels=("bad", "good"))


def measured(outputs: list[list[float]], targets: list[int]) -> dict[str, float]:
    metrics = (AUROC(average="binary", positive="good"), Accuracy())
    values = np.asarray(outputs, np.float32)
    return task.score(TASK, metrics, Ragged.single(np.asarray(targets)), Ragged.single(values))


def test_rows_are_ranked_by_probabilities_and_not_by_logits() -> None:
    # By the logit of "good" alone the third row, 9, would stand above the second, 2; of its own row it is the lesser.
    found = measured([[1.0, -1.0], [-2.0, 2.0], [10.0, 9.0]], [0, 1, 0])
    assert found == {"auroc_binary": 1.0, "accuracy": 1.0}
    assert list(found) == ["auroc_binary", "accuracy"]


def test_rounding_swaps_no_ranks() -> None:
    source = np.asarray([[0.0, 1.0], [0.0, 1.0 + 1e-6], [0.0, -1.0]], np.float32)
    other = np.asarray([[0.0, 1.0 + 1e-6], [0.0, 1.0], [0.0, -1.0]], np.float32)
    targets = [0, 1, 0]
    assert measured(other.tolist(), targets)["auroc_binary"] < measured(source.tolist(), targets)["auroc_binary"]
    settled = task.settle(TASK, source, other, np.zeros(3, bool), 1e-5)
    assert settled.tolist() == source.tolist()


def test_what_is_over_the_tolerance_or_decided_otherwise_counts_as_it_is() -> None:
    source = np.asarray([[0.0, 1.0], [0.0, 0.015], [0.0, 0.005]], np.float32)
    other = np.asarray([[0.0, 1.5], [0.008, 0.007], [0.006, 0.0]], np.float32)
    settled = task.settle(TASK, source, other, np.asarray([False, False, True]), 0.01)
    assert settled.tolist() == [other[0].tolist(), other[1].tolist(), source[2].tolist()]


@pytest.mark.parametrize("shape", [(3, 1), (0, 2)])
def test_outputs_of_another_shape_are_left_as_they_are(shape: tuple[int, int]) -> None:
    other = np.zeros(shape, np.float32)
    assert task.settle(TASK, np.zeros((3, 2), np.float32)[: shape[0]], other, np.zeros(shape[0], bool), 1.0) is other


# --- losses


def test_a_focal_loss_is_the_papers_formula() -> None:
    shares = np.asarray([0.9, 0.1])  # of the true label
    outputs = np.log(np.stack([shares, 1 - shares], axis=1))
    found = task.losses(Focal(gamma=2.0), TASK, np.zeros(2, np.int64), outputs)
    assert found == pytest.approx([-(0.1**2) * np.log(0.9), -(0.9**2) * np.log(0.1)], rel=1e-12)


def test_a_focal_loss_without_focus_is_cross_entropy() -> None:
    outputs, targets = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) % 2
    plain = task.losses(CrossEntropy(), TASK, targets, outputs)
    assert task.losses(Focal(gamma=0.0), TASK, targets, outputs).tolist() == plain.tolist()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_torch_computes_the_same_focal_loss_and_its_gradient_is_finite_where_nothing_is_wrong(gamma: float) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from runtimes.pytorch.objective import target_losses

    outputs = np.asarray([[0.3, -0.2], [60.0, -60.0], [-3.0, 2.0]], np.float32)
    logits, targets = torch.tensor(outputs, requires_grad=True), torch.zeros(3, dtype=torch.int64)
    found = target_losses(Focal(gamma=gamma), logits, targets, 0.0)
    expected = task.losses(Focal(gamma=gamma), TASK, targets.numpy(), outputs)
    assert found.detach().numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1].abs().max() < 1e-6
