"""The training loop, the same for every engine: order, schedule, accumulation, evaluation, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from compiler.plan import Selection, Train
from compiler.typed import read, to_json
from runtimes import checkpoints, tasks
from runtimes.batches import (
    Rows,
    as_it_is,
    collate,
    epoch_batches,
    epoch_rows,
    micro_batches,
    num_batches,
    padded_lengths,
)
from runtimes.errors import Interrupted, RunError
from runtimes.evaluation import evaluate, halved, mean_loss
from runtimes.features import Features
from runtimes.protocol import Batch, Engine, OutOfMemory, PendingStep
from runtimes.randomness import number
from runtimes.reports import (
    CheckpointReport,
    EvaluationReport,
    MicroBatchReport,
    Report,
    ResumeReport,
    StepReport,
    StopReport,
)
from runtimes.schedule import learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """All that the loop remembers between steps; with the engine's state it decides everything that follows."""

    step: int = 0  # optimizer steps done
    micro_batch_size: int
    best_step: int = 0  # 0: nothing was evaluated yet
    best_value: float = 0.0
    stale: int = 0  # evaluations since the last gain
    finished: str = ""  # why training is over
    history: tuple[EvaluationReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    """A step that was given to the engine and whose figures were not fetched."""

    step: int
    pending: PendingStep
    learning_rate: float
    num_tokens: int


def never() -> bool:
    """Nobody asks to stop."""
    return False


def train(
    engine: Engine,
    train_features: Features,
    validation_features: Features | None,
    step: Train,
    *,
    folder: Path,
    micro_batch_size: int,
    stop: Callable[[], bool] = never,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Report]:
    """Trains the engine to the end of the step and yields what happens; goes on from the checkpoints in `folder`.

    Afterwards the engine holds the kept weights. When `stop()` is true after a step, a checkpoint is saved and
    Interrupted is raised. Raises RunError when the loss is not finite (E403) or no row fits the device (E405).
    """
    loop = _Loop(
        engine, train_features, validation_features, step, folder / checkpoints.FOLDER, micro_batch_size, clock
    )
    yield from loop.resume()
    while not loop.state.finished:
        yield from loop.advance(stop)
    yield loop.keep()


class _Loop:
    def __init__(
        self,
        engine: Engine,
        train_features: Features,
        validation_features: Features | None,
        step: Train,
        folder: Path,
        micro_batch_size: int,
        clock: Callable[[], float],
    ) -> None:
        self.engine, self.plan, self.folder, self.clock = engine, step, folder, clock
        self.train, self.validation = train_features, validation_features
        self.task = tasks.module_of(step.task)
        self.weigh = partial(self.task.weights, step.task, step.loss)
        self.lengths = train_features.lengths
        self.per_epoch = num_batches(len(self._epoch_rows(0)), step.batch_size)
        self.state = LoopState(micro_batch_size=min(micro_batch_size, step.batch_size))
        self.issued: _Issued | None = None
        self.since = clock()
        self.epoch_order: tuple[int, tuple[Rows, ...]] = (-1, ())

    # --- one step

    def advance(self, stop: Callable[[], bool]) -> Iterator[Report]:
        """One optimizer step and what is due after it. Reports run one step behind the device."""
        before, state = self.issued, self.state
        issued = yield from self._issue(self._rows(state.step))
        if before:
            yield self._report(before)
        self.issued = issued
        self.state = state = replace(self.state, step=issued.step)
        last, asked = state.step >= self.plan.num_steps, stop()
        evaluates = self._evaluates(last)
        saves = last or asked or _due(state.step, self.plan.checkpoint_every)
        if evaluates or saves:
            yield from self._flush()
        if evaluates:
            yield from self._evaluate()
        if last and not self.state.finished:
            self.state = replace(self.state, finished=f"all {state.step} steps are done")
        if saves or self.state.finished or self._is_best():
            yield self._save()
        if asked and not self.state.finished:
            raise Interrupted("E130", f"stopped after step {state.step}, which is saved", "the same command goes on")

    def _rows(self, step: int) -> Rows:
        epoch, position = divmod(step, self.per_epoch)
        if self.epoch_order[0] != epoch:
            rows = self._epoch_rows(epoch)
            padded = padded_lengths(self.lengths[rows], self.plan.lengths)
            batches = epoch_batches(padded, batch_size=self.plan.batch_size, seed=self.plan.seed, epoch=epoch)
            self.epoch_order = (epoch, tuple(rows[batch] for batch in batches))
        return self.epoch_order[1][position]

    def _epoch_rows(self, epoch: int) -> Rows:
        draw, count = self.plan.draw, len(self.train)
        classes = np.zeros(count, np.int64) if draw == "every" else self.train.targets.values
        return epoch_rows(classes, draw=draw, seed=self.plan.seed, epoch=epoch)

    def _issue(self, rows: Rows) -> Generator[Report, None, _Issued]:
        """Gives a step to the engine, with fewer rows at once for as long as it has no room."""
        step = self.state.step
        rate = learning_rate(self.plan.schedule, self.plan.learning_rate, step)
        while True:
            batches = self._micro_batches(rows, step // self.per_epoch)
            try:
                pending = self.engine.train_step(
                    batches,
                    denominators={"loss": _total_weight(batches)},
                    learning_rates=(rate,),
                    seed=number(self.plan.seed, step, "dropout"),
                    number=step,
                )
            except OutOfMemory:
                self.state = replace(self.state, micro_batch_size=halved(self.state.micro_batch_size))
                yield MicroBatchReport(step=step + 1, micro_batch_size=self.state.micro_batch_size)
                continue
            num_tokens = int(self.lengths[rows].sum())
            return _Issued(step=step + 1, pending=pending, learning_rate=rate, num_tokens=num_tokens)

    def _micro_batches(self, rows: Rows, epoch: int) -> tuple[Batch, ...]:
        size, vary = self.state.micro_batch_size, self.task.VARY
        varied = as_it_is if vary is None else partial(vary, self.plan.task, seed=self.plan.seed, epoch=epoch)
        return tuple(
            collate(
                self.train,
                part,
                grid=self.plan.lengths,
                weigh=self.weigh,
                vary=varied,
                fill_to=size if self.engine.fixed_shapes else 0,
            )
            for part in micro_batches(rows, self.lengths, size)
        )

    def _flush(self) -> Iterator[Report]:
        if self.issued:
            yield self._report(self.issued)
            self.issued = None

    def _report(self, issued: _Issued) -> StepReport:
        result = issued.pending.result()
        before, self.since = self.since, self.clock()
        loss = sum(result.losses.values())
        if not (math.isfinite(loss) and math.isfinite(result.grad_norm)):
            self._diverged(issued.step, f"the loss is {loss:g} and the gradient's norm {result.grad_norm:g}")
        return StepReport(
            step=issued.step,
            num_steps=self.plan.num_steps,
            epoch=issued.step / self.per_epoch,
            loss=loss,
            learning_rate=issued.learning_rate,
            grad_norm=result.grad_norm,
            num_tokens=issued.num_tokens,
            unit=self.train.unit,
            seconds=self.since - before,
        )

    def _diverged(self, step: int, found: str) -> None:
        saved = next(iter(checkpoints.steps(self.folder)), None)
        last_good = "there is no checkpoint before it" if saved is None else f"the last good checkpoint is step {saved}"
        hint = "lower /training/learning_rate, lengthen the warm-up, or set /training/max_grad_norm"
        raise RunError("E403", f"training diverged at step {step}: {found}; {last_good}", hint)

    # --- evaluation

    @property
    def _evaluate_every(self) -> int:
        selection = self.plan.selection
        return selection.evaluate_every if selection else self.plan.evaluate_every

    def _evaluates(self, last: bool) -> bool:
        every = self._evaluate_every
        return self.validation is not None and every > 0 and (last or _due(self.state.step, every))

    def _evaluate(self) -> Iterator[Report]:
        assert self.validation is not None, "only called when there are validation rows"
        sizes: list[int] = []
        results = evaluate(
            self.engine,
            self.validation,
            grid=self.plan.lengths,
            batch_size=self.state.micro_batch_size,
            on_halved=sizes.append,
        )
        if sizes:
            self.state = replace(self.state, micro_batch_size=sizes[-1])
            yield MicroBatchReport(step=self.state.step, micro_batch_size=sizes[-1])
        metrics = self.task.score(self.plan.task, self.plan.metrics, self.validation.targets, results.outputs)
        metrics["loss"] = mean_loss(results.losses, self.validation.targets)
        if not math.isfinite(metrics["loss"]):
            self._diverged(self.state.step, f"the validation loss is {metrics['loss']:g}")
        yield self._judge(metrics)
        self.since = self.clock()

    def _judge(self, metrics: dict[str, float]) -> EvaluationReport:
        """Compares an evaluation with the best before it."""
        state, selection = self.state, self.plan.selection
        gain = _gain(metrics, state, selection) if selection else 0.0
        report = EvaluationReport(
            step=state.step,
            epoch=state.step / self.per_epoch,
            loss=metrics["loss"],
            metrics={name: value for name, value in metrics.items() if name != "loss"},
            best=gain > 0,
        )
        self.state = replace(state, history=(*state.history, report))
        if selection:
            self._count(metrics[selection.metric], gain, selection)
        return report

    def _count(self, value: float, gain: float, selection: Selection) -> None:
        stale = 0 if gain > selection.min_delta else self.state.stale + 1
        self.state = replace(self.state, stale=stale)
        if gain > 0:
            self.state = replace(self.state, best_step=self.state.step, best_value=value)
        if 0 < selection.patience <= stale:
            reason = f"no gain in {selection.metric} for {stale} evaluations"
            self.state = replace(self.state, finished=reason)

    # --- checkpoints

    def _is_best(self) -> bool:
        return self._keeps_best and self.state.best_step == self.state.step

    @property
    def _keeps_best(self) -> bool:
        return self.plan.selection is not None and self.plan.selection.keep_best

    def _save(self) -> CheckpointReport:
        state = self.state
        checkpoints.save(self.folder, state.step, to_json(state), self.engine.save_state)
        self._prune()
        self.since = self.clock()
        return CheckpointReport(step=state.step, folder=checkpoints.name_of(state.step))

    def _prune(self) -> None:
        """The last two stay, and the best that each of them would go back to."""
        last_two = checkpoints.steps(self.folder)[:2]
        best = {self.state.best_step} if self._keeps_best else set()
        if self._keeps_best:
            best |= {report.step for report in self._bests_before(last_two[-1])[-1:]}
        checkpoints.keep_only(self.folder, {*last_two, *best})

    def _bests_before(self, step: int) -> list[EvaluationReport]:
        return [report for report in self.state.history if report.best and report.step <= step]

    def resume(self) -> Iterator[Report]:
        """Takes up the latest checkpoint that is whole, together with the best one that it speaks of."""
        damaged: list[str] = []
        found = checkpoints.steps(self.folder)
        for step in found:
            try:
                state = read(LoopState, checkpoints.load(self.folder, step))
                if self._keeps_best and state.best_step not in (0, step):
                    checkpoints.load(self.folder, state.best_step)
            except checkpoints.Damaged as error:
                damaged.append(str(error))
                continue
            self.engine.load_state(self.folder / checkpoints.name_of(step))
            self.state = replace(state, micro_batch_size=min(state.micro_batch_size, self.state.micro_batch_size))
            break
        checkpoints.keep_only(self.folder, [step for step in found if step <= self.state.step])
        if found:
            yield ResumeReport(step=self.state.step, damaged=tuple(damaged))
        self.since = self.clock()

    def keep(self) -> StopReport:
        """Loads the kept weights back into the engine."""
        state = self.state
        kept = state.best_step if self._keeps_best else state.step
        if kept != state.step:
            self.engine.load_state(self.folder / checkpoints.name_of(kept))
        return StopReport(step=state.step, kept_step=kept, reason=state.finished)


def _gain(metrics: dict[str, float], state: LoopState, selection: Selection) -> float:
    if state.best_step == 0:
        return math.inf
    difference = metrics[selection.metric] - state.best_value
    return difference if selection.greater_is_better else -difference


def _total_weight(batches: Sequence[Batch]) -> float:
    """The weights of all targets of a step, by which its loss is divided once; one where there is no target."""
    return float(sum(batch.weights.sum(dtype=np.float64) for batch in batches)) or 1.0


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
