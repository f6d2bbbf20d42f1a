"""What other exporters ask of a graph before they call it good, each from its description, for benchmarks/gates.py.

Both give random tokens to the source and to the graph, with a mask of ones, and compare what comes back. No row of data
is read, no tokenizer, no label, and nothing is padded. Where a description leaves something open it is read in favour
of the check: cached keys and values are compared too, and a graph that does not run is found.
"""

# Axes: B = rows, T = tokens, S = tokens of the target, P = cached tokens, H = heads of keys, D = size of a head

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compiler.tasks import Task
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.export.decoding import onnx_decoder
from runtimes.export.sequence import onnx_sequence_decoder
from runtimes.export.session import open_session, ort_value
from runtimes.pytorch.cached import continued
from runtimes.pytorch.loading import load_saved
from runtimes.saved import SavedModel
from tests.mutations.mutation import graphs_in

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]
"""The same output of the source and of the graph."""
ATOL = 1e-5
HIDDEN = "last_hidden_state"
NUM_ROWS, NUM_TOKENS, NUM_CACHED = 2, 16, 16
OLIVE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Source:
    """The untouched model that a graph was made of."""

    task: Task
    model: Any

    @property
    def head(self) -> Any:
        """What its outputs are."""
        return tasks.module_of(self.task).head(self.task)

    @property
    def writes(self) -> bool:
        """Whether it is a language model alone, with no encoder."""
        return bool(self.head.cached and not self.head.encodes)


def open_source(task: Task, saved: SavedModel) -> Source:
    """The model in a folder, in float32."""
    return Source(task, load_saved(saved, tasks.module_of(task).head(task)))


def by_optimum(bundle: Path, source: Source) -> str | None:
    """What the check that optimum's exporter makes finds: every output within 1e-5 on 2 x 16 random tokens."""
    return _found(lambda: _outputs(bundle, source, (NUM_ROWS, NUM_TOKENS), NUM_CACHED))


def by_olive(bundle: Path, source: Source) -> str | None:
    """What Olive's finds: the logits of one row of 8 tokens with an empty cache; of language models alone."""
    if not source.writes:
        return None
    return _found(lambda: [next(iter(_outputs(bundle, source, (1, OLIVE_TOKENS), 0)))])


def _found(pairs: Callable[[], Sequence[Pair] | Iterator[Pair]]) -> str | None:
    try:
        found = [*pairs()]
    except (RunError, OSError, ValueError):
        return "does not run"
    for ours, theirs in found:
        if ours.shape != theirs.shape:
            return f"shape {list(theirs.shape)}"
        if not np.allclose(ours, theirs, atol=ATOL):
            return f"Δ {np.abs(ours - theirs).max():.1g}"
    return None


def _outputs(bundle: Path, source: Source, size: tuple[int, int], num_cached: int) -> Iterator[Pair]:
    """Each output of both, on random tokens or pixels."""
    random = np.random.default_rng(0)
    if source.head.encodes:
        return _of_sequence(bundle, source, size, random)
    if source.head.cached:
        return _of_decoder(bundle, source, size, num_cached, random)
    return _of_encoder(bundle, source, size, random)


def _of_encoder(bundle: Path, source: Source, size: tuple[int, int], random: np.random.Generator) -> Iterator[Pair]:
    results = source.head.results
    session = open_session(bundle / graphs_in(bundle)[-1], results=results)
    config = source.model.config
    vocabulary = getattr(config, "vocab_size", 0)
    inputs: dict[str, Array] = {}
    for name in session.inputs:
        if name == "pixel_values":
            side = config.image_size
            shape = (size[0], config.num_channels, side, side)
            inputs[name] = random.uniform(-1, 1, shape).astype(np.float32)
        elif name == "attention_mask":
            inputs[name] = np.ones(size, np.int64)
        else:
            inputs[name] = random.integers(0, vocabulary if name == "input_ids" else 2, size)
    with torch.inference_mode():
        expected = source.model(**_tensors(inputs))
    return zip((expected[name].numpy() for name in results), session.each(inputs), strict=True)


def _of_decoder(
    bundle: Path, source: Source, size: tuple[int, int], num_cached: int, random: np.random.Generator
) -> Iterator[Pair]:
    decoder = onnx_decoder(bundle / graphs_in(bundle)[-1])
    tokens: dict[str, Array] = {
        "input_ids": random.integers(0, source.model.config.vocab_size, size),
        "attention_mask": np.ones((size[0], num_cached + size[1]), np.int64),
        "position_ids": np.broadcast_to(num_cached + np.arange(size[1]), size),
    }
    cache = {
        name: random.normal(size=(size[0], heads, num_cached, width)).astype(np.float32)
        for name, (heads, width) in decoder.sizes.items()
    }
    given = {name: ort_value(array) for name, array in {**tokens, **cache}.items() if name in decoder.session.inputs}
    presents = [name.replace("past_key_values", "present") for name in cache]
    found = decoder.session.values(["logits", *presents], given)
    past = [torch.from_numpy(array) for array in cache.values()]
    with torch.inference_mode():
        expected = continued(source.model, _tensors(tokens), past[::2], past[1::2])
    kept = (array for pair in zip(expected.keys, expected.values, strict=True) for array in pair)
    return zip((array.numpy() for array in (expected.logits, *kept)), (v.numpy() for v in found.values()), strict=True)


def _of_sequence(bundle: Path, source: Source, size: tuple[int, int], random: np.random.Generator) -> Iterator[Pair]:
    config = source.model.config
    graphs = onnx_sequence_decoder(bundle, start_id=0)
    tokens = {
        "input_ids": random.integers(0, config.vocab_size, size),
        "attention_mask": np.ones(size, np.int64),
        "decoder_input_ids": random.integers(0, config.vocab_size, size),
    }
    hidden = graphs.encoder.values([HIDDEN], {name: ort_value(tokens[name]) for name in graphs.encoder.inputs})[HIDDEN]
    given = {
        name: ort_value(np.zeros((size[0], heads, 0, width), np.float32))
        for name, (heads, width) in graphs.sizes.items()
    }
    given |= {
        "input_ids": ort_value(tokens["decoder_input_ids"]),
        "encoder_attention_mask": ort_value(tokens["attention_mask"]),
        "encoder_hidden_states": hidden,
        "use_cache_branch": ort_value(np.array([False])),
    }
    with torch.inference_mode():
        expected = source.model(**_tensors(tokens), use_cache=True)
    outputs = {"logits": expected.logits, **_presents(expected.past_key_values)}
    found = graphs.decoder.values([*outputs], {name: given[name] for name in graphs.decoder.inputs})
    yield expected.encoder_last_hidden_state.numpy(), hidden.numpy()
    yield from ((outputs[name].numpy(), value.numpy()) for name, value in found.items())


def _presents(cache: Any) -> dict[str, torch.Tensor]:
    """Keys and values of an encoder-decoder by the names of a graph's outputs."""
    sides = {"decoder": cache.self_attention_cache, "encoder": cache.cross_attention_cache}
    return {
        f"present.{number}.{side}.{part}": array
        for side, each in sides.items()
        for number, layer in enumerate(each.layers)
        for part, array in (("key", layer.keys), ("value", layer.values))
    }


def _tensors(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
