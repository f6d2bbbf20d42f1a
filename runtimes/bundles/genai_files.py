"""What onnxruntime-genai is told of how a bundle's decoder writes: what ends a text, and how tokens are chosen."""

from __future__ import annotations

from pathlib import Path

from compiler.files import write_json
from compiler.json_text import object_in
from compiler.plan import Package
from runtimes.export import genai
from runtimes.generation.answers import CONFIGURATIONS
from runtimes.generation.decoded import eos_ids
from runtimes.rows.inputs import open_reader
from runtimes.rows.tokens import Encoder


def write_genai(step: Package, written: Path, graph: str, folder: Path) -> None:
    """Writes genai_config.json into a bundle where the export has one, once its other configurations say how it ends.

    `written`: the folder of the export; `graph`: its file, as in the bundle. Raises OSError or ValueError where a part
    is missing.
    """
    if not (written / genai.CONFIG).is_file():
        return
    encoder = open_reader(step.task, folder, max_length=step.max_length, root=Path())
    assert isinstance(encoder, Encoder), "decoders read tokens"
    config = genai.pointing_at(object_in(written / genai.CONFIG), graph)
    told = genai.writing_as(
        config,
        step.generation,
        max_length=step.max_length,
        end_tokens=eos_ids(*(object_in(folder / name) for name in CONFIGURATIONS)),
        pad_id=encoder.pad_id,
    )
    write_json(folder / genai.CONFIG, told)
