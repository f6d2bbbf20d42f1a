"""A tuned language model in every precision that its run exported, beside transformers: loss, size, and tokens/s.

The prompts are those of held-out rows that the run's gate wrote answers to. Everyone writes the same number of tokens
after each, greedily, one prompt at a time, past every end, with equal threads; they take turns. onnxruntime-genai runs
where it is installed and a bundle has genai_config.json. Tokens are compared with those of transformers in float32.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.rounds import machine, medians, set_threads, table
from compiler.generation import Generation
from compiler.metrics import Perplexity
from compiler.plan import VerifyExport
from runtimes import tasks
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.generation.answers import writing_of
from runtimes.generation.decoding import Decoder, generate, scored
from runtimes.pytorch.decoding import torch_decoder
from runtimes.pytorch.loading import load_saved
from runtimes.pytorch.scores import scores_of
from runtimes.rows.features import Table
from runtimes.rows.tokens import Encoder
from runtimes.steps.prepare import read_prepared
from runtimes.verification.comparison import encoded, examples_of, outputs_of, rows_at_once
from tests.finished import Finished

EXAMPLE = """\
example, from the project's folder, after a run whose recipe has "export": ["onnx", {"format": "onnx", "precision":
"int4"}, ...]:
  python -m benchmarks.decoders runs/alpaca --threads 2 --new-tokens 64
"""
SOURCE = "transformers"
Ids = Sequence[int]
Write = Callable[[Ids], list[int]]
"""The tokens that follow a prompt, always the same number."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A model in some runtime and precision. `loss`: nats of a token of the held-out rows; None: not measured."""

    name: str
    write: Write
    num_bytes: int
    loss: float | None


