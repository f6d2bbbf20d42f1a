"""Several numbers a row: arrays, losses, figures of each target, what the gate excuses, and answers by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler.metrics import MAE, MSE, R2, RMSE, Pearson, Spearman
from compiler.recipe import Huber, Loss, MeanAbsoluteError, MeanSquaredError
from compiler.tasks import TextRegression
from runtimes.evaluation import mean_loss
from runtimes.metrics.values import score_values
from runtimes.rows.batches import collate
from runtimes.rows.features import Portion, Ragged, table_of
from runtimes.tasks import several_targets
from runtimes.tasks import text_regression as task

NAMES = ("stars", "length")
TASK = TextRegression(targets=NAMES, mean=(3.0, 100.0), deviation=(2.0, 50.0))
TARGETS = np.asarray([[1.0, 100.0], [5.0, 150.0], [-2.0, 50.0]], np.float32)
OUTPUTS = np.asarray(
    [[2.0, 100.0], [5.0, 125.0], [4.0, 200.0]], np.float32
)  # off by 0.5, 0, 3 and 0, 0.5, 3 deviations
METRICS = (MSE(), RMSE(), MAE(), Pearson(), Spearman(), R2())


def one(name: str) -> TextRegression:
    """The task of one of the targets alone."""
    place = NAMES.index(name)
    return TextRegression(mean=(3.0, 100.0)[place], deviation=(2.0, 50.0)[place])


def test_a_row_has_a_number_for_each_target_also_in_a_batch() -> None:
    found = several_targets.targets_of([{"stars": 1.5, "length": 7}, {"length": 3.0, "stars": -2.0}, {}], NAMES)
    assert found.tolist() == [[1.5, 7.0], [-2.0, 3.0], [0.0, 0.0]]
    ids = [np.asarray([1, 2], np.int32)] * 3
    portion = Portion(ragged={"input_ids": ids, "token_type_ids": ids}, fixed={"targets": found}, truncated=0)
    table = table_of([portion], task.columns(TASK, 0))
    batch = collate(
        table, np.asarray([1, 0]), weigh=lambda targets: task.weights(TASK, MeanSquaredError(), targets), fill_to=3
    )
    assert batch.targets[:2].tolist() == [[-2.0, 3.0], [1.5, 7.0]]
    assert batch.weights.tolist() == [[1, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("loss", [MeanSquaredError(), MeanAbsoluteError(), Huber(), Huber(delta=0.25)])
def test_the_loss_is_the_mean_of_the_losses_of_independent_heads(loss: Loss) -> None:
    found = task.losses(loss, TASK, TARGETS, OUTPUTS)
    alone = [
        task.losses(loss, one(name), TARGETS[:, place], OUTPUTS[:, place : place + 1])
        for place, name in enumerate(NAMES)
    ]
    assert found.tolist() == np.stack(alone, axis=1).tolist()
    whole = mean_loss(Ragged.single(found), Ragged.single(TARGETS))
    assert whole == pytest.approx(sum(float(losses.mean()) for losses in alone) / 2)


def test_a_squared_loss_is_that_of_the_formula() -> None:
    found = task.losses(MeanSquaredError(), TASK, TARGETS, OUTPUTS)
    assert found.tolist() == [[0.25, 0.0], [0.0, 0.25], [9.0, 9.0]]


def test_a_metric_is_the_mean_over_the_targets_in_their_units() -> None:
    found = task.score(TASK, METRICS, Ragged.single(TARGETS), Ragged.single(OUTPUTS))
    each = [score_values(METRICS, TARGETS[:, place], OUTPUTS[:, place]) for place in range(2)]
    assert found == pytest.approx({name: (each[0][name] + each[1][name]) / 2 for name in each[0]})
    assert found["mae"] == pytest.approx((7 / 3 + 175 / 3) / 2)
    assert task.score(TASK, (), Ragged.single(TARGETS), Ragged.single(OUTPUTS)) == {}


def test_the_report_has_every_metric_of_each_target_and_of_its_mean() -> None:
    truth, outputs = Ragged.single(TARGETS), Ragged.single(OUTPUTS)
    name, plain = task.baseline(TASK, np.asarray([[1.0, 90.0], [2.0, 110.0]], np.float32), 3)
    assert (name, plain.tolist()) == ("mean", [[1.5, 100.0]] * 3)
    found = task.details(TASK, truth, outputs, Ragged.single(plain))["by_target"]
    assert [figures["target"] for figures in found] == ["stars", "length"]
    for place, figures in enumerate(found):
        expected = score_values(METRICS, TARGETS[:, place], OUTPUTS[:, place])
        assert {key: figures[key] for key in expected} == expected
        assert figures["baseline"] == score_values(METRICS, TARGETS[:, place], plain[:, place])
    lines = task.detail_lines({"by_target": found})
    assert [line.split()[0] for line in lines] == ["target", "stars", "mean", "length", "mean"]
    assert len({len(line) for line in lines}) == 1
    alone = task.details(TASK, truth, outputs)["by_target"]
    assert [line.split()[0] for line in task.detail_lines({"by_target": alone})] == ["target", "stars", "length"]


def test_figures_too_long_for_their_column_have_fewer_digits() -> None:
    far = dict.fromkeys(("mse", "rmse", "mae", "pearson", "spearman", "r2"), 123456789.0)
    [_, line] = task.detail_lines({"by_target": [{"target": "x", **far}]})
    assert line.split() == ["x", *["1.2346e+08"] * 6]


def test_differences_within_the_tolerance_of_their_unit_settle_on_the_source() -> None:
    source, other = np.asarray([[1.0, 100.0], [2.0, 200.0]]), np.asarray([[1.15, 104.0], [2.25, 206.0]])
    settled = task.settle(TASK, source, other, np.zeros(2, bool), 0.1)  # 0.2 stars, and 5 of length
    assert settled.tolist() == [[1.0, 100.0], [2.25, 206.0]]


def test_an_answer_has_each_number_by_its_name() -> None:
    outputs = np.asarray([[2.5, 33.0]], np.float32)
    answer = task.answer(TASK, {"text": "a"}, outputs, None)  # type: ignore[arg-type]  # a number needs no tokenizer
    assert answer == {"values": {"stars": 2.5, "length": 33.0}}
    assert (task.decision(TASK, outputs), task.line(answer)) == (None, "stars 2.5000, length 33.0000")


def test_a_single_name_is_an_answer_by_name_too() -> None:
    single = TextRegression(targets=("stars",), mean=3.0, deviation=2.0)
    answer = task.answer(single, {"text": "a"}, OUTPUTS[:1, :1], None)  # type: ignore[arg-type]
    assert answer == {"values": {"stars": 2.0}}
    assert task.head(single).config["id2label"] == {0: "stars"}
    losses = task.losses(MeanSquaredError(), single, TARGETS[:, :1], OUTPUTS[:, :1])
    assert losses.tolist() == [[0.25], [0.0], [9.0]]


def test_one_number_for_all_targets_is_that_of_each() -> None:
    head = task.head(replace(TASK, mean=1.0, deviation=4.0))
    assert (head.shift, head.scale, head.num_outputs) == ((1.0, 1.0), (4.0, 4.0), 2)


def test_outputs_are_compared_in_units_of_their_own_only_where_there_are_several() -> None:
    assert task.head(TASK).units == (2.0, 50.0)
    assert task.head(TextRegression(mean=3.0, deviation=2.0)).units == (1.0,)


def test_a_bundle_names_the_targets_and_a_configuration_that_names_others_is_a_fault() -> None:
    files = task.bundle_files(TASK)
    assert files == {"labels.json": ["stars", "length"]}
    assert task.from_bundle(TASK, files.__getitem__) == TASK
    config = {"problem_type": "regression", "id2label": {"0": "stars", "1": "length"}}
    assert task.name_faults(TASK, config) == (3, ())
    assert len(task.name_faults(TASK, {**config, "id2label": {"0": "length", "1": "stars"}})[1]) == 2
    [fault] = task.name_faults(TASK, {**config, "problem_type": "multi_label_classification"})[1]
    assert "multi_label_classification, not regression" in fault
    with pytest.raises(ValueError, match=r"labels\.json has a name twice"):
        task.from_bundle(TASK, {"labels.json": ["stars", "stars"]}.__getitem__)
