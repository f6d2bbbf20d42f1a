"""train: token arrays and a pretrained model -> a tuned one. Resumes from the checkpoints in its folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.files import new_folder, write_json
from compiler.hub import fetch_model
from compiler.plan import Train
from runtimes.backends import backend
from runtimes.features import Features
from runtimes.loop import train
from runtimes.memory import peak_bytes
from runtimes.reports import EvaluationReport, StepReport, StopReport
from runtimes.steps import Context

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def execute(step: Train, context: Context) -> Iterator[Any]:
    """Trains, saves the kept weights in the ecosystem's layout, and leaves train.json."""
    base = fetch_model(step.model, context.root, context.sources)
    back = backend(context.placement.engine)
    engine = back.load_engine(step, base, context.folder / "init.safetensors", context.placement.device)
    prepared = context.inputs["prepare"]
    validation = Features(prepared / "validation") if step.evaluate_every else None
    measured = _Measured()
    for report in train(
        engine,
        Features(prepared / "train"),
        validation,
        step,
        folder=context.folder,
        micro_batch_size=context.placement.micro_batch_size,
        stop=context.stop,
    ):
        measured.note(report)
        yield report
    with new_folder(context.folder / back.trained_folder(step)) as folder:
        engine.save_model(folder)
        copy_tokenizer(base, folder)
    trained, total = engine.num_parameters
    peak = max(engine.peak_memory(), measured.peak)
    facts = {"parameters": {"trained": trained, "total": total}, "peak_memory_bytes": peak, **measured.to_json()}
    write_json(context.folder / "train.json", facts)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies the tokenizer's files beside a saved model, so that the folder is whole for transformers."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


class _Measured:
    """Sums over the reports of this process, for the report of the run."""

    def __init__(self) -> None:
        self.steps = self.tokens = self.peak = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.stopped: dict[str, Any] = {}

    def note(self, report: Any) -> None:
        match report:
            case StepReport():
                self.steps += 1
                self.tokens += report.num_tokens
                self.seconds += report.seconds
                self.peak = peak_bytes()
                self.curve.append({"step": report.step, "loss": report.loss, "learning_rate": report.learning_rate})
            case EvaluationReport():
                self.evaluations.append(asdict(report))
            case StopReport():
                self.stopped = asdict(report)

    def to_json(self) -> dict[str, Any]:
        return {
            "steps_here": self.steps,
            "tokens_here": self.tokens,
            "seconds_here": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else None,
            "stopped": self.stopped,
            "evaluations": self.evaluations,
            "curve": self.curve,
        }
