"""The training loop, the same for every engine: order, schedule, accumulation, evaluation, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from compiler.plan import Selection, TaskTurns, Train, TrainTogether
from compiler.typed import read, to_json
from runtimes import checkpoints
from runtimes.errors import Interrupted, RunError
from runtimes.evaluation import evaluate, halved, mean_loss
from runtimes.protocol import LOSS, Batch, Engine, OutOfMemory, PendingStep
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
from runtimes.rows.features import Features
from runtimes.rows.train_rows import TrainRows
from runtimes.rows.turns import Turn, Turns, Weighing
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
    log_variances: Mapping[str, float] = field(default_factory=dict)  # of several tasks, where they are learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    """A step that was given to the engine and whose figures were not fetched."""

    step: int
    pending: PendingStep
    learning_rate: float
    num_tokens: int
    term: str
    factor: float  # what the loss was multiplied by


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
    rows = TrainRows(LOSS, train_features, validation_features, step)
    turns = {LOSS: TaskTurns(steps=rows.per_epoch, weight=1.0, share=1.0)}
    weighing = Weighing(turns, 0.0)
    yield from _Loop(engine, {LOSS: rows}, weighing, folder / checkpoints.FOLDER, micro_batch_size, clock).run(stop)


def train_together(
    engine: Engine,
    features: Mapping[str, tuple[Features, Features | None]],
    step: TrainTogether,
    *,
    folder: Path,
    micro_batch_size: int,
    stop: Callable[[], bool] = never,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Report]:
    """As `train`, of several tasks: their rows to train on and to validate with, by name."""
    rows = {name: TrainRows(name, *features[name], part) for name, part in step.parts.items()}
    weighing = Weighing(step.turns, step.variance_rate)
    folder /= checkpoints.FOLDER
    yield from _Loop(engine, rows, weighing, folder, micro_batch_size, clock, rotates=step.rotates).run(stop)


class _Loop:
    def __init__(
        self,
        engine: Engine,
        parts: Mapping[str, TrainRows],
        weighing: Weighing,
        folder: Path,
        micro_batch_size: int,
        clock: Callable[[], float],
        *,
        rotates: bool = False,
    ) -> None:
        self.engine, self.folder, self.clock = engine, folder, clock
        self.parts, self.weighing = parts, weighing
        self.plan = next(iter(parts.values())).step  # in what is not a task's own, all are alike
        steps = {name: turns.steps for name, turns in weighing.turns.items()}
        self.turns = Turns(steps, rotates=rotates, seed=self.plan.seed)
        self.per_epoch = self.turns.per_epoch
        self.state = LoopState(
            micro_batch_size=min(micro_batch_size, self.plan.batch_size),
            log_variances=dict.fromkeys(parts, 0.0) if weighing.learns else {},
        )
        self.issued: _Issued | None = None
        self.since = clock()

    def run(self, stop: Callable[[], bool]) -> Iterator[Report]:
        """All that happens, from the last checkpoint to the end."""
        yield from self.resume()
        while not self.state.finished:
            yield from self.advance(stop)
        yield self.keep()

    # --- one step

    def advance(self, stop: Callable[[], bool]) -> Iterator[Report]:
        """One optimizer step and what is due after it. Reports run one step behind the device."""
        if self.weighing.learns:
            yield from self._flush()  # the next step weighs by what is learnt of this one
        before = self.issued
        issued = yield from self._issue(self.turns.of(self.state.step))
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

    def _issue(self, turn: Turn) -> Generator[Report, None, _Issued]:
        """Gives a step to the engine, with fewer rows at once for as long as it has no room."""
        step, part = self.state.step, self.parts[turn.name]
        rows = part.of_turn(turn.number)
        rate = learning_rate(self.plan.schedule, self.plan.learning_rate, step)
        factor = self.weighing.factor(turn.name, self.state.log_variances.get(turn.name, 0.0))
        while True:
            batches = part.micro_batches(rows, self.state.micro_batch_size, filled=self.engine.fixed_shapes)
            try:
                pending = self.engine.train_step(
                    batches,
                    denominators={turn.name: _total_weight(batches) / factor},
                    learning_rates=(rate,),
                    seed=number(self.plan.seed, step, "dropout"),
                    number=step,
                )
            except OutOfMemory:
                self.state = replace(self.state, micro_batch_size=halved(self.state.micro_batch_size))
                yield MicroBatchReport(step=step + 1, micro_batch_size=self.state.micro_batch_size)
                continue
            return _Issued(
                step=step + 1,
                pending=pending,
                learning_rate=rate,
                num_tokens=part.num_tokens(rows),
                term=turn.name,
                factor=factor,
            )

    def _flush(self) -> Iterator[Report]:
        if self.issued:
            yield self._report(self.issued)
            self.issued = None

    def _report(self, issued: _Issued) -> StepReport:
        result = issued.pending.result()
        before, self.since = self.since, self.clock()
        loss = sum(result.losses.values()) / issued.factor
        if not (math.isfinite(loss) and math.isfinite(result.grad_norm)):
            self._diverged(issued.step, f"the loss is {loss:g} and the gradient's norm {result.grad_norm:g}")
        if self.weighing.learns:
            self._learn(issued.term, loss)
        return StepReport(
            step=issued.step,
            num_steps=self.plan.num_steps,
            epoch=issued.step / self.per_epoch,
            loss=loss,
            learning_rate=issued.learning_rate,
            grad_norm=result.grad_norm,
            num_tokens=issued.num_tokens,
            unit=self.parts[issued.term].train.unit,
            seconds=self.since - before,
            part="" if issued.term == LOSS else issued.term,
            weight=issued.factor,
        )

    def _learn(self, name: str, loss: float) -> None:
        """Moves the log-variance of a task by the loss of a step."""
        moved = self.weighing.moved(name, self.state.log_variances[name], loss)
        self.state = replace(self.state, log_variances={**self.state.log_variances, name: moved})

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
        validates = all(part.validation is not None for part in self.parts.values())
        return validates and every > 0 and (last or _due(self.state.step, every))

    def _evaluate(self) -> Iterator[Report]:
        found: dict[str, dict[str, float]] = {}
        for name, part in self.parts.items():
            found[name] = yield from self._measured(part)
        if LOSS in found:
            metrics = found[LOSS]
        else:
            metrics = {f"{name}.{word}": value for name, each in found.items() for word, value in each.items()}
            metrics[LOSS] = sum(self.weighing.turns[name].weight * each[LOSS] for name, each in found.items())
        yield self._judge(metrics)
        self.since = self.clock()

    def _measured(self, part: TrainRows) -> Generator[Report, None, dict[str, float]]:
        """The loss and metrics of a task on its validation rows."""
        assert part.validation is not None, "only called when there are validation rows"
        sizes: list[int] = []
        results = evaluate(
            self.engine,
            part.validation,
            grid=part.step.lengths,
            batch_size=self.state.micro_batch_size,
            on_halved=sizes.append,
            term=part.term,
        )
        if sizes:
            self.state = replace(self.state, micro_batch_size=sizes[-1])
            yield MicroBatchReport(step=self.state.step, micro_batch_size=sizes[-1])
        metrics = part.task.score(part.step.task, part.step.metrics, part.validation.targets, results.outputs)
        metrics[LOSS] = mean_loss(results.losses, part.validation.targets)
        if not math.isfinite(metrics[LOSS]):
            self._diverged(self.state.step, f"the validation loss is {metrics[LOSS]:g}")
        return metrics

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
