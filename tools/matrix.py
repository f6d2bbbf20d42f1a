"""The conformance table, run and written: docs/matrix.json, docs/matrix.md, and the part of README.md between markers.

python -m tools.matrix             every cell, on two processes
python -m tools.matrix --missing   the cells that were never measured, and red ones; the others stay as they are
python -m tools.matrix --render    the pages alone, from docs/matrix.json
python -m tools.matrix bert lora   only cells that have these words; prints, and writes nothing
python -m tools.matrix cuda --keep --as-installed   those of a machine that has the device, with the versions there

Each cell is written when it is measured, with the hash of the sources and the machine that it was measured on: what is
interrupted is not lost, and a table of cells from several commits and machines says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compiler.files import write_json, write_text
from tools.matrix_pages import page, with_table

PROJECT = Path(__file__).resolve().parent.parent
RESULT = Path("docs/matrix.json")
PAGE = Path("docs/matrix.md")
README = Path("README.md")
# What the figures depend on. The command line, the data readers and the reports' looks are not among it.
SOURCES = (
    "runtimes/**/*.py",
    "compiler/methods/*.py",
    "compiler/tasks/*.py",
    "compiler/balance.py",
    "compiler/data/conversations.py",
    "compiler/generation.py",
    "compiler/model_facts.py",
    "compiler/packing.py",
    "compiler/plan.py",
    "compiler/planning.py",
    "compiler/recipe.py",
    "compiler/resolve.py",
    "compiler/supervision.py",
    "compiler/templates.py",
    "compiler/tokens.py",
    "compiler/weights.py",
    "tests/conformance/*.py",
    "tests/runtimes/mlx/architectures.py",
    "tests/runtimes/mlx/running.py",
    "tests/tiny.py",
)
PACKAGES = ("torch", "transformers", "peft", "mlx", "mlx-lm", "onnxscript", "onnxruntime")


def sources_hash() -> str:
    """The sha256 over the files of SOURCES, and over the lines of constraints.txt about PACKAGES."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in PROJECT.glob(pattern)}):
        digest.update(f"{path.relative_to(PROJECT).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(json.dumps(constraints()).encode())
    return digest.hexdigest()


def constraints() -> dict[str, str]:
    """The versions of PACKAGES in constraints.txt."""
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if "==" in line)
    return {package: found[package] for package in PACKAGES}


def versions() -> dict[str, str]:
    """The installed versions, without the name of the build."""
    return {package: version(package).partition("+")[0] for package in PACKAGES}


def hardware() -> str:
    """The machine in words, with its NVIDIA GPU where torch finds one."""
    import torch

    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    name = found[1] if found else platform.processor() or "CPU"
    return f"{gpu}{os.cpu_count()} cores of {name}, {platform.system()} {platform.machine()}"


ORIGIN = ("sources", "hardware")
"""What tells the runs apart that rows are of."""
Cells = dict[int, dict[str, Any]]
"""The rows by the numbers of their cells."""


def known() -> Cells:
    """The committed rows of cells that there are."""
    from tests.conformance.table import cells

    rows = {_name(row["table"], row["names"]): row for row in _committed()["cells"]}
    named = {at: _name(cell.table, cell.names) for at, cell in enumerate(cells())}
    return {at: rows[name] for at, name in named.items() if name in rows}


def _committed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PROJECT / RESULT).read_text(encoding="utf-8"))
    return found


def _name(table: str, names: Mapping[str, str]) -> tuple[str, ...]:
    return (table, *names.values())


def chosen(words: Sequence[str], *, missing: bool) -> list[int]:
    """The numbers of the cells that have these words; with `missing`, of those that have no figures yet."""
    from tests.conformance.table import cells

    done = {at for at, row in known().items() if row["status"] != "red"} if missing else set()
    having = {at for at, cell in enumerate(cells()) if {*words} <= {cell.table, *cell.names.values()}}
    return sorted(having - done)


