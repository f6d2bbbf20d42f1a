"""The ONNX writer for decoders that onnxruntime-genai knows: its own builder, always in float32.

The builder reads a folder, writes a graph with GroupQueryAttention and a genai_config.json. What it leaves open is
closed here: the size of a head in the cache, which the graph names and transformers.js takes for zero; the windows of
models whose configuration does not list their layers; and weights, which it would add to in the type that they are
saved in. https://github.com/microsoft/onnxruntime-genai
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from compiler.files import PART, write_json
from compiler.tokenizer_files import CARRIED, TOKENIZER
from runtimes.errors import RunError, first_line
from runtimes.export.adapters import write_adapter
from runtimes.export.decoding import onnx_decoder
from runtimes.export.facts import PAST, PRESENT, ExportFacts, adapter_file
from runtimes.export.genai import CONFIG, pointing_at
from runtimes.pytorch.onnx_graph import LARGEST_INSIDE, ExportError, check_opset, facts, strip, write
from runtimes.pytorch.quiet import quiet

EXPORTER = "onnxruntime_genai.models.builder"
OPTIONS = ("hf_token=false", "windowed_kv_cache=false")
"""No token of the hub is asked for; a layer with a window keeps all tokens, so that one way of caching serves all."""
_PACKAGE = "onnxruntime-genai"
_BUILT = "model.onnx"
_LORA = (".lora_A.", ".lora_B.")
"""What the builder has in the names of the weights of updates; those of lora_B have the scale multiplied in."""
_AXES = {"sequence_length": "sequence", "past_sequence_length": "past"}
_AXES |= {"total_sequence_length": "past + sequence"}


class BuilderError(RunError):
    """The builder could not write a model."""

    def __init__(self, message: str, hint: str = 'write {"format": "onnx", "exporter": "transformers"}') -> None:
        super().__init__("E505", message, hint)


def export(
    model_folder: Path,
    out: Path,
    file: str,
    *,
    opset: int | None = None,
    inside: int = LARGEST_INSIDE,
    adapter: Path | None = None,
) -> ExportFacts:
    """Facts about the graph written to `file` in the folder `out`, float32, and its genai_config.json beside that.

    Weights of more than `inside` bytes go into a data file. `adapter`: a folder of PEFT's with low-rank updates of the
    model, which are written into a file beside the graph. Raises BuilderError when the builder fails, ExportError
    when what it wrote does not run.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".genai.", suffix=PART) as scratch:  # as large as the model
        source, built = Path(scratch) / "model", Path(scratch) / "built"
        _stage(model_folder, source)
        _build(source, built, Path(scratch) / "cache", adapter)
        graph = onnx_ir.load(built / _BUILT)
        config = json.loads((built / CONFIG).read_text(encoding="utf-8"))
        _settle(graph, config["model"]["decoder"]["head_size"])
        check_opset(graph, opset)
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        updates = _taken_apart(graph)
        if adapter is not None:
            write_adapter(adapter_file(out / file), updates)
        found = facts(graph, num_bytes=write(graph, out / file, _check, inside=inside))
    found = replace(found, inputs=tuple(name for name in found.inputs if name not in updates))
    write_json(out / CONFIG, pointing_at(config, file))
    versions = ((_PACKAGE, metadata.version(_PACKAGE)), *found.versions)
    return replace(found, exporter=EXPORTER, versions=versions)


def _stage(model_folder: Path, source: Path) -> None:
    """A folder with the model's files as links, whose configuration says what the builder has to be told."""
    source.mkdir()
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    write_json(source / "config.json", told(config))
    for path in model_folder.iterdir():
        if path.name in (TOKENIZER, *CARRIED) or path.suffix == ".safetensors" or path.name.endswith(".index.json"):
            (source / path.name).symlink_to(path.absolute())


def told(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config.json as the builder has to read it.

    Its weights are loaded as float32. Where all layers have a window, each is said to have one: the builder looks for
    it by layer. A Phi-3 whose positions were never stretched has as many as it began with.
    """
    found = {**config, "dtype": "float32"}
    found.pop("torch_dtype", None)
    if config["model_type"] == "phi3":
        found["original_max_position_embeddings"] = config["max_position_embeddings"]
    if config.get("sliding_window") and not config.get("layer_types") and config.get("use_sliding_window") is None:
        found["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
    return found


def _build(source: Path, built: Path, cache: Path, adapter: Path | None) -> None:
    """Has the builder write a graph and genai_config.json into the folder `built`."""
    options = [*OPTIONS, *([] if adapter is None else [f"adapter_path={adapter.absolute()}"])]
    try:
        from onnxruntime_genai.models import builder
    except ImportError as error:
        raise RunError(
            "E402", f"{_PACKAGE} can't be used: {error}", 'install it: pip install "recipec[onnx]"'
        ) from error
    given = ("", str(source), str(built), "fp32", "cpu", str(cache))
    with quiet():
        try:
            builder.create_model(*given, **builder.parse_extra_options(*given, options))
        except Exception as error:  # the builder's errors share no base
            kind = json.loads((source / "config.json").read_text(encoding="utf-8"))["model_type"]
            raise BuilderError(f"{_PACKAGE} can't write this {kind} model: {first_line(error)}") from error


def _settle(graph: onnx_ir.Model, head_size: int) -> None:
    """Names the axes, gives the cache its size, and takes out where the graph was made.

    The batch keeps the name by which transformers.js knows it.
    """
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        assert value.shape is not None, "the builder gives every input and output a shape"
        names = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]
        if str(value.name).startswith((PAST, PRESENT)):
            names[-1] = head_size
        value.shape = onnx_ir.Shape([_AXES.get(name, name) if isinstance(name, str) else name for name in names])
    strip(graph)


def _taken_apart(graph: onnx_ir.Model) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of updates, in whose place the graph has optional inputs; a zero is the default of each."""
    found = {}
    for name, value in graph.graph.initializers.items():
        if any(part in name for part in _LORA):
            assert value.const_value is not None, "the builder writes weights"
            weights = np.array(value.const_value.numpy(), np.float32)
            value.const_value = onnx_ir.tensor(np.zeros_like(weights), name=name)
            value.shape, value.type = onnx_ir.Shape(weights.shape), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
            graph.graph.inputs.append(value)
            found[name] = weights
    return found


def _check(file: Path) -> None:
    """Two prompts, and a step after them, run. Raises ExportError."""
    try:
        decoder = onnx_decoder(file, threads=1)
        mask_BT = np.array([[0, 1, 1], [1, 1, 1]])
        _, cache = decoder.start(mask_BT, mask_BT)
        decoder.step(np.ones((2, 1), np.int64), np.pad(mask_BT, ((0, 0), (0, 1)), constant_values=1), cache)
    except RunError as error:
        raise ExportError(error.message, error.hint) from error
