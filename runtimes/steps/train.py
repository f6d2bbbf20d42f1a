"""train: token arrays and a pretrained model -> a tuned one. Resumes from the checkpoints in its folder."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from compiler import tasks as compiler_tasks
from compiler.files import new_folder, write_json, write_text
from compiler.hub import fetch_adapter
from compiler.images import PROCESSOR
from compiler.plan import Train, TrainTogether
from compiler.tasks import Task
from compiler.tokenizer_files import CARRIED, TOKENIZER
from runtimes import checkpoints, tasks
from runtimes.backends import backend
from runtimes.evaluation import evaluate
from runtimes.events import Said, to_json
from runtimes.learnt import write_learnt
from runtimes.loop import train
from runtimes.protocol import LOSS, Engine
from runtimes.reports import EvaluationReport, Report, ResumeReport, StepReport
from runtimes.rows.features import Features
from runtimes.saved import trained_folder
from runtimes.steps import Context
from runtimes.steps.models import base_of, prepared_for
from runtimes.together import part_folder
from runtimes.writing import writes

_CURVE = ("step", "part", "loss", "learning_rate", "grad_norm")


def execute(step: Train, context: Context) -> Iterator[Any]:
    """Trains, saves the kept weights in the ecosystem's layout, and leaves train.json."""
    base = base_of(step, context)
    back = backend(context.placement.engine)
    begun = None if step.adapter is None else fetch_adapter(step.adapter, context.root, context.sources)
    engine = back.load_engine(step, base, context.folder / "init.safetensors", context.placement, begun)
    prepared = prepared_for(step, context)
    validation = Features(prepared / "validation") if step.evaluate_every else None
    reports = train(
        engine,
        Features(prepared / "train"),
        validation,
        step,
        folder=context.folder,
        micro_batch_size=context.placement.micro_batch_size,
        stop=context.stop,
    )
    summary = yield from recorded(step, reports, context)
    if validation is not None:
        fit(step, engine, validation, context)
    with new_folder(context.folder / trained_folder(step)) as folder, writes(context.folder):
        engine.save_model(folder)
        copy_tokenizer(base, folder, step.task)
    write_json(context.folder / "train.json", facts(engine, summary, context))


def recorded(
    step: Train | TrainTogether, reports: Iterator[Report], context: Context
) -> Generator[Any, None, dict[str, Any]]:
    """Yields the reports of a training, which begins or goes on with the first; keeps them, and returns their sums."""
    journal = Journal(context.folder / ".reports.jsonl", context.placement.engine)
    if checkpoints.steps(context.folder / checkpoints.FOLDER):
        yield from _moved(step, journal)
    else:
        journal.begin()
    stopped: dict[str, Any] = {}
    for report in reports:
        journal.note(report)
        stopped = to_json(report)
        yield report
    return {"stopped": stopped, **journal.summary()}


def facts(engine: Engine, summary: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """What train.json says of a training that is over."""
    trained, total = engine.num_parameters
    held, in_float32 = engine.frozen_bytes
    return {
        "parameters": {"trained": trained, "total": total},
        "frozen_bytes": {"held": held, "float32": in_float32},
        "peak_memory_bytes": engine.peak_memory(),
        "memory_limit_gib": context.placement.memory_gib,
        "gradient_checkpointing": context.placement.gradient_checkpointing,
        "compiled_graphs": engine.num_graphs,
        **summary,
    }


def fit(step: Train, engine: Engine, validation: Features, context: Context, part: str = "") -> None:
    """Writes what the task learns of the validation rows, if anything, as the kept weights answer them."""
    if not tasks.module_of(step.task).learns(step.task):
        return
    size = context.placement.micro_batch_size
    found = evaluate(engine, validation, grid=step.lengths, batch_size=size, term=part or LOSS)
    task = tasks.module_of(step.task).fit(step.task, validation.targets, found.outputs)
    write_learnt(step.task, task, part_folder(context.folder, part))


def _moved(step: Train | TrainTogether, journal: Journal) -> Iterator[Said]:
    """Says so when the training goes on on another engine than before."""
    before = journal.engines()
    if before and before[-1]["engine"] != journal.engine:
        moved = f"{journal.engine} goes on from a checkpoint of {before[-1]['engine']}"
        yield Said(step=step.id, message=f"{moved}: dropout is drawn otherwise from here")


def copy_tokenizer(source: Path, target: Path, task: Task | None = None) -> None:
    """Copies the files by which rows are read beside a saved model, so that the folder is whole for transformers.

    `task`: writes what it changes of them: a chat template that the model was not trained with would mislead its users.
    """
    for name in (TOKENIZER, *CARRIED, PROCESSOR):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if task is not None and compiler_tasks.module_of(task).WRITES:
        changed = tasks.writing_module_of(task).tokenizer_files(task, target / TOKENIZER)
        for name, content in changed.items():
            write_text(target / name, content)


class Journal:
    """The reports of a training, also of the processes that were interrupted: kept in a file beside the checkpoints."""

    def __init__(self, file: Path, engine: str) -> None:
        self.file, self.engine = file, engine

    def begin(self) -> None:
        """Begins anew, on this engine."""
        self.file.unlink(missing_ok=True)
        self._append({"event": "Engine", "engine": self.engine, "step": 0})

    def note(self, report: Any) -> None:
        """Adds a report; after a resume, what came later than the checkpoint is forgotten."""
        if isinstance(report, ResumeReport):
            kept = [line for line in self.read() if line["step"] <= report.step]
            write_text(self.file, "".join(json.dumps(line) + "\n" for line in kept))
            self._append({"event": "Engine", "engine": self.engine, "step": report.step})
        elif isinstance(report, (StepReport, EvaluationReport)):
            self._append(to_json(report))

    def _append(self, line: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def engines(self) -> list[dict[str, Any]]:
        """The engines that trained, each with the step after which it went on."""
        found: list[dict[str, Any]] = []
        for line in self.read():
            if line["event"] == "Engine" and (not found or found[-1]["engine"] != line["engine"]):
                found.append({"engine": line["engine"], "after_step": line["step"]})
        return found

    def read(self) -> list[dict[str, Any]]:
        """The reports so far; a line that a killed process left half-written is passed over."""
        if not self.file.exists():
            return []
        found: list[dict[str, Any]] = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def summary(self) -> dict[str, Any]:
        """Sums and curves for the report of the run."""
        steps = [line for line in self.read() if line["event"] == "StepReport"]
        seconds, tokens = sum(step["seconds"] for step in steps), sum(step["num_tokens"] for step in steps)
        weights = {step["part"]: step["weight"] for step in steps if step.get("part")}
        return {
            "engines": self.engines(),
            **({"weights": weights} if weights else {}),
            "steps": len(steps),
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "unit": steps[-1].get("unit", "tokens") if steps else "tokens",
            "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
            "evaluations": [line for line in self.read() if line["event"] == "EvaluationReport"],
            "curve": [{name: step[name] for name in _CURVE if step.get(name, "") != ""} for step in steps],
        }
