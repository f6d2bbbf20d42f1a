"""Ways of rounding weights to int8, of a classifier that a run exported: what each costs in accuracy, and its time.

For each way the graph in float32 is rounded anew; what is compared is the label of every held-out row, and the time of
a row of median length and of a batch. docs/decisions/0031-precisions.md chooses by it.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.rounds import machine, medians, table
from compiler.tasks import TextClassification
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.export.rounding import prepare
from runtimes.export.session import Session, open_session
from runtimes.rows.batches import collate
from runtimes.steps.prepare import read_prepared
from runtimes.verification.comparison import encoded, examples_of, outputs_of
from tests.finished import Finished

EXAMPLE = """\
example, from the project's folder, after recipe run recipes/movie-sentiment-precisions.json:
  python -m benchmarks.int8_weights runs/movie-sentiment-precisions --root recipes
"""
WAYS: Mapping[str, Mapping[str, Any]] = {
    "without a sign": {"weight_type": QuantType.QUInt8},
    "signed": {"weight_type": QuantType.QInt8},
    "signed, seven bits": {"weight_type": QuantType.QInt8, "reduce_range": True},
    "signed, a scale a channel": {"weight_type": QuantType.QInt8, "per_channel": True},
    "signed, seven bits, a scale a channel": {
        "weight_type": QuantType.QInt8,
        "reduce_range": True,
        "per_channel": True,
    },
}
BATCH = 32
HEADER = ("weights", "accuracy", "decided alike", "ms, 1 row", f"ms, {BATCH} rows")


def main() -> None:
    """Prints the machine and a line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run, whose first export is in float32")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder of its recipe (default: this one)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    run = Finished(options.run, options.root)
    bundles = [open_bundle(folder) for folder in run.bundles[:1]]
    if not any(isinstance(own.task, TextClassification) and own.manifest.precision == "fp32" for own in bundles):
        parser.error(f"{options.run} has no classifier of texts in float32 as its first bundle")
    logging.disable(logging.CRITICAL)  # the quantizer advises on the root logger
    print(f"{machine(options.threads)}\n")
    print(table(HEADER, [*_rows(run, bundles[0], options.threads)]))


def _rows(run: Finished, bundle: Bundle, threads: int) -> Iterator[tuple[str, ...]]:
    rows = encoded(bundle.task, examples_of(bundle.task, list(read_prepared(run.held_out()))), bundle.encoder)
    place = np.argsort(rows.lengths, kind="stable")[len(rows.lengths) // 2]
    one, many = (collate(rows, np.repeat(place, count)).inputs for count in (1, BATCH))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.onnx"
        prepare(bundle.folder / bundle.graphs[0], whole)
        graphs = {"float32": whole, **{name: Path(folder) / f"{at}.onnx" for at, name in enumerate(WAYS)}}
        for name, settings in WAYS.items():
            quantize_dynamic(whole, graphs[name], op_types_to_quantize=["MatMul", "Gemm", "Conv", "Gather"], **settings)
        sessions = {name: open_session(file, threads=threads) for name, file in graphs.items()}
        decided = {name: _labels(session, rows) for name, session in sessions.items()}
        seconds = (
            medians({name: [partial(session.outputs, one)] for name, session in sessions.items()}, 30),
            medians({name: [partial(session.outputs, many)] for name, session in sessions.items()}, 10),
        )
    for name, labels in decided.items():
        right, alike = (labels == rows.targets.values.ravel()).mean(), (labels == decided["float32"]).mean()
        times = (f"{found[name] * 1000:.2f} ({found['float32'] / found[name]:.2f})" for found in seconds)
        yield (name, f"{right:.4f}", f"{alike:.1%}", *times)


def _labels(session: Session, rows: Any) -> Any:
    """[N] the label of each row, in batches of 16 in the order of the file."""
    found = outputs_of(lambda batch: session.outputs(batch.inputs), rows, np.arange(len(rows.lengths)), 16)
    return found.values.argmax(axis=1)


if __name__ == "__main__":
    main()
