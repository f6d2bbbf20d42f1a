"""The events of a run as a person watches them: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compiler.plan import Plan
from runtimes.events import Progress as StepProgress
from runtimes.events import Said, StepFailed, StepFinished, StepReused, StepSkipped, StepStarted
from runtimes.reports import (
    CheckpointReport,
    EvaluationReport,
    MicroBatchReport,
    ResumeReport,
    StepReport,
    StopReport,
)

_SMOOTHING = 0.1  # weight of the newest step in the shown loss and speed


def display(events: Iterator[Any], plan: Plan, *, quiet: bool) -> None:
    """Shows events until they end."""
    console = _Console(stderr=True, quiet=quiet, highlight=False)
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        screen = _Screen(console, bars)
        for event in events:
            screen.show(event)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to the command line's edge, where every command treats a closed pipe alike."""
        raise BrokenPipeError


class _Screen:
    def __init__(self, console: Console, bars: Progress) -> None:
        self.console, self.bars = console, bars
        self.bar: TaskID | None = None
        self.loss = self.tokens = self.seconds = 0.0
        self.metric = ""

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def show(self, event: Any) -> None:
        match event:
            case StepStarted(step=step, key=key):
                self.say(f"{step} {key[:12]}")
            case StepReused(step=step, key=key):
                self.say(f"{step} {key[:12]}: done before")
            case StepFinished(step=step, seconds=seconds):
                self.clear()
                self.say(f"  {step} done in {seconds:.1f} s")
            case StepFailed(step=step, message=message):
                self.clear()
                self.say(f"  {step} failed: {message}")
            case StepSkipped(step=step, failed=failed):
                self.say(f"{step} is left out: {failed} failed")
            case StepProgress(step=step, done=done, total=total, unit=unit):
                self.advance(f"{step} ({unit})", done, total, "")
            case Said(message=message):
                self.say(f"  {message}")
            case _:
                self.show_training(event)

    def show_training(self, event: Any) -> None:
        match event:
            case StepReport():
                self.step(event)
            case EvaluationReport():
                figures = ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
                self.metric = figures.partition(",")[0]
                best = " (best so far)" if event.best else ""
                self.say(
                    f"  epoch {event.epoch:.2f}, step {event.step}: validation loss {event.loss:.4f}, {figures}{best}"
                )
            case ResumeReport():
                for reason in event.damaged:
                    self.say(f"  checkpoint passed over: {reason}")
                if event.step:
                    self.say(f"  goes on after step {event.step}")
            case MicroBatchReport():
                self.say(f"  out of memory: step {event.step} again with {event.micro_batch_size} rows at once")
            case StopReport():
                self.say(f"  {event.reason}; the weights of step {event.kept_step} are kept")
            case CheckpointReport():
                pass  # in events.jsonl; too many for a person
            case _:
                self.say(f"  {event}")

    def step(self, event: StepReport) -> None:
        first = self.seconds == 0.0
        self.loss = smoothed(self.loss, event.loss, first=first)
        # Reports come one step late, so that a single step's seconds may be another's: only their means make a speed.
        self.tokens = smoothed(self.tokens, event.num_tokens, first=first)
        self.seconds = smoothed(self.seconds, event.seconds, first=first)
        speed = self.tokens / max(self.seconds, 1e-9)
        figures = f"loss {self.loss:.4f}  {self.metric}  {speed:,.0f} {event.unit}/s  {memory()}"
        self.advance("train (steps)", event.step, event.num_steps, figures)
        tenth = max(1, event.num_steps // 10)
        if not self.console.is_terminal and (event.step % tenth == 0 or event.step == event.num_steps):
            self.say(f"  step {event.step}/{event.num_steps}: {figures}")

    def advance(self, description: str, done: int, total: int, figures: str) -> None:
        if self.bar is None:
            self.bar = self.bars.add_task(description, total=total, figures=figures)
        self.bars.update(self.bar, description=description, completed=done, total=total, figures=figures)

    def clear(self) -> None:
        if self.bar is not None:
            self.bars.remove_task(self.bar)
            self.bar = None


def smoothed(mean: float, value: float, *, first: bool) -> float:
    """A running mean in which the newest value counts a tenth."""
    return value if first else mean + _SMOOTHING * (value - mean)


def memory() -> str:
    """Most memory that this process has held, for people."""
    from runtimes.memory import peak_bytes

    return f"{peak_bytes() / 2**30:.2f} GiB"
