"""Labels that are decided one by one: arrays, losses, decisions and what the gate excuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler.recipe import BinaryCrossEntropy, Focal
from compiler.tasks import TextClassification
from runtimes.rows.batches import collate
from runtimes.rows.features import Portion, Ragged, table_of
from runtimes.tasks import label_sets
from runtimes.tasks import text_classification as task
from runtimes.verification.gate import compare_decisions

LABELS = ("a", "b", "c")
TASK = TextClassification(labels=LABELS, multi_label=True)
TARGETS = np.asarray([[1, 0, 1], [0, 0, 0]], np.float32)
OUTPUTS = np.asarray([[2.0, -1.0, 0.5], [-3.0, 0.25, -60.0]], np.float32)


def test_a_row_has_a_target_for_each_label_also_in_a_batch() -> None:
    found = label_sets.targets_of([{"label": ["c", "a"]}, {"label": []}, {}], LABELS)
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    ids = [np.asarray([1, 2], np.int32)] * 3
    portion = Portion(ragged={"input_ids": ids, "token_type_ids": ids}, fixed={"targets": found}, truncated=0)
    table = table_of([portion], task.columns(TASK, 0))
    batch = collate(
        table, np.asarray([2, 0]), weigh=lambda targets: task.weights(TASK, BinaryCrossEntropy(), targets), fill_to=3
    )
    assert batch.targets.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert batch.weights.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert batch.positions.tolist() == [True, True, False]


def test_a_label_weighs_where_a_row_has_it() -> None:
    loss = BinaryCrossEntropy(class_weights={"a": 3.0, "b": 5.0, "c": 0.5})
    assert task.weights(TASK, loss, TARGETS).tolist() == [[3.0, 1.0, 0.5], [1.0, 1.0, 1.0]]


def test_a_loss_is_the_negative_log_likelihood_of_each_label() -> None:
    shares = 1 / (1 + np.exp(-OUTPUTS.astype(np.float64)))
    expected = -np.log(np.where(TARGETS > 0, shares, 1 - shares))
    assert task.losses(BinaryCrossEntropy(), TASK, TARGETS, OUTPUTS) == pytest.approx(expected, abs=1e-12)
    focal = (1 - np.exp(-expected)) ** 2 * expected
    assert task.losses(Focal(), TASK, TARGETS, OUTPUTS) == pytest.approx(focal, abs=1e-12)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Focal(gamma=1.5)])
def test_torch_computes_the_same(loss: BinaryCrossEntropy | Focal) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from runtimes.pytorch.objective import target_losses

    found = target_losses(loss, torch.tensor(OUTPUTS), torch.tensor(TARGETS), 0.0)
    assert found.numpy() == pytest.approx(task.losses(loss, TASK, TARGETS, OUTPUTS), rel=1e-5, abs=1e-7)


def test_a_label_is_given_above_its_own_threshold() -> None:
    learnt = replace(TASK, thresholds=(0.9, 0.2, 0.5))
    answer = task.answer(learnt, {"text": "x"}, OUTPUTS[:1], None)  # type: ignore[arg-type]  # needs no tokenizer
    assert answer["labels"] == ["b", "c"]  # 0.88, 0.27 and 0.62
    assert task.decision(learnt, OUTPUTS[:1]) == '["b", "c"]'
    assert task.line(answer) == "b 0.2689, c 0.6225"
    assert task.from_bundle(TASK, task.bundle_files(learnt).__getitem__) == learnt


def test_a_threshold_that_is_written_is_not_learnt() -> None:
    assert task.learns(TASK)
    assert not task.learns(replace(TASK, threshold=0.3))
    assert task.thresholds_of(replace(TASK, threshold=0.3)).tolist() == [0.3] * 3


def test_what_is_learnt_has_the_best_f1_and_a_half_where_nothing_is_true() -> None:
    outputs = np.asarray([[3.0, 0.0, 0.0], [1.0, 0.0, 1.0], [-1.0, 0.0, 2.0]], np.float32)
    targets = np.asarray([[1, 0, 0], [0, 0, 1], [0, 0, 1]], np.float32)
    found = task.fit(TASK, Ragged.single(targets), Ragged.single(outputs)).thresholds
    assert found == pytest.approx((1 / (1 + np.exp(-2)), 0.5, 1 / (1 + np.exp(-0.5))), abs=1e-5)


def test_the_gate_decides_and_excuses_label_by_label() -> None:
    source = np.asarray([[0.005, 2.0, -1.0], [1.0, 1.0, 1.0]])
    other = np.asarray([[-0.001, 2.0, -1.0], [1.0, -1.0, 1.0]])
    found = compare_decisions(source, other, 0.01, 0.5, decide=task.decider(TASK))
    assert (found.rows, found.positions, found.agreeing, found.num_excused) == (2, 6, 4, 1)
    assert (found.excused, found.disagreeing, found.passed) == ((0,), (1,), False)
    excused = np.asarray([[True, False, False], [False, False, False]])
    settled = task.settle(TASK, source, other, excused, 0.01)
    assert settled.tolist() == [source[0].tolist(), other[1].tolist()]


@pytest.mark.parametrize("content", [["a", "b"], {"labels": ["a"]}, {"labels": ["a", "b"], "thresholds": [0.5, 1.5]}])
def test_a_bundle_without_thresholds_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"labels\.json has not a"):
        task.from_bundle(TASK, {"labels.json": content}.__getitem__)
