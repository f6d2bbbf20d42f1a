from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.balance import rows_of_epoch
from compiler.plan import Schedule, Train
from compiler.recipe import AdamW
from runtimes import checkpoints
from runtimes.errors import Interrupted, RunError
from runtimes.loop import train
from runtimes.reports import (
    CheckpointReport,
    EvaluationReport,
    MicroBatchReport,
    Report,
    ResumeReport,
    StepReport,
    StopReport,
)
from runtimes.rows.batches import collate, micro_batches
from runtimes.rows.features import Features
from tests.runtimes.numpy_engine import NumpyEngine
from tests.runtimes.tiny import WORDS, features, selection, train_step, weigh

R = TypeVar("R")
BY_LOSS = selection(metric="loss", greater_is_better=False)
# A constant rate so high that the ninth step is better than the last.
BEST_IS_NINTH = {"schedule": Schedule(shape="constant", warmup_steps=0, num_steps=20), "learning_rate": 10.0}
WEIGHTS = (1.0, 0.25, 3.0)


@pytest.fixture(scope="module")
def train_rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("train"), 43)


@pytest.fixture(scope="module")
def validation_rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("validation"), 21, seed=1)


class Run:
    """Runs of one train step in one folder."""

    def __init__(self, train_rows: Features, validation_rows: Features | None, folder: Path) -> None:
        self.train_rows, self.validation_rows, self.folder = train_rows, validation_rows, folder

    def engine(self, step: Train, **options: object) -> NumpyEngine:
        return NumpyEngine(step, vocabulary=len(WORDS), **options)  # type: ignore[arg-type]

    def reports(
        self,
        engine: NumpyEngine,
        *,
        micro_batch_size: int = 8,
        stop: Callable[[], bool] = lambda: False,
        take: int | None = None,
    ) -> list[Report]:
        """The reports of a run; with `take`, of one that is killed after that many."""
        found = train(
            engine,
            self.train_rows,
            self.validation_rows,
            engine.step,
            folder=self.folder,
            micro_batch_size=micro_batch_size,
            stop=stop,
        )
        return list(itertools.islice(found, take))

    @property
    def saved(self) -> tuple[int, ...]:
        return checkpoints.steps(self.folder / checkpoints.FOLDER)


@pytest.fixture
def run(train_rows: Features, validation_rows: Features, tmp_path: Path) -> Run:
    return Run(train_rows, validation_rows, tmp_path)


def of(kind: type[R], reports: list[Report]) -> list[R]:
    return [report for report in reports if isinstance(report, kind)]


# --- the law of accumulation


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 20])
@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_micro_batches_give_the_loss_and_gradient_of_the_whole(train_rows: Features, size, fixed_shapes) -> None:
    step = train_step(class_weights=WEIGHTS, label_smoothing=0.1)
    engine = NumpyEngine(step, vocabulary=len(WORDS))
    rows = np.arange(20)
    denominator = float(np.asarray(WEIGHTS)[train_rows.targets.values[rows]].sum())

    def figures(size: int, fill_to: int):
        parts = micro_batches(rows, train_rows.lengths, size)
        batches = [collate(train_rows, part, grid=step.lengths, weigh=weigh(step), fill_to=fill_to) for part in parts]
        return engine.loss_and_gradient(batches, denominator)

    whole_loss, whole_gradient = figures(20, 0)
    loss, gradient = figures(size, size if fixed_shapes else 0)
    # Float64 sums of 20 terms: a few ulp.
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    for name, value in gradient.items():
        np.testing.assert_allclose(value, whole_gradient[name], rtol=1e-10, atol=1e-15)