def main() -> None:
    """Prints the machine, the table, and where tokens differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder of its recipe (default: this one)")
    parser.add_argument("--threads", type=int, default=2, help="of each runtime (default 2)")
    parser.add_argument("--prompts", type=int, default=50, help="prompts whose tokens are compared (default 50)")
    parser.add_argument("--timed", type=int, default=5, help="prompts of a round that is timed (default 5)")
    parser.add_argument("--new-tokens", type=int, default=64, help="after each prompt (default 64)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--rows", type=int, default=50, help="held-out rows for the loss (default 50)")
    options = parser.parse_args()
    set_threads(options.threads)
    run = Finished(options.run, options.root)
    bundles = [open_bundle(folder, threads=options.threads) for folder in run.bundles]
    if not bundles or bundles[0].manifest.generation is None:
        parser.error(f"{options.run} has no bundle that writes")
    print(machine(options.threads), "", sep="\n")
    print(compared(run, bundles, options))


def compared(run: Finished, bundles: Sequence[Bundle], options: argparse.Namespace) -> str:
    """The table, and a line for each writer whose tokens differ."""
    first = bundles[0]
    examples = examples_of(first.task, read_prepared(run.held_out())[: options.rows])
    rows = encoded(first.task, examples, first.encoder)
    prompts = [row.prompt for row in first.written()][: options.prompts]
    writers = [*_of_transformers(run, rows, options.new_tokens)]
    writers += [writer for bundle in bundles for writer in _of_bundle(bundle, rows, options)]
    written = {writer.name: [writer.write(prompt) for prompt in prompts] for writer in writers}
    undecided = [*margins(run, first, prompts, written[SOURCE])]
    timed = {writer.name: [partial(writer.write, prompt) for prompt in prompts[: options.timed]] for writer in writers}
    rates = {name: options.new_tokens / seconds for name, seconds in medians(timed, options.repeats).items()}
    cells = [
        [
            writer.name,
            "" if writer.loss is None else f"{writer.loss:.4f}",
            f"{writer.num_bytes / 2**20:.1f}",
            f"{rates[writer.name]:.1f} ({rates[writer.name] / rates[SOURCE]:.2f})",
            agreement(written[SOURCE], written[writer.name], undecided, first),
        ]
        for writer in writers
    ]
    header = ("", "held-out loss", "MiB", f"tokens/s (times {SOURCE})", "prompts with the same tokens")
    note = (
        f"{len(prompts)} prompts of {np.mean([*map(len, prompts)]):.0f} tokens on average, {options.new_tokens} written"
    )
    return f"{note}; medians of {options.repeats} rounds of {options.timed} prompts\n\n{table(header, cells)}"


def _of_transformers(run: Finished, rows: Table, new_tokens: int) -> Iterator[Writer]:
    """The exported model as transformers writes with it."""
    task, saved = run.step(VerifyExport).task, run.saved()
    head = tasks.module_of(task).head(task)
    model: Any = load_saved(saved, head)
    size = sum(file.stat().st_size for file in saved.folder.glob("*.safetensors"))
    outputs = outputs_of(scores_of(model, head), rows, np.arange(len(rows.lengths)), rows_at_once(head, 16))
    yield Writer(
        SOURCE,
        generating(model, new_tokens),
        size,
        _loss(tasks.module_of(task).score(task, [Perplexity()], rows.targets, outputs)),
    )


def generating(model: Any, new_tokens: int) -> Write:
    """A model of transformers as it writes greedily, past every end."""
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id, settings.do_sample = None, 0, False
    settings.temperature = settings.top_p = settings.top_k = None

    def write(prompt: Ids) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens)
        tokens: list[int] = found[0, len(prompt) :].tolist()
        return tokens

    return write


def _loss(metrics: dict[str, float]) -> float:
    return math.log(metrics["perplexity"])


def _of_bundle(bundle: Bundle, rows: Table, options: argparse.Namespace) -> Iterator[Writer]:
    """The bundle by onnxruntime, and by onnxruntime-genai where it can."""
    name, decoder = bundle.manifest.precision, cast(Decoder[Any], bundle.graph)
    generation = Generation(max_new_tokens=options.new_tokens)

    def write(prompt: Ids) -> list[int]:
        [found] = generate(decoder, [prompt], generation, eos_ids=(), pad_id=bundle.encoder.pad_id)
        return [*found.ids]

    size = sum(file.stat().st_size for file in bundle.shared.rglob("*.onnx*"))
    places, at_once = np.arange(len(rows.lengths)), rows_at_once(bundle.head, 16)
    outputs = outputs_of(bundle.run, rows, places, at_once)
    metrics = tasks.module_of(bundle.task).score(bundle.task, [Perplexity()], rows.targets, outputs)
    yield Writer(f"onnxruntime {name}", write, size, _loss(metrics))
    if (bundle.folder / "genai_config.json").is_file() and find_spec("onnxruntime_genai"):
        yield Writer(f"onnxruntime-genai {name}", genai(bundle.folder, options.new_tokens, options.threads), size, None)


def genai(folder: Path, new_tokens: int, threads: int) -> Write:
    """A bundle as onnxruntime-genai writes with it, past every end."""
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(folder))
    decoder = json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}})
    config.overlay(decoder)
    model = onnxruntime_genai.Model(config)

    def write(prompt: Ids) -> list[int]:
        params = onnxruntime_genai.GeneratorParams(model)
        length = len(prompt) + new_tokens
        params.set_search_options(do_sample=False, min_length=length, max_length=length)
        generator = onnxruntime_genai.Generator(model, params)
        generator.append_tokens(np.asarray([prompt], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[len(prompt) :]]

    return write


def margins(run: Finished, bundle: Bundle, prompts: Sequence[Ids], written: Sequence[Ids]) -> Iterator[np.ndarray]:
    """How far the source's choice of each token is above the next one, in logits."""
    source = torch_decoder(run.saved(), device="cpu")
    found = scored(source.logits, prompts, written, pad_id=bundle.encoder.pad_id)
    return (reading.margins for reading in found)


def agreement(source: Sequence[Ids], other: Sequence[Ids], margins: Sequence[np.ndarray], first: Bundle) -> str:
    """How many prompts are answered alike; of others, how many part where the source was as good as undecided.

    Up to what ends the source's answer: behind it everybody writes on, but some may not write another end.
    """
    ends = ends_of(first)
    answers = [[*takewhile(lambda token: token not in ends, ids)] for ids in source]
    parted = [
        margin[next(place for place, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two)]
        for ours, theirs, margin in zip(answers, other, margins, strict=True)
        if ours != [*theirs[: len(ours)]]
    ]
    ties = sum(margin < first.manifest.tolerance for margin in parted)
    equal = f"{len(source) - len(parted)} of {len(source)}"
    return f"{equal}, {ties} part at near ties, the widest margin {max(parted):.2g}" if parted else equal


def ends_of(bundle: Bundle) -> frozenset[int]:
    """The tokens that end an answer."""
    assert isinstance(bundle.encoder, Encoder) and bundle.manifest.generation is not None
    writing = writing_of(bundle.task, bundle.encoder, bundle.manifest.generation, bundle.folder)
    return frozenset(writing.ends)


if __name__ == "__main__":
    main()
