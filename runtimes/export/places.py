"""Where the graphs lie in a folder that anybody wrote, by the names that exporters give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import RunError
from runtimes.export.facts import FOLDER

_ENCODER, _DECODER, _MERGED, _WITH_PAST = "encoder_model", "decoder_model", "decoder_model_merged", "decoder_with_past"


@dataclass(frozen=True, slots=True)
class Graphs:
    """The files of a model's graphs, and the folder whose tokenizer and config.json are theirs."""

    files: tuple[Path, ...]  # the encoder first where there are two
    folder: Path


def find_graphs(named: Path, *, encodes: bool, ours: Sequence[str] = ()) -> Graphs:
    """The graphs that a file is, or that are in a folder or its folder `onnx`.

    `ours`: their places in it, where a manifest says them. Raises RunError E611 where there is none, or several.
    """
    if named.is_file():
        folder = named.parent.parent if named.parent.name == FOLDER else named.parent
        return Graphs(_with_encoder(named) if encodes else (named,), folder)
    if ours:
        return Graphs(tuple(named / name for name in ours), named)
    found = sorted(path for place in (named, named / FOLDER) for path in place.glob("*.onnx"))
    if not found:
        message = f"{named}: there is no ONNX file in it, nor in {FOLDER}/"
        raise RunError("E611", message, "name the file, or the folder that it is in")
    chosen = _only(named, _that_write(found) or found)
    return Graphs(_with_encoder(chosen) if encodes else (chosen,), named)


def _that_write(found: Sequence[Path]) -> list[Path]:
    """The decoders of a folder that has halves or steps of models: those that go on from nothing."""
    merged = [path for path in found if path.name.startswith(_MERGED)]
    plain = [path for path in found if path.name.startswith(_DECODER) and _WITH_PAST not in path.name]
    return merged or plain


def _only(named: Path, found: Sequence[Path]) -> Path:
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(named)) for path in found)
        raise RunError("E611", f"{named} has several graphs: {names}", f"name one: --bundle {found[0]}")
    return found[0]


def _with_encoder(decoder: Path) -> tuple[Path, ...]:
    """The encoder that belongs to a decoder, and the decoder; the graph alone where it is of the whole model."""
    if not decoder.name.startswith(_DECODER):
        return (decoder,)
    stem = _MERGED if decoder.name.startswith(_MERGED) else _DECODER
    encoder = decoder.with_name(decoder.name.replace(stem, _ENCODER, 1))
    if not encoder.is_file():
        raise RunError("E611", f"{decoder} has no encoder beside it: {encoder.name}", "put the two into one folder")
    return (encoder, decoder)
