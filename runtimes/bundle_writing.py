"""What other readers of a bundle are told of how its decoder writes: what ends a text, and how tokens are chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compiler.files import write_json
from compiler.generation import Generation
from compiler.plan import Package
from runtimes.answers import CONFIGURATIONS, writing_of
from runtimes.decoded import eos_ids
from runtimes.export import genai
from runtimes.inputs import open_reader
from runtimes.tokens import Encoder

GENERATION_CONFIG, MODEL_CONFIG = CONFIGURATIONS
_OWN = ("bos_token_id", "pad_token_id")


def tell_readers(step: Package, written: Path, graph: str, folder: Path) -> None:
    """Writes generation_config.json for transformers.js and, where the export has one, genai_config.json.

    `written`: the folder of the export; `graph`: its file, as in the bundle. Raises OSError or ValueError where a part
    is missing.
    """
    encoder = open_reader(step.task, folder, max_length=step.max_length, root=Path())
    assert isinstance(encoder, Encoder), "decoders read tokens"
    ends = _ends(step, encoder, folder)
    if step.generation is not None:
        write_json(folder / GENERATION_CONFIG, _generation_config(step.generation, ends, folder))
    if (written / genai.CONFIG).is_file():
        config = genai.pointing_at(_json(written / genai.CONFIG), graph)
        told = genai.writing_as(
            config, step.generation, max_length=step.max_length, end_tokens=ends, pad_id=encoder.pad_id
        )
        write_json(folder / genai.CONFIG, told)


def _ends(step: Package, encoder: Encoder, folder: Path) -> tuple[int, ...]:
    """The tokens that end a text: with a task that writes, its own too."""
    if step.generation is not None:
        return writing_of(step.task, encoder, step.generation, folder).ends
    return eos_ids(*(_json(folder / name) for name in CONFIGURATIONS))


def _generation_config(generation: Generation, ends: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """The model's own, or what its config.json says instead, with the recipe's ends and length."""
    model = _json(folder / MODEL_CONFIG)
    own = _json(folder / GENERATION_CONFIG) or {name: model[name] for name in _OWN if name in model}
    told: dict[str, Any] = {"eos_token_id": list(ends), "max_new_tokens": generation.max_new_tokens}
    told |= {"do_sample": generation.samples, "num_beams": generation.num_beams}
    if generation.samples:
        told |= {"temperature": generation.temperature, "top_k": generation.top_k or 0, "top_p": generation.top_p}
    return {**own, **told}


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