def test_a_step_in_which_nothing_weighs_has_no_loss_and_changes_nothing(run: Run) -> None:
    engine = run.engine(train_step(class_weights=(0.0, 0.0, 0.0), num_steps=3))
    before = {name: value.copy() for name, value in engine.state.items() if value.size > 1}  # not the count of steps
    assert [report.loss for report in of(StepReport, run.reports(engine))] == [0.0, 0.0, 0.0]
    for name, value in before.items():
        np.testing.assert_array_equal(engine.state[name], value)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_weights_after_training_do_not_depend_on_the_micro_batch(
    train_rows: Features, tmp_path: Path, size: int
) -> None:
    step = train_step(class_weights=WEIGHTS, max_grad_norm=0.3)
    engines = []
    for number in (8, size):
        run = Run(train_rows, None, tmp_path / str(number))
        engines.append(run.engine(step))
        run.reports(engines[-1], micro_batch_size=number)
    for name, value in engines[0].state.items():
        np.testing.assert_allclose(engines[1].state[name], value, rtol=1e-10, atol=1e-14)


def test_the_loss_of_a_step_is_the_weighted_mean_over_its_rows(run: Run) -> None:
    step = train_step(class_weights=WEIGHTS, num_steps=1, batch_size=43)
    engine = run.engine(step)
    for name in ("weight", "bias"):
        engine.state[name][:] = 0.0
    [report] = of(StepReport, run.reports(engine, micro_batch_size=10))
    assert report.loss == pytest.approx(math.log(3), abs=1e-12)  # uniform logits cost ln C, whatever the weights
    assert report.num_tokens == run.train_rows.lengths.sum()


# --- order


def test_every_row_is_seen_once_an_epoch_and_the_last_epoch_may_be_cut(run: Run) -> None:
    engine = run.engine(train_step(num_steps=14))  # 43 rows in batches of 8: 6 steps an epoch
    run.reports(engine)
    first, second = (list(itertools.chain(*engine.seen[start : start + 6])) for start in (0, 6))
    assert sorted(first) == sorted(second) == list(range(43))
    assert first != second
    assert len(engine.seen) == 14


