"""genai_config.json: what onnxruntime-genai reads of a folder before it opens the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compiler.generation import Generation

CONFIG = "genai_config.json"
Config = Mapping[str, Any]


def pointing_at(config: Config, file: str) -> dict[str, Any]:
    """The configuration with the graph's file, by its path from the folder."""
    model = config["model"]
    return {**config, "model": {**model, "decoder": {**model["decoder"], "filename": file}}}


def writing_as(
    config: Config, generation: Generation | None, *, max_length: int, end_tokens: Sequence[int], pad_id: int
) -> dict[str, Any]:
    """The configuration with a recipe's way of writing: what ends a text, how long it can be, how tokens are chosen.

    `max_length`: tokens of a row that are read. onnxruntime-genai counts prompt and answer together, and reserves as
    much of the cache. Stop strings and seeds are the caller's there.
    """
    ends = list(end_tokens) or config["model"]["eos_token_id"]
    model = {**config["model"], "eos_token_id": ends, "pad_token_id": pad_id}
    search = {**config["search"], "do_sample": False, "temperature": 1.0, "top_k": 1, "top_p": 1.0, "num_beams": 1}
    longest = model["context_length"]
    if generation is not None:
        longest = min(longest, max_length + generation.max_new_tokens)
        search["num_beams"] = generation.num_beams
        search["early_stopping"] = generation.num_beams > 1
        if generation.samples:
            drawn = {"temperature": generation.temperature, "top_k": generation.top_k or 0, "top_p": generation.top_p}
            search |= {"do_sample": True, **drawn}
    return {**config, "model": model, "search": {**search, "max_length": longest}}
