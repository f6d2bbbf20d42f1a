"""The tokens that onnxruntime-genai, this project and transformers write after the same prompts, and how fast.

    python benchmarks/genai_tokens.py runs/NAME/bundle MODEL_FOLDER --prompts 5 --tokens 16

MODEL_FOLDER is the model that the bundle was exported from (runs/NAME/model). All of them write greedily on one thread,
one prompt after another; prompts are the bundle's own, of the held-out rows that its gate wrote for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from compiler.generation import Generation
from runtimes.export.decoding import onnx_decoder
from runtimes.export.facts import GRAPH
from runtimes.export.genai import CONFIG
from runtimes.generation.answers import read_written
from runtimes.generation.decoding import generate

Write = Callable[[Sequence[int]], list[int]]


def genai(bundle: Path, num_tokens: int) -> Write:
    """What onnxruntime-genai writes after a prompt; it keeps the token that ends a text to itself."""
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(bundle))

    def write(prompt: Sequence[int]) -> list[int]:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + num_tokens, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array([prompt], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return list(map(int, generator.get_sequence(0)[len(prompt) :]))

    return write


def ours(bundle: Path, num_tokens: int, ends: Sequence[int]) -> Write:
    """What this project writes with the same graph, without the token that ends a text."""
    decoder, generation = onnx_decoder(bundle / GRAPH, threads=1), Generation(max_new_tokens=num_tokens)

    def write(prompt: Sequence[int]) -> list[int]:
        [answer] = generate(decoder, [prompt], generation, eos_ids=ends, pad_id=0)
        return [token for token in answer.ids if token not in ends]

    return write


def source(model_folder: Path, num_tokens: int, ends: Sequence[int]) -> Write:
    """What transformers writes with the model in float32, likewise."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, local_files_only=True).eval()
    options = {"do_sample": False, "max_new_tokens": num_tokens, "eos_token_id": list(ends), "pad_token_id": 0}

    def write(prompt: Sequence[int]) -> list[int]:
        with torch.inference_mode():
            found = model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()
        return [token for token in found if token not in ends]

    return write


def main() -> int:
    """Prints, for each way, tokens/s and how many prompts are answered as transformers answers them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    given = parser.parse_args()
    prompts = [row.prompt for row in read_written(given.bundle / "written.jsonl")][: given.prompts]
    config = json.loads((given.bundle / CONFIG).read_text(encoding="utf-8"))
    ends = np.atleast_1d(config["model"]["eos_token_id"]).tolist()
    ways: dict[str, Write] = {
        "transformers": source(given.model, given.tokens, ends),
        "recipec": ours(given.bundle, given.tokens, ends),
        "onnxruntime-genai": genai(given.bundle, given.tokens),
    }
    expected: list[list[int]] = []
    for name, write in ways.items():
        started = time.perf_counter()
        found = [write(prompt) for prompt in prompts]
        rate = sum(map(len, found)) / (time.perf_counter() - started)
        expected = expected or found
        same = sum(one == other for one, other in zip(found, expected, strict=True))
        print(f"{name:18} {same} of {len(prompts)} prompts as transformers, {rate:6.1f} tokens/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