@pytest.mark.parametrize("draw", ["oversample", "undersample"])
def test_a_balanced_epoch_has_as_many_steps_as_the_compiler_counted(
    run: Run, draw: Literal["oversample", "undersample"]
) -> None:
    targets = run.train_rows.targets.values
    per_epoch = -(-rows_of_epoch(draw, np.bincount(targets).tolist()) // 8)
    engine = run.engine(train_step(num_steps=2 * per_epoch, draw=draw))
    reports = of(StepReport, run.reports(engine))
    assert reports[-1].epoch == 2.0
    seen = np.fromiter(itertools.chain(*engine.seen[:per_epoch]), np.int64)
    assert len(set(np.bincount(targets[seen]).tolist())) == 1


def test_reports_come_in_order_with_the_schedules_rate(run: Run) -> None:
    reports = of(StepReport, run.reports(run.engine(train_step())))
    assert [report.step for report in reports] == list(range(1, 21))
    assert reports[5].epoch == 1.0
    assert [report.learning_rate for report in reports][:4] == pytest.approx([1 / 6, 1 / 3, 0.5, 0.5 * 17 / 18])


def test_fixed_shapes_come_from_the_grid(run: Run) -> None:
    engine = run.engine(train_step(selection=selection()), fixed_shapes=True)
    run.reports(engine, micro_batch_size=5)
    assert {rows for rows, _ in engine.shapes} == {5}
    assert {length for _, length in engine.shapes} <= {4, 8, 12, 16}


# --- evaluation and choice


def test_evaluations_come_at_their_cadence_and_at_the_end(run: Run) -> None:
    reports = run.reports(run.engine(train_step(evaluate_every=7)))
    found = of(EvaluationReport, reports)
    assert [report.step for report in found] == [7, 14, 20]
    assert set(found[0].metrics) == {"accuracy", "f1_macro"}
    assert not any(report.best for report in found), "nothing is chosen without a selection"


def test_a_step_is_reported_before_its_evaluation(run: Run) -> None:
    reports = [report for report in run.reports(run.engine(train_step(evaluate_every=7))) if hasattr(report, "step")]
    steps = [report.step for report in reports if isinstance(report, StepReport | EvaluationReport)]
    assert steps == sorted(steps)


def test_the_best_weights_are_kept(run: Run) -> None:
    step = train_step(selection=BY_LOSS, **BEST_IS_NINTH)
    engine = run.engine(step)
    reports = run.reports(engine)
    evaluations = of(EvaluationReport, reports)
    best = min(evaluations, key=lambda report: report.loss)
    [end] = of(StopReport, reports)
    assert end.kept_step == best.step == 9
    assert [report.step for report in evaluations if report.best][-1] == best.step
    again = run.engine(step)
    again.load_state(run.folder / checkpoints.FOLDER / checkpoints.name_of(best.step))
    assert engine.bytes() == again.bytes()


def test_the_last_weights_are_kept_without_keep_best(run: Run) -> None:
    step = train_step(selection=selection(keep_best=False, patience=50), **BEST_IS_NINTH)
    [end] = of(StopReport, run.reports(run.engine(step)))
    assert end.kept_step == end.step == 20


def test_training_stops_when_nothing_is_gained(run: Run) -> None:
    step = train_step(
        num_steps=200, selection=selection(metric="loss", greater_is_better=False, patience=2, min_delta=0.05)
    )
    reports = run.reports(run.engine(step))
    losses = [report.loss for report in of(EvaluationReport, reports)]
    [end] = of(StopReport, reports)
    assert end.step < 200
    assert end.reason == "no gain in loss for 2 evaluations"
    # The last two evaluations lie less than min_delta under the best before them; no earlier pair does.
    stale = [loss > min(losses[:index]) - 0.05 for index, loss in enumerate(losses) if index]
    assert stale[-2:] == [True, True]
    assert (True, True) not in itertools.pairwise(stale[:-1])


def test_a_stopped_run_stays_stopped(run: Run) -> None:
    step = train_step(
        num_steps=200, selection=selection(metric="loss", greater_is_better=False, patience=1, min_delta=9.0)
    )
    first = run.reports(run.engine(step))
    second = run.reports(run.engine(step))
    assert of(StepReport, second) == []
    assert of(StopReport, first) == of(StopReport, second)


# --- checkpoints and resume

CHOOSING = {
    "selection": BY_LOSS,
    "optimizer": AdamW(),
    "learning_rate": 0.05,
    "weight_decay": 0.01,
    "class_weights": WEIGHTS,
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), max_size=4))
def test_a_run_killed_anywhere_ends_in_the_same_bytes(run: Run, tmp_path_factory, kills: list[int]) -> None:
    step = train_step(**CHOOSING)
    expected = killed_at(run, step, [], tmp_path_factory.mktemp("whole"))
    assert killed_at(run, step, kills, tmp_path_factory.mktemp("killed")) == expected


