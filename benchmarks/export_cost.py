"""What an export and its verification cost, as multiples of loading the model; and that rows do not grow memory.

Each figure is of a process of its own: seconds of the work alone, imports left out, and the peak of the process's
memory. `export` and `verify` are the run's own steps, done again. The last rows verify the same export on as many
times the held-out rows: what grows with them is their token ids, and the outputs of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.rounds import machine, set_threads, table
from compiler.plan import ExportModel, VerifyExport
from runtimes import export, tasks
from runtimes.export import Stage
from runtimes.rows.features import Features
from runtimes.rows.inputs import open_reader
from runtimes.steps import verify
from runtimes.steps.prepare import read_prepared
from runtimes.verification.comparison import HeldOut
from runtimes.verification.edges import Source, verify_export
from tests.finished import Finished

EXAMPLE = """\
example, from the project's folder:
  python -m benchmarks.export_cost runs/quickstart
  python -m benchmarks.export_cost runs/alpaca --times 1 4
"""
PROJECT = Path(__file__).resolve().parent.parent
MEBI = 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took: seconds of the work, and bytes at the peak, of which `before` were there before it."""

    seconds: float
    peak: int
    before: int
    rows: int = 0


def main() -> None:
    """Prints the machine and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder of its recipe (default: this one)")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16], help="as many times the held-out rows")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(_measured(options)))
        return
    if not Finished(options.run, options.root).bundles:
        parser.error(f"{options.run} has no bundle")
    print(machine(options.threads), "", sep="\n")
    print(compared(options))


def compared(options: argparse.Namespace) -> str:
    """The table: a row for each process."""
    load = _in_child(options, "load")
    rows = [_line("load", load, load), *(_line(name, _in_child(options, name), load) for name in ("export", "verify"))]
    for times in options.times:
        cost = _in_child(options, "verify_rows", times)
        rows.append(_line(f"verify {cost.rows:,} rows ({times} times)", cost, load))
    header = ("", "s", "times loading", "peak MiB", "times loading", "MiB above what imports take")
    return table(header, rows)


def _line(name: str, cost: Cost, load: Cost) -> list[str]:
    return [
        name,
        f"{cost.seconds:.2f}",
        f"{cost.seconds / load.seconds:.1f}",
        f"{cost.peak / MEBI:,.0f}",
        f"{cost.peak / load.peak:.2f}",
        f"{(cost.peak - cost.before) / MEBI:,.0f}",
    ]


def _in_child(options: argparse.Namespace, work: str, times: int = 1) -> Cost:
    command = [sys.executable, "-m", "benchmarks.export_cost", str(options.run), "--root", str(options.root)]
    command += ["--threads", str(options.threads), "--work", work, "--rows", str(times)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"{work} failed with exit code {done.returncode}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of some work in this process."""
    import runtimes.pytorch.backend
    import runtimes.pytorch.onnx_format  # noqa: F401  imports are no part of the work

    set_threads(options.threads)
    run = Finished(options.run, options.root)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        before, start = _peak(), time.perf_counter()
        rows = WORK[options.work](run, Path(folder), options.rows)
        return {"seconds": time.perf_counter() - start, "peak": _peak(), "before": before, "rows": rows}


def _peak() -> int:
    """Bytes of memory that the process had at most."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


# --- the work


def load(run: Finished, folder: Path, times: int) -> int:
    """Loads the model that was exported."""
    from runtimes.pytorch.loading import load_saved

    task = run.step(VerifyExport).task
    load_saved(run.saved(), tasks.module_of(task).head(task))
    return 0


def exported(run: Finished, folder: Path, times: int) -> int:
    """Does the run's export again."""
    step: ExportModel = run.step(ExportModel)
    export.module_of(step.export).write(step.export, step.task, run.saved(), folder)
    return 0


def verified(run: Finished, folder: Path, times: int) -> int:
    """Does the run's verification again."""
    step: VerifyExport = run.step(VerifyExport)
    list(verify.execute(step, run.context(step, folder)))
    return len(read_prepared(run.held_out()))


def verified_rows(run: Finished, folder: Path, times: int) -> int:
    """Verifies the export on the held-out rows, each as many times; nothing is written with it."""
    from runtimes.backends import backend

    step: VerifyExport = run.step(VerifyExport)
    context, saved = run.context(step, folder), run.saved()
    back = backend("pytorch")
    rows = tuple(_repeated(run, times))
    verify_export(
        replace(step, rows=0),
        held_out=HeldOut(task=step.task, rows=rows),
        encoder=open_reader(
            step.task, saved.reading, max_length=Features(run.held_out()).facts.max_length, root=run.held_out()
        ),
        stages=[
            Stage("trained", lambda: back.scores(step.task, saved, "cpu"), files=saved.weights),
            *export.module_of(step.export).stages(
                step.export, step.task, saved, context.inputs[run.step(ExportModel).id], "cpu"
            ),
        ],
        source=Source(lambda batches: back.float32_noise(step.task, saved, batches)),
        out=folder,
    )
    return len(rows)


def _repeated(run: Finished, times: int) -> Iterator[Any]:
    for _ in range(times):
        yield from read_prepared(run.held_out())


WORK: dict[str, Callable[[Finished, Path, int], int]] = {
    "load": load,
    "export": exported,
    "verify": verified,
    "verify_rows": verified_rows,
}

if __name__ == "__main__":
    main()
