"""What the headers of safetensors files say about a model: tensors, linear modules, its head."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_BUFFERS = frozenset({"final_logits_bias", "inv_freq", "masked_bias", "running_mean", "running_var"})
_LAYER = re.compile("[0-9]{1,6}")
_EMBEDDINGS = frozenset({"wte", "wpe", "shared", "relative_attention_bias"})
TRANSPOSED = frozenset({"gpt2", "imagegpt", "openai-gpt"})  # models whose linear layers hold [inputs, outputs]
_PROJECTIONS = frozenset({"embedding_hidden_mapping_in", "embeddings_project"})  # of embeddings to the hidden size
CLASSIFIERS = frozenset({"classifier", "score", "classification_head"})
_WORD_EMBEDDINGS = (
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_tokens.weight",
    "wte.weight",
    "shared.weight",
)
_HEADS = CLASSIFIERS | {
    "cls",
    "discriminator_predictions",
    "generator_lm_head",
    "generator_predictions",
    "head",
    "lm_head",
    "lm_predictions",
    "pre_classifier",
    "predictions",
    "qa_outputs",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a weight file: its type in the words of the format (F32, BF16, I64), and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises ValueError when it is not one."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(_LARGEST_HEADER, path.stat().st_size - 8):
            raise ValueError("not a safetensors file, or not all of it")
        header = _header(file.read(size))
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    if path.stat().st_size != 8 + size + max((end for _, end in tensors.values()), default=0):
        raise ValueError("the file is shorter or longer than its header says")
    return {name: tensor for name, (tensor, _) in tensors.items()}


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header


def _tensor(name: str, entry: object) -> tuple[Tensor, int]:
    """The tensor that an entry of a header describes, and where its bytes end. Raises ValueError when it does not."""
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(), int(end)]} if all(
            type(side) is int and side >= 0 for side in shape
        ):
            return Tensor(kind, tuple(shape)), end
    raise ValueError(f"the header does not say what the tensor {name} is")


def shards(index: object) -> tuple[str, ...]:
    """The file names in a model.safetensors.index.json. Raises ValueError when there is none."""
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError("the index names no weight files")
    return tuple(sorted(set(places.values())))


def num_parameters(tensors: Mapping[str, Tensor]) -> int:
    """How many parameters there are; buffers are none."""
    return sum(math.prod(tensor.shape) for tensor in _floats(tensors))


def dtype(tensors: Mapping[str, Tensor]) -> str:
    """The type that most parameters have, in the framework's word: float32, bfloat16."""
    sizes: Counter[str] = Counter()
    for tensor in _floats(tensors):
        sizes[_DTYPES[tensor.dtype]] += math.prod(tensor.shape)
    return sizes.most_common(1)[0][0] if sizes else "float32"


def _floats(tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    return (tensor for name, tensor in tensors.items() if _is_parameter(name, tensor))


def _is_parameter(name: str, tensor: Tensor) -> bool:
    """Whether it is trained when all is: running means are not, nor are masks, which old files of GPT-2 call biases."""
    last = name.rpartition(".")[2]
    return tensor.dtype in _DTYPES and last not in _BUFFERS and not (last == "bias" and len(tensor.shape) == 4)


def linear_modules(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The modules with a matrix as `.weight`, in the names of the file; without embeddings and heads."""
    names = (
        name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2
    )
    return tuple(sorted(name for name in names if not _embeds(name) and not is_in_head(name)))


def norm_modules(shapes: Mapping[str, tuple[int, ...]], batch_norms: Collection[str]) -> tuple[str, ...]:
    """The modules with a vector as `.weight`, in the names of the file; without those over batches, and without heads.

    Old files call it gamma.
    """
    names = [
        name.rpartition(".")[0]
        for name, shape in shapes.items()
        if name.endswith((".weight", ".gamma")) and len(shape) == 1
    ]
    own = (name for name in names if name not in batch_norms and not is_in_head(name))
    return tuple(sorted(own))


def batch_norms(names: Iterable[str]) -> tuple[str, ...]:
    """The modules that normalise over batches: a file has their running means."""
    return tuple(name.removesuffix(".running_mean") for name in names if name.endswith(".running_mean"))


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, in the names of the file."""
    return {name: tensor.shape for name, tensor in tensors.items() if _is_parameter(name, tensor)}


def is_in_head(name: str) -> bool:
    """Whether a parameter or module of a file belongs to a head, which a task may replace."""
    return bool(_HEADS & set(name.split(".")))


def is_above_layers(name: str) -> bool:
    """Whether a parameter belongs to a head or a pooler: files have poolers that only some tasks' models have."""
    return is_in_head(name) or "pooler" in name.split(".")


def is_bias(name: str, num_axes: int) -> bool:
    """Whether a parameter of a model or a file is a bias; old files call those of norms beta.

    GPT-2's files have masks of that name, which are squares.
    """
    last = name.rpartition(".")[2]
    return num_axes == 1 and (last in ("bias", "beta") or last.endswith("_bias"))


def is_embedding(name: str) -> bool:
    """Whether a parameter or module of a file belongs to embeddings."""
    return any(part in _EMBEDDINGS or "embed" in part for part in name.split("."))


def _embeds(name: str) -> bool:
    """Whether a module with a matrix looks vectors up; projections of embeddings are linear layers like others."""
    return is_embedding(name) and name.rpartition(".")[2] not in _PROJECTIONS


def num_layers(names: Iterable[str]) -> int:
    """One more than the largest number among the parts of the names: layers count from 0."""
    numbers = [int(part) for name in names for part in name.split(".") if _LAYER.fullmatch(part)]
    return max(numbers, default=-1) + 1


def stacks(names: Iterable[str]) -> dict[str, int]:
    """How many numbered modules there are below each name: {"encoder.layer": 12}. Stacks in stacks are left out."""
    numbers: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        at = next((at for at, part in enumerate(parts) if _LAYER.fullmatch(part)), 0)
        if at:
            numbers.setdefault(".".join(parts[:at]), set()).add(parts[at])
    return {stem: len(found) for stem, found in numbers.items()}


def word_embeddings(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes [vocabulary, size] of the embeddings of tokens, by name."""
    return {name: shape for name, shape in shapes.items() if name.endswith(_WORD_EMBEDDINGS) and len(shape) == 2}


def num_classes(tensors: Mapping[str, Tensor]) -> int:
    """The outputs of a classification head: the rows of its last matrix; 0 when there is no head."""
    heads = [name for name in tensors if CLASSIFIERS & set(name.split(".")) and len(tensors[name].shape) == 2]
    last = [name for name in heads if "out_proj" in name] or sorted(heads)[-1:]
    return tensors[last[0]].shape[0] if last else 0