@pytest.mark.parametrize("options", [{"ema_decay": 0.7}, {"unfreeze_every": 6}], ids=str)
def test_averages_and_what_is_frozen_outlast_a_kill(run: Run, tmp_path_factory, options: dict[str, float]) -> None:
    step = train_step(**{**CHOOSING, **options})
    expected = killed_at(run, step, [], tmp_path_factory.mktemp("whole"))
    assert killed_at(run, step, [7, 4], tmp_path_factory.mktemp("killed")) == expected
    assert expected != killed_at(run, train_step(**CHOOSING), [], tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(("steps", "moved"), [(6, False), (7, True)])
def test_a_layer_is_trained_after_as_many_steps_as_the_plan_says(run: Run, steps: int, moved: bool) -> None:
    engine = run.engine(train_step(num_steps=steps, unfreeze_every=6))
    before = {name: value.copy() for name, value in engine.state.items()}
    run.reports(engine)
    assert not np.array_equal(engine.state["bias"], before["bias"])
    assert np.array_equal(engine.state["weight"], before["weight"]) is not moved


def test_the_kept_model_is_the_best_average(run: Run) -> None:
    """By the losses of averages, which the last evaluation gives once more for the kept one."""
    step = train_step(selection=BY_LOSS, ema_decay=0.9, **BEST_IS_NINTH)
    engine = run.engine(step)
    reports = run.reports(engine)
    losses = {report.step: report.loss for report in of(EvaluationReport, reports)}
    [end] = of(StopReport, reports)
    assert losses[end.kept_step] == min(losses.values())
    rows = np.arange(len(run.validation_rows or ()))
    assert run.validation_rows is not None
    batch = collate(run.validation_rows, rows, grid=step.lengths, weigh=weigh(step))
    assert engine.evaluate(batch).losses.mean() == pytest.approx(losses[end.kept_step], rel=1e-6)


def killed_at(run: Run, step: Train, kills: list[int], folder: Path) -> bytes:
    here = Run(run.train_rows, run.validation_rows, folder)
    for kill in kills:
        here.reports(here.engine(step, dropout=0.3), take=kill, micro_batch_size=3)
    engine = here.engine(step, dropout=0.3)
    here.reports(engine, micro_batch_size=3)
    return engine.bytes()


def test_the_last_two_checkpoints_and_the_best_stay(run: Run) -> None:
    step = train_step(selection=BY_LOSS, **BEST_IS_NINTH)
    [end] = of(StopReport, run.reports(run.engine(step)))
    assert end.kept_step == 9
    assert run.saved == (20, 16, 9)


def test_without_a_choice_the_last_two_checkpoints_stay(run: Run) -> None:
    reports = run.reports(run.engine(train_step()))
    assert [report.step for report in of(CheckpointReport, reports)] == [4, 8, 12, 16, 20]
    assert run.saved == (20, 16)


def damage(run: Run, step: int) -> None:
    file = run.folder / checkpoints.FOLDER / checkpoints.name_of(step) / "state.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_damaged_checkpoint_is_passed_over_and_said(run: Run) -> None:
    step = train_step()
    whole = run.engine(step)
    run.reports(whole)
    damage(run, 20)
    engine = run.engine(step)
    reports = run.reports(engine)
    [resumed] = of(ResumeReport, reports)
    assert resumed.step == 16
    assert resumed.damaged == ("step-00000020: state.safetensors is not the file that was written",)
    assert [report.step for report in of(StepReport, reports)] == [17, 18, 19, 20]
    assert engine.bytes() == whole.bytes()


def test_a_checkpoint_whose_best_one_is_damaged_is_passed_over(run: Run) -> None:
    step = train_step(selection=BY_LOSS, **BEST_IS_NINTH)
    whole = run.engine(step)
    [end] = of(StopReport, run.reports(whole))
    damage(run, end.kept_step)
    engine = run.engine(step)
    [resumed] = of(ResumeReport, run.reports(engine))
    assert resumed.step == 0
    assert len(resumed.damaged) == 3
    assert engine.bytes() == whole.bytes()


def test_falling_back_finds_the_best_that_was_known_then(run: Run) -> None:
    step = train_step(
        num_steps=24,
        checkpoint_every=4,
        **{**CHOOSING, "selection": selection(metric="loss", greater_is_better=False, evaluate_every=4)},
    )
    whole = run.engine(step)
    run.reports(whole)
    damage(run, run.saved[0])
    engine = run.engine(step)
    [resumed] = of(ResumeReport, run.reports(engine))
    assert resumed.step == 20
    assert engine.bytes() == whole.bytes()


# --- what goes wrong


def test_a_loss_that_is_not_a_number_stops_with_the_last_good_checkpoint(run: Run) -> None:
    with pytest.raises(
        RunError, match=r"diverged at step 7: the loss is nan .* last good checkpoint is step 4"
    ) as caught:
        run.reports(run.engine(train_step(), breaks_at=6))
    assert caught.value.code == "E403"
    assert "learning_rate" in caught.value.hint
    assert run.saved == (4,)


def test_a_loss_that_is_not_a_number_is_never_checkpointed(run: Run) -> None:
    with pytest.raises(RunError, match=r"diverged at step 4.*no checkpoint before it"):
        run.reports(run.engine(train_step(), breaks_at=3))
    assert run.saved == ()


@pytest.mark.parametrize("room", [1, 2, 5])
def test_out_of_memory_halves_the_micro_batch_and_says_so(run: Run, tmp_path: Path, room: int) -> None:
    step = train_step(selection=selection())
    whole = run.engine(step)
    run.reports(whole)
    cramped = Run(run.train_rows, run.validation_rows, tmp_path / "cramped")
    engine = cramped.engine(step, room=room)
    reports = cramped.reports(engine)
    sizes = [report.micro_batch_size for report in of(MicroBatchReport, reports)]
    assert sizes == {1: [4, 2, 1], 2: [4, 2], 5: [4]}[room]
    assert len(of(StepReport, reports)) == 20
    np.testing.assert_allclose(engine.state["weight"], whole.state["weight"], rtol=1e-10, atol=1e-14)


def test_out_of_memory_in_an_evaluation_halves_too(run: Run) -> None:
    engine = run.engine(train_step(evaluate_every=4, num_steps=8))
    steps = itertools.takewhile(
        lambda report: not isinstance(report, EvaluationReport), of(StepReport, run.reports(engine, take=3))
    )
    assert len(list(steps)) == 3
    engine.room = 3
    reports = run.reports(engine)
    assert [report.micro_batch_size for report in of(MicroBatchReport, reports)] == [4, 2]
    assert [report.step for report in of(EvaluationReport, reports)] == [4, 8]


def test_no_room_for_one_row_is_an_error_with_a_way_out(run: Run) -> None:
    with pytest.raises(RunError, match="no room for a single row") as caught:
        run.reports(run.engine(train_step(), room=0))
    assert caught.value.code == "E405"
    assert "max_length" in caught.value.hint


def test_a_halved_micro_batch_is_remembered_by_the_checkpoint(run: Run) -> None:
    step = train_step()
    run.reports(run.engine(step, room=3), take=8)
    assert run.saved
    engine = run.engine(step)
    run.reports(engine)
    assert max(rows for rows, _ in engine.shapes) == 2


def test_interruption_saves_and_the_next_run_goes_on(run: Run) -> None:
    step = train_step(**CHOOSING)
    whole = Run(run.train_rows, run.validation_rows, run.folder / "whole")
    expected = whole.engine(step, dropout=0.3)
    whole.reports(expected)
    stops = iter([False, False, False, False, True])
    engine = run.engine(step, dropout=0.3)
    with pytest.raises(Interrupted, match="stopped after step 5") as caught:
        run.reports(engine, stop=lambda: next(stops))
    assert caught.value.code == "E130"
    assert run.saved[0] == 5
    engine = run.engine(step, dropout=0.3)
    reports = run.reports(engine)
    [resumed] = of(ResumeReport, reports)
    assert resumed.step == 5
    assert engine.bytes() == expected.bytes()


def test_a_stop_asked_for_at_the_last_step_ends_the_run(run: Run) -> None:
    [end] = of(StopReport, run.reports(run.engine(train_step(num_steps=1)), stop=lambda: True))
    assert end.reason == "all 1 steps are done"


def test_seconds_are_measured_by_the_clock_that_was_given(run: Run) -> None:
    ticks = itertools.count()
    found = train(
        run.engine(train_step(num_steps=3, checkpoint_every=0)),
        run.train_rows,
        None,
        replace(train_step(num_steps=3, checkpoint_every=0)),
        folder=run.folder,
        micro_batch_size=8,
        clock=lambda: float(next(ticks)),
    )
    assert [report.seconds for report in found if isinstance(report, StepReport)] == [1.0, 1.0, 1.0]
