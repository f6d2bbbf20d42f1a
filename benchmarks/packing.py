"""Useful tokens a second on chat rows: packed, padded among rows of like length, and padded in random order.

A small random Llama with SmolLM2's tokenizer is trained over the same Alpaca rows on PyTorch, each way in turns; and
the loss of all rows, which packing must not change. A step has about as many tokens in each way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
CHAT = PROJECT / ".mirror" / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
ROWS = PROJECT / "recipes" / "data" / "alpaca-en.jsonl"
WAYS = ("packed", "padded, like lengths together", "padded, random order")
MAX_LENGTH = 512
EXAMPLE = """\
example:
  make fixtures FIXTURES='smollm2-135m-instruct alpaca' && python benchmarks/packing.py
"""


def main() -> None:
    """Prints the medians and the losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100, help="rows of an epoch (default 100)")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each way (default 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packed, plain = (
            prepared(Path(folder) / name, options.rows, packing=name == "packed") for name in ("packed", "plain")
        )
        ways = [(packed, grouped(packed, 2)), (plain, grouped(plain, 6)), (plain, shuffled(plain, 6))]
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(options.repeats):
            for name, (rows, steps) in zip(WAYS, ways, strict=True):
                seconds[name].append(epoch(rows, steps))
        useful = plain.features.facts.num_tokens
        print(
            f"{len(plain.features)} rows of {useful / len(plain.features):.0f} tokens, {len(packed.features)} sequences"
        )
        for name, (rows, steps) in zip(WAYS, ways, strict=True):
            speed = useful / statistics.median(seconds[name])
            print(f"{name:32}{speed:8,.0f} useful tokens/s   {share(rows, steps):6.1%} of what is computed is useful")
        print(f"loss of all rows: packed {loss(packed):.7f}, padded {loss(plain):.7f}")


def prepared(folder: Path, num_rows: int, *, packing: bool) -> Any:
    """The train rows of a recipe, and an engine for them."""
    from types import SimpleNamespace

    from compiler.driver import compile_recipe
    from compiler.facts import LocalFacts
    from compiler.loading import load
    from compiler.placement import parse_target
    from runtimes import steps
    from runtimes.backends import backend
    from runtimes.rows.features import Features

    model = random_model(folder / "model")
    recipe = {
        "recipe": 1,
        "name": "packing",
        "task": "text-generation",
        "dataset": {"train": {"path": "rows.jsonl", "rows": num_rows}, "validation": None, "test": None},
        "model": "./model",
        "training": {"packing": packing, "max_length": MAX_LENGTH, "max_steps": 100},
    }
    (folder / "rows.jsonl").write_bytes(ROWS.read_bytes())
    (folder / "recipe.json").write_text(json.dumps(recipe))
    facts = LocalFacts(offline=True)
    compiled = compile_recipe(load(folder / "recipe.json"), facts, parse_target("cpu"))
    context = steps.Context(
        plan=compiled.plan,
        key="",
        folder=folder / "prepared",
        inputs={},
        root=folder,
        sources=facts.sources,
        placement=compiled.placement,
        stop=lambda: False,
    )
    list(steps.execute(compiled.plan.step("prepare"), context))
    step = compiled.plan.step("train")
    engine = backend("pytorch").load_engine(step, model, folder / "init.safetensors", compiled.placement)  # type: ignore[arg-type]
    return SimpleNamespace(features=Features(folder / "prepared" / "train"), engine=engine, step=step)


def random_model(folder: Path) -> Path:
    """A small Llama with SmolLM2's tokenizer."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from runtimes.pytorch.quiet import quiet

    shutil.copytree(CHAT, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def grouped(rows: Any, size: int) -> list[np.ndarray[Any, Any]]:
    """The rows of each step, as the training loop draws them."""
    from runtimes.rows.batches import epoch_batches, padded_lengths

    lengths = padded_lengths(rows.features.lengths, rows.step.lengths)
    return list(epoch_batches(lengths, batch_size=size, seed=0, epoch=0))


def shuffled(rows: Any, size: int) -> list[np.ndarray[Any, Any]]:
    """The rows of each step in random order."""
    order = np.random.default_rng(0).permutation(len(rows.features))
    return [order[start : start + size] for start in range(0, len(order), size)]


def batches(rows: Any, steps: Sequence[np.ndarray[Any, Any]]) -> Iterator[Any]:
    """The padded arrays of each step."""
    from runtimes.rows.batches import collate

    return (collate(rows.features, part, grid=rows.step.lengths) for part in steps)


def epoch(rows: Any, steps: Sequence[np.ndarray[Any, Any]]) -> float:
    """Seconds of an epoch. The rate is zero, so that every epoch computes the same."""
    start = time.perf_counter()
    for batch in batches(rows, steps):
        total = float(batch.weights.sum())
        rows.engine.train_step((batch,), denominators={"loss": total}, learning_rates=(0.0,), seed=0).result()
    return time.perf_counter() - start


def share(rows: Any, steps: Sequence[np.ndarray[Any, Any]]) -> float:
    """The share of the computed tokens that belong to a row."""
    masks = [batch.positions for batch in batches(rows, steps)]
    return float(sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks))


def loss(rows: Any) -> float:
    """The mean loss of all tokens that are learnt, in nats."""
    total = count = 0.0
    for batch in batches(rows, grouped(rows, 2)):
        total += float((rows.engine.evaluate(batch).losses * batch.weights).sum(dtype=np.float64))
        count += float(batch.weights.sum())
    return total / count


if __name__ == "__main__":
    main()
