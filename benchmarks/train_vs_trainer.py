"""Training speed and memory beside transformers.Trainer: the same model, rows, method, precision and number of steps.

Every run is a fresh process, and the contestants take turns, so that each meets the same weather on the machine.
Useful tokens are those of the rows, padding not counted. Both sides start their clocks with a loaded model and
tokenized rows; ours includes writing the last checkpoint, which Trainer is told not to write. On a machine that is busy
with other work, look at tokens per processor second with --threads 1: waiting does not count there. On cuda the peak is
of what tensors held there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.plan import Train

PROJECT = Path(__file__).resolve().parent.parent
CONTESTANTS = {
    "recipec": "recipec",
    "random": "Trainer, default sampling",
    "group_by_length": "Trainer, group_by_length",
}
METHODS: dict[str, dict[str, Any]] = {"lora": {"type": "lora", "rank": 8}, "full": {"type": "full"}}
LABELS = ["negative", "positive"]
RATES = {"lora": 1e-3, "full": 1e-4}
EXAMPLE = """\
example:
  python benchmarks/train_vs_trainer.py                                  LoRA, 2,000 rows, 2 epochs, 3 turns
  python benchmarks/train_vs_trainer.py --method full --rows 8000 --repeats 1
  python benchmarks/train_vs_trainer.py --device cuda --precision bf16 --rows 10000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run."""

    contestant: str
    tokens: int  # useful ones that were trained on
    seconds: float
    cpu_seconds: float  # of all threads
    peak_memory: int  # bytes: of the process, or of tensors on cuda
    loss: float  # of the last steps, to see that both learnt

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens a second."""
        return self.tokens / self.seconds

    @property
    def tokens_per_cpu_second(self) -> float:
        """Useful tokens a second of processor time."""
        return self.tokens / self.cpu_seconds


