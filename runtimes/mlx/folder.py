"""The format mlx of language models: a folder that mlx-lm opens.

mlx-lm itself writes and runs it; here it is told what, and compared.

The gate goes over two edges where weights are rounded: mlx-lm with the saved float32 weights must answer as the source
does, number by number; the folder that was written may then lose a little of the metrics, as the recipe allows.
"""

# B = batch, T = tokens, V = vocabulary

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_map_with_path

from compiler.files import new_folder
from compiler.recipe import Mlx
from compiler.tasks import Task
from compiler.typed import to_json
from runtimes import tasks
from runtimes.errors import RunError, first_line
from runtimes.export import Stage, Written
from runtimes.mlx.devices import use_nearest
from runtimes.mlx.rounding import TYPES, require_update
from runtimes.protocol import Batch
from runtimes.rows.readings import read_outputs
from runtimes.saved import SavedModel
from runtimes.steps.train import copy_tokenizer
from runtimes.tasks.interface import Reading
from runtimes.verification.gate import ScoreFunction

FOLDER = "mlx"


def write(export: Mlx, task: Task, saved: SavedModel, out: Path) -> Written:
    """Writes `mlx/`. Raises RunError E501 when mlx-lm does not know the architecture or can't quantize it."""
    _require_merged(saved)
    loaded, config = _load(saved.folder, lazy=True)
    from mlx_lm import utils

    left = require_update(export, saved)
    _cast(loaded, TYPES[export.precision])
    with _quiet(), new_folder(out / FOLDER) as folder:
        if export.bits is not None:
            loaded, config = _quantized(loaded, config, export.bits, export.group_size)
        utils.save_model(folder, loaded)
        utils.save_config(config, folder / "config.json")
        copy_tokenizer(saved.folder, folder)
    size = sum(file.stat().st_size for file in (out / FOLDER).glob("*.safetensors"))
    kind = export.held
    facts: dict[str, Any] = {"exporter": f"mlx-lm {version('mlx-lm')}", "num_bytes": size}
    facts["survives"] = left and to_json(left)
    if export.bits is not None:
        quantized, others = _num_layers(loaded)
        facts |= {"quantized_layers": quantized, "layers": quantized + others}
    return Written(
        facts={**facts, "precision": kind},
        says=f"a folder for mlx-lm, {kind}{_in_layers(facts)}, {size / 2**20:,.1f} MiB",
    )


def _require_merged(saved: SavedModel) -> None:
    """Nothing where a model has nothing beside its weights. Raises RunError E501: mlx-lm has no place for it."""
    if saved.adapter is not None:
        message = f'mlx-lm can\'t hold what the method "{saved.adapter.method.type}" adds'
        raise RunError("E501", message, 'export it with {"format": "onnx"}, or use a method that is merged')


def _num_layers(model: Any) -> tuple[int, int]:
    """How many layers and embeddings are quantized, and how many could be but for their inputs."""
    layers = list(model.modules())
    return sum(hasattr(layer, "bits") for layer in layers), sum(hasattr(layer, "to_quantized") for layer in layers)


def _in_layers(facts: Mapping[str, Any]) -> str:
    return f" in {facts['quantized_layers']} of {facts['layers']} layers" if "layers" in facts else ""


def stages(export: Mlx, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """mlx-lm with the saved weights, where the folder has rounded ones, and the folder."""
    reading = tasks.module_of(task).head(task).reading
    deployed = partial(_scores, written / FOLDER, reading, device)
    files = tuple(sorted((written / FOLDER).glob("*.safetensors")))
    folder = Stage("mlx", deployed, exact=export.is_exact, files=files)
    if export.is_exact:
        return [folder]
    return [Stage("mlx-lm", partial(_scores, saved.folder, reading, device), files=saved.weights), folder]


def _scores(folder: Path, reading: Reading, device: str) -> ScoreFunction:
    """The outputs of batches by mlx-lm. Raises RunError E501."""
    use_nearest(device)
    loaded, _ = _load(folder, lazy=False)
    return partial(_outputs, loaded, reading)


def _outputs(model: Callable[[mx.array], mx.array], reading: Reading, batch: Batch) -> npt.NDArray[np.float32]:
    """Of a batch padded on the right: what a token sees stands before it, so nothing has to be masked."""
    logits_BTV = model(mx.array(batch.inputs["input_ids"])).astype(mx.float32)
    return read_outputs(reading, np.array(logits_BTV), batch.targets)


def _load(folder: Path, *, lazy: bool) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's model of a folder, its weights in the dtype that they are stored in. Raises RunError E501."""
    try:
        from mlx_lm import utils
    except ImportError as error:
        raise RunError(
            "E402", f"mlx-lm writes the folder: {error}", 'install it: pip install "recipec[mlx]"'
        ) from error
    with _quiet():
        try:
            model, config = utils.load_model(folder, lazy=lazy)
        except (ValueError, FileNotFoundError, TypeError, KeyError, AttributeError) as error:
            reason = first_line(error)
            hint = 'mlx-lm has not every architecture; export it with {"format": "onnx"}'
            raise RunError("E501", f"mlx-lm does not load the model: {reason}", hint) from error
    return model, config


def _quantized(model: Any, config: dict[str, Any], bits: int, group_size: int) -> tuple[Any, dict[str, Any]]:
    """The model with every layer quantized whose inputs the group size divides. Raises RunError E501 for none."""
    from mlx_lm import utils

    try:
        model, config = utils.quantize_model(model, config, group_size, bits)
    except ValueError as error:
        message = f"mlx-lm can't quantize the model to {bits} bits: {error}"
        raise RunError("E501", message, "choose another group_size") from error
    if not any(hasattr(layer, "bits") for layer in model.modules()):
        message = f"groups of {group_size} divide the inputs of no layer, so that nothing would be quantized"
        raise RunError("E501", message, "choose a smaller group_size")
    return model, config


def _cast(model: Any, dtype: mx.Dtype) -> None:
    """Gives floating weights a dtype, but those that mlx-lm says must keep theirs."""
    keeps = getattr(model, "cast_predicate", lambda name: True)

    def cast(name: str, value: mx.array) -> mx.array:
        return value.astype(dtype) if keeps(name) and mx.issubdtype(value.dtype, mx.floating) else value

    model.update(tree_map_with_path(cast, model.parameters()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """mlx-lm prints how many bits a weight has."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
