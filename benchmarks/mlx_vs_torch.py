"""Step time of a random BERT on MLX beside PyTorch, through the two engines: the same weights, batches and losses.

For information. Every run is a fresh process, and the two take turns. MLX's wheel for Linux ships a reference BLAS:
--blas puts another one before it, and before MLX alone, for it would take the place of torch's own as well.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from compiler.placement import Runtime

PROJECT = Path(__file__).resolve().parent.parent
SIZES = {"tiny": (2, 128, 2), "small": (4, 512, 8), "minilm": (6, 384, 12)}  # layers, hidden, heads
ENGINES = ("pytorch", "mlx")
FIGURES = ("seconds", "cpu_seconds")
RATE = 1e-4
EXAMPLE = """\
example:
  python benchmarks/mlx_vs_torch.py --size minilm --blas libopenblas.so.0     on Debian with libopenblas0-pthread
"""


def main() -> None:
    """Prints the medians."""
    options = arguments()
    if options.engine:
        print(json.dumps(measured(options)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES}
    for _ in range(options.repeats):
        for name in ENGINES:
            runs[name].append(in_child(name, options.blas if name == "mlx" else None))
    print(table(options, runs))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="steps of a run that are timed (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--blas", help="a library that is loaded before MLX")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_child(name: str, blas: str | None) -> dict[str, Any]:
    """The figures of one run, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--engine", name]
    paths = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"} | ({"LD_PRELOAD": blas} if blas else {})
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"{name} failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a step on the clock and of the processor, and its losses; two steps are not timed."""
    with tempfile.TemporaryDirectory() as folder:
        engine = load(options, options.engine, Path(folder))
    batch, times, losses = random_batch(options), [], []
    for number in range(options.steps + 2):
        start, cpu = time.perf_counter(), time.process_time()
        done = engine.train_step(
            (batch,), denominators={"loss": float(options.batch_size)}, learning_rates=(RATE,), seed=number
        )
        losses.append(done.result().losses["loss"])
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    medians = map(statistics.median, zip(*times[2:], strict=True))
    return {**dict(zip(FIGURES, medians, strict=True)), "losses": losses}


def table(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> str:
    """The medians and ratios of runs that followed each other, for a person."""
    layers, hidden, heads = SIZES[options.size]
    rows = f"{options.batch_size} rows of {options.length}, {options.repeats} runs of {options.steps} steps in turns"
    lines = [
        f"BERT {options.size}, {layers} layers of {hidden}, {heads} heads; {options.method}; float32; {rows}",
        f"{'':10}{'step':>14}{'processor':>14}{'first loss':>14}{'last loss':>14}",
    ]
    for name, found in runs.items():
        cells = [f"{1e3 * statistics.median(run[figure] for run in found):.1f} ms" for figure in FIGURES]
        cells += [f"{found[0]['losses'][0]:.6f}", f"{found[0]['losses'][-1]:.6f}"]
        lines.append(f"{name:10}" + "".join(f"{cell:>14}" for cell in cells))
    pairs = list(zip(runs["mlx"], runs["pytorch"], strict=True))
    ratios = {figure: sorted(ours[figure] / theirs[figure] for ours, theirs in pairs) for figure in FIGURES}
    lines.append(f"{'ratio':10}" + "".join(f"{statistics.median(found):>14.2f}" for found in ratios.values()))
    spreads = (f"{found[0]:.2f}-{found[-1]:.2f}" for found in ratios.values())
    lines.append(f"{'of runs':10}" + "".join(f"{spread:>14}" for spread in spreads))
    return "\n".join(lines)


def load(options: argparse.Namespace, name: Runtime, folder: Path) -> Any:
    """An engine on a random BERT without dropout."""
    import torch
    from transformers import BertConfig, BertModel

    from compiler.methods import Full, LoRA
    from compiler.recipe import AdamW
    from runtimes.backends import backend
    from runtimes.pytorch.quiet import quiet
    from tests.runtimes.tiny import placed, train_step

    layers, hidden, heads = SIZES[options.size]
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if not (folder / "model").exists():
        torch.manual_seed(0)
        with quiet():
            BertModel(config).save_pretrained(folder / "model")
    method = Full() if options.method == "full" else LoRA(rank=8, alpha=16.0, target_modules=("query", "value"))
    step = train_step(method=method, optimizer=AdamW(), weight_decay=0.01, max_grad_norm=1.0)
    return backend(name).load_engine(step, folder / "model", folder / "init.safetensors", placed(name))


def random_batch(options: argparse.Namespace) -> Any:
    """Rows of random tokens, the shortest half as long as the longest."""
    from tests.runtimes.tiny import batch_of

    random = np.random.default_rng(0)
    size = (options.batch_size, options.length)
    mask = np.arange(options.length) < random.integers(options.length // 2, options.length + 1, size[0])[:, None]
    inputs = {
        "input_ids": np.where(mask, random.integers(1, 30_000, size), 0),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": np.zeros(size, np.int64),
    }
    return batch_of(inputs, random.integers(0, 3, size[0]))


if __name__ == "__main__":
    main()