def main() -> None:
    """Prints the table, or JSON."""
    options = arguments()
    if options.contestant:
        run = ours if options.contestant == "recipec" else trainers
        result = run(options)
        print(json.dumps(asdict(result)))
        return
    results = list(take_turns(options))
    print(json.dumps(summary(results, options), indent=2) if options.json else table(results, options))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000, help="how many rows to train on (default 2000)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over them (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contestant (default 3)")
    parser.add_argument("--method", choices=METHODS, default="lora")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: one for each core")
    parser.add_argument("--model", type=Path, default=PROJECT / ".mirror/sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, default=PROJECT / "recipes/data/movie-reviews.jsonl")
    parser.add_argument("--json", action="store_true", help="print every run as JSON")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def take_turns(options: argparse.Namespace) -> Iterator[Result]:
    """The results of all runs, each of a child process."""
    for turn in range(options.repeats):
        for contestant, title in CONTESTANTS.items():
            print(f"turn {turn + 1} of {options.repeats}: {title} ...", file=sys.stderr, flush=True)
            yield in_child(contestant, options.threads)


def in_child(contestant: str, threads: int) -> Result:
    """The result of one run, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contestant", contestant]
    paths = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"{CONTESTANTS[contestant]} failed with exit code {done.returncode}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def plan(options: argparse.Namespace, folder: Path) -> Train:
    """The train step of a recipe on the first rows of the data, as the compiler makes it."""
    from compiler.driver import compile_recipe
    from compiler.facts import LocalFacts
    from compiler.loading import load
    from compiler.placement import parse_target
    from compiler.plan import Train

    lines = options.data.read_text(encoding="utf-8").splitlines()[: options.rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = {
        "recipe": 1,
        "name": "benchmark",
        "task": {"type": "text-classification", "labels": LABELS},
        "dataset": {
            "train": "rows.jsonl",
            "validation": None,
            "test": None,
            "columns": {"text": "snippet", "label": "sentiment"},
        },
        "model": str(options.model.resolve()),
        "method": METHODS[options.method],
        "training": {
            "epochs": options.epochs,
            "learning_rate": RATES[options.method],
            "batch_size": options.batch_size,
            "precision": options.precision,
        },
    }
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    facts = LocalFacts(allowed=(options.model.resolve().parent,), offline=True)
    step = compile_recipe(load(folder / "recipe.json"), facts, parse_target(options.device)).plan.step("train")
    assert isinstance(step, Train), "the step of that name trains"
    return step


def labelled_texts(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """The rows as (text, label number)."""
    for line in options.data.read_text(encoding="utf-8").splitlines()[: options.rows]:
        row = json.loads(line)
        yield row["snippet"], LABELS.index(row["sentiment"])


def ours(options: argparse.Namespace) -> Result:
    """Our loop and engine."""
    from compiler.tasks import Example
    from runtimes.loop import train
    from runtimes.pytorch.engine import load
    from runtimes.reports import StepReport
    from runtimes.rows.feature_writer import write_features
    from runtimes.rows.features import Features
    from runtimes.rows.tokens import open_encoder
    from runtimes.tasks import module_of

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = plan(options, folder)
        longest = step.lengths[-1]
        encoder = open_encoder(options.model / "tokenizer.json", max_length=longest)
        examples = [Example(row={"text": text}, target=label) for text, label in labelled_texts(options)]
        portions = [module_of(step.task).encode(step.task, examples, encoder)]
        write_features(
            portions, module_of(step.task).columns(step.task, 0), folder / "train", max_length=longest, pad_token_id=0
        )
        features = Features(folder / "train")
        engine = load(step, options.model, folder / "init.safetensors", options.device)
        start, cpu = time.perf_counter(), time.process_time()
        reports = list(train(engine, features, None, step, folder=folder, micro_batch_size=options.batch_size))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        losses = [report.loss for report in reports if isinstance(report, StepReport)]
        return Result(
            contestant="recipec",
            tokens=features.facts.num_tokens * options.epochs,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_memory=engine.peak_memory(),
            loss=statistics.mean(losses[-10:]),
        )


def trainers(options: argparse.Namespace) -> Result:
    """transformers.Trainer with the same step, and PEFT as it comes."""
    import peft
    import torch
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = plan(options, folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
        texts, labels = zip(*labelled_texts(options), strict=True)
        encoded = tokenizer(list(texts), truncation=True, max_length=step.lengths[-1])
        rows = [{"input_ids": ids, "labels": label} for ids, label in zip(encoded["input_ids"], labels, strict=True)]
        torch.manual_seed(step.seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            options.model, num_labels=len(LABELS), dtype=torch.float32
        )
        if options.method == "lora":
            model = peft.get_peft_model(model, lora_configuration(step))
        trainer = transformers.Trainer(
            model=model,
            args=training_arguments(step, folder, options),
            train_dataset=rows,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        start, cpu = time.perf_counter(), time.process_time()
        done = trainer.train()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        return Result(
            contestant=options.contestant,
            tokens=sum(map(len, encoded["input_ids"])) * options.epochs,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_memory=peak_memory(options.device),
            loss=done.training_loss,
        )


def peak_memory(device: str) -> int:
    """Bytes: the most that tensors held on cuda, or the largest resident size of this process."""
    import resource

    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def lora_configuration(step: Train) -> Any:
    """The plan's LoRA as PEFT says it."""
    import peft

    from compiler.methods.lora import LoRA

    assert isinstance(step.method, LoRA), "the recipe names it"
    return peft.LoraConfig(
        r=step.method.rank,
        lora_alpha=step.method.alpha,  # type: ignore[arg-type]
        lora_dropout=step.method.dropout,
        target_modules=list(step.method.target_modules),
        task_type=peft.TaskType.SEQ_CLS,
    )


def training_arguments(step: Train, folder: Path, options: argparse.Namespace) -> Any:
    """The plan's training as Trainer says it."""
    import transformers

    return transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=step.batch_size,
        num_train_epochs=step.epochs,
        learning_rate=step.learning_rate,
        lr_scheduler_type=step.schedule.shape,
        warmup_steps=step.schedule.warmup_steps,
        weight_decay=step.weight_decay,
        max_grad_norm=step.max_grad_norm or 0.0,
        train_sampling_strategy=options.contestant,
        seed=step.seed,
        use_cpu=options.device == "cpu",
        bf16=options.precision == "bf16",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


FIGURES = ("tokens_per_second", "tokens_per_cpu_second", "peak_memory")


def medians(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Of each contestant: the median figures of its runs."""
    return {
        contestant: {
            figure: statistics.median(getattr(result, figure) for result in results if result.contestant == contestant)
            for figure in FIGURES
        }
        for contestant in CONTESTANTS
    }


def ratios(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Our medians over each Trainer's."""
    own = found["recipec"]
    others = {contestant: figures for contestant, figures in found.items() if contestant != "recipec"}
    return {name: {figure: own[figure] / figures[figure] for figure in FIGURES} for name, figures in others.items()}


def summary(results: Sequence[Result], options: argparse.Namespace) -> dict[str, Any]:
    """All runs, their medians and the ratios of these, as JSON."""
    settings = {
        name: getattr(options, name)
        for name in ("method", "rows", "epochs", "batch_size", "device", "precision", "threads", "repeats")
    }
    runs = [{**asdict(result), **{figure: getattr(result, figure) for figure in FIGURES}} for result in results]
    found = medians(results)
    return {**settings, "runs": runs, "medians": found, "ratios": ratios(found)}


def where(options: argparse.Namespace) -> str:
    """What the runs computed on."""
    if options.device == "cpu":
        return f"{options.threads} threads"
    import torch

    return torch.cuda.get_device_name()


def table(results: Sequence[Result], options: argparse.Namespace) -> str:
    """The medians and, in brackets, how many times as fast and as large we are, for a person."""
    found = medians(results)
    compared = ratios(found)
    size = f"{options.rows:,} rows, {options.epochs} epochs, batches of {options.batch_size}"
    lines = [
        f"{options.method}, {size}, {options.precision}, {where(options)}; medians of {options.repeats}",
        f"{'':26}{'useful tokens/s':>20}{'per CPU second':>20}{'peak memory':>22}",
    ]
    for contestant, figures in found.items():
        cells = [f"{figures[name]:,.0f}" for name in FIGURES[:2]] + [f"{figures['peak_memory'] / 2**20:,.0f} MiB"]
        if contestant in compared:
            cells = [f"{cell} ({compared[contestant][name]:.2f} x)" for cell, name in zip(cells, FIGURES, strict=True)]
        lines.append(f"{CONTESTANTS[contestant]:26}{cells[0]:>20}{cells[1]:>20}{cells[2]:>22}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
