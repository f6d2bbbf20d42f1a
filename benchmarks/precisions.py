"""A tuned model in every precision that its run exported, beside PyTorch: metric, size, and latency, in one process.

The run's recipe has a line in "export" for each precision. Metrics are over the run's held-out rows. Latencies are
medians of calls on padded batches of those rows; the runtimes take turns, have equal threads, and get the same arrays.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.rounds import machine, medians, set_threads, table
from compiler.plan import VerifyExport
from runtimes import tasks
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.protocol import Batch
from runtimes.pytorch.loading import load_saved
from runtimes.pytorch.scores import scores_of
from runtimes.rows.features import Table
from runtimes.saved import SavedModel
from runtimes.steps.prepare import read_prepared
from runtimes.verification.comparison import batches, encoded, examples_of, outputs_of
from runtimes.verification.gate import ScoreFunction
from runtimes.verification.receiver import measure
from tests.finished import Finished

EXAMPLE = """\
example, from the project's folder, after a run whose recipe has "export": ["onnx", {"format": "onnx", "precision":
"int8"}, ...]:
  python -m benchmarks.precisions runs/quickstart --threads 2
"""
METRIC_BATCH = 32
EAGER, COMPILED = "torch eager", "torch.compile"


@dataclass(frozen=True, slots=True)
class Runner:
    """A model in some runtime and precision."""

    name: str
    num_bytes: int
    scores: ScoreFunction


def main() -> None:
    """Prints the machine and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder of its recipe (default: this one)")
    parser.add_argument("--threads", type=int, default=2, help="of each runtime (default 2)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default 15)")
    parser.add_argument("--batches", type=int, default=8, help="batches of a round (default 8)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    set_threads(options.threads)
    run = Finished(options.run, options.root)
    bundles = [open_bundle(folder, threads=options.threads) for folder in run.bundles]
    if not bundles:
        parser.error(f"{options.run} has no bundle")
    print(machine(options.threads), "", sep="\n")
    print(compared(run, bundles, options))


def compared(run: Finished, bundles: Sequence[Bundle], options: argparse.Namespace) -> str:
    """The table: a row for each runner."""
    first = bundles[0]
    rows = encoded(first.task, examples_of(first.task, read_prepared(run.held_out())), first.encoder)
    runners = [*_of_torch(run, compiled=not options.no_compile), *map(_of_bundle, bundles)]
    found = [_metrics(first, runner, rows) for runner in runners]
    times = {size: _times(runners, rows, size, options) for size in options.batch_sizes}
    names = [*found[0]]
    header = ["", *names, "MiB", *(f"ms, batch {size} (times faster than eager)" for size in options.batch_sizes)]
    cells = [
        [
            runner.name,
            *(f"{metrics[name]:.4f}" for name in names),
            f"{runner.num_bytes / 2**20:.1f}",
            *(
                f"{times[size][runner.name] * 1e3:.2f} ({times[size][EAGER] / times[size][runner.name]:.2f})"
                for size in options.batch_sizes
            ),
        ]
        for runner, metrics in zip(runners, found, strict=True)
    ]
    note = f"{len(rows.lengths):,} held-out rows of {rows.lengths.mean():.0f} tokens on average"
    return f"{note}; medians of {options.repeats} rounds of {options.batches} batches\n\n{table(header, cells)}"


def _of_torch(run: Finished, *, compiled: bool) -> Iterator[Runner]:
    """The exported model as transformers runs it."""
    task, saved = run.step(VerifyExport).task, run.saved()
    head = tasks.module_of(task).head(task)
    yield Runner(EAGER, _bytes(saved), scores_of(load_saved(saved, head), head))
    if compiled:
        model = load_saved(saved, head)
        model.compile(dynamic=True)
        yield Runner(COMPILED, _bytes(saved), scores_of(model, head))


def _bytes(saved: SavedModel) -> int:
    return sum(file.stat().st_size for file in saved.folder.glob("*.safetensors"))


def _of_bundle(bundle: Bundle) -> Runner:
    graphs = bundle.shared.rglob("*.onnx*")
    return Runner(f"onnx {bundle.manifest.precision}", sum(file.stat().st_size for file in graphs), bundle.run)


def _metrics(bundle: Bundle, runner: Runner, rows: Table) -> dict[str, float]:
    """The run's metrics over the held-out rows, in batches of like length."""
    order = np.argsort(rows.lengths, kind="stable")
    outputs = outputs_of(runner.scores, rows, order, METRIC_BATCH).take(np.argsort(order))
    return dict(measure(bundle, rows.targets, outputs))


def _times(runners: Sequence[Runner], rows: Table, size: int, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a batch."""
    chosen = _spread(rows, size, options.batches)
    calls = {runner.name: [partial(runner.scores, batch) for batch in chosen] for runner in runners}
    return medians(calls, options.repeats)


def _spread(rows: Table, size: int, count: int) -> list[Batch]:
    """Batches of neighbours in length, evenly spread over the lengths."""
    order = np.argsort(rows.lengths, kind="stable")
    starts = np.unique(np.linspace(0, max(0, len(order) - size), count).round().astype(np.int64))
    places = np.concatenate([order[start : start + size] for start in starts])
    return [*batches(rows, places, size)]


if __name__ == "__main__":
    main()