def run(wanted: Sequence[int], processes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbers and rows of cells as they are measured; prints each."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin) as pool:
        futures: dict[Future[dict[str, Any]], int] = {pool.submit(_measure, at): at for at in wanted}
        for done, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            seconds = time.monotonic() - start
            print(f"[{done}/{len(wanted)}] {seconds // 60:.0f}:{seconds % 60:02.0f}  {_line(row)}", flush=True)
            yield futures[future], row


def _begin() -> None:
    """What holds in a process that measures: nobody is asked over the network, a thread each."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error"}  # configurations talk about the ids of tokens that nothing uses
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **quiet}


def _measure(at: int) -> dict[str, Any]:
    """The row of a cell by its number."""
    from tests.conformance.cells import result_of
    from tests.conformance.table import cells

    cell, start = cells()[at], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = result_of(cell, Path(folder))
    figures = {name: float(f"{value:.2g}") if name != "rows" else int(value) for name, value in result.figures.items()}
    return {
        "table": cell.table,
        "names": dict(cell.names),
        "status": result.status,
        "figures": figures,
        "reason": result.reason,
        "seconds": round(time.monotonic() - start, 1),
    }


def _line(row: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value:g}" for name, value in row["figures"].items())
    return f"{row['status']:<6}{row['table']}: {', '.join(row['names'].values())}  {row['reason'] or figures}"


def this_run() -> dict[str, Any]:
    """What cells are measured with now."""
    from runtimes.mlx.ops import LOWERINGS

    return {
        "sources": sources_hash(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "lowered_operations": len(LOWERINGS),
    }


def result_of(runs: Iterable[Mapping[str, Any]], rows: Cells) -> dict[str, Any]:
    """The committed result: rows in the order of the cells, and the runs that they are of, the latest first."""
    from tests.conformance.cells import LIMITS

    counts = Counter(map(_origin, rows.values()))
    latest: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for each in runs:
        latest.setdefault(_origin(each), each)
    kept = [{**each, "cells": counts[origin]} for origin, each in latest.items() if counts[origin]]
    ordered = [rows[at] for at in sorted(rows)]
    return {"matrix": 3, "runs": kept, "limits": dict(LIMITS), "cells": ordered}


def _origin(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The sources and the machine of a row or a run."""
    return tuple(found[name] for name in ORIGIN)


def render(result: dict[str, Any]) -> None:
    """Writes the pages that show a result."""
    write_text(PROJECT / PAGE, page(result))
    readme = PROJECT / README
    write_text(readme, with_table(readme.read_text(encoding="utf-8"), result))


def measure(wanted: Sequence[int], processes: int, *, keep: bool) -> list[dict[str, Any]]:
    """The rows of these cells; with `keep` each is written where the committed ones are, as soon as it is there."""
    now, before = this_run(), _committed()
    rows, found = known(), []
    for at, row in run(wanted, processes):
        if now["sources"] != sources_hash():
            sys.exit("the sources changed while the table ran: the cells from here on are not written, run it again")
        found.append(row)
        rows[at] = {**row, **dict(zip(ORIGIN, _origin(now), strict=True))}
        if keep:
            write_json(PROJECT / RESULT, result_of([now, *before["runs"]], rows))
    return found


def main() -> None:
    """Runs the table and writes it; exits 1 when a cell is red."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only cells that have all of these words; nothing is written")
    parser.add_argument("--keep", action="store_true", help="write the cells of these words too")
    parser.add_argument("--as-installed", action="store_true", help="with other versions than those of constraints.txt")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--missing", action="store_true", help="the cells without figures, and red ones")
    parser.add_argument("--render", action="store_true", help="write the pages from docs/matrix.json")
    given = parser.parse_args()
    if given.render:
        render(_committed())
        return
    differing = [f"{name} {own}" for name, own in versions().items() if own != constraints()[name]]
    if differing and not given.as_installed:
        sys.exit(f"installed are {', '.join(differing)}, not the versions of constraints.txt: run `make matrix`")
    start, keep = time.monotonic(), given.keep or not given.words
    rows = measure(chosen(given.words, missing=given.missing), given.processes, keep=keep)
    if keep:
        render(_committed())
    counts = {status: sum(row["status"] == status for row in rows) for status in ("green", "red", "unrun")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()), f"in {time.monotonic() - start:.0f} s")
    sys.exit(1 if counts["red"] else 0)


if __name__ == "__main__":
    main()
