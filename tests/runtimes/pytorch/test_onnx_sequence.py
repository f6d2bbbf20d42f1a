"""The two graphs of an encoder-decoder, run by onnxruntime, against the model that they were made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import onnxruntime
import torch

from compiler.generation import Generation
from runtimes.errors import RunError
from runtimes.export.facts import DECODER, ENCODER
from runtimes.export.sequence import Encoded, OnnxSequenceDecoder, onnx_sequence_decoder
from runtimes.generation.decoding import Decoder, forced, generate, left_padded, right_padded
from runtimes.pytorch.onnx_format import traceable
from runtimes.pytorch.onnx_graph import ExportError
from runtimes.pytorch.onnx_sequence import export
from runtimes.pytorch.sequence_decoding import HEAD, TorchSequenceDecoder, sequence_decoder
from runtimes.saved import SavedModel
from tests.runtimes.pairs import PAD, save_pair, sources

SOURCES = sources()
NEW = 12


@pytest.fixture(scope="module", params=["t5", "encoder-decoder"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its graphs: T5 tells positions by distance, the other one counts them."""
    folder = save_pair(request.param, tmp_path_factory.mktemp("graphs") / "model")
    export(traceable(SavedModel(folder), HEAD), folder)
    return folder


def opened(folder: Path) -> tuple[OnnxSequenceDecoder, TorchSequenceDecoder]:
    source = sequence_decoder(SavedModel(folder))
    return onnx_sequence_decoder(folder, start_id=source.start_id, max_positions=source.max_positions), source


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_graphs_write_what_the_model_writes(pair: Path, num_beams: int) -> None:
    decoder, source = opened(pair)
    generation = Generation(max_new_tokens=NEW, num_beams=num_beams)
    free = generate(source, SOURCES, generation, eos_ids=[], pad_id=PAD)
    eos_ids = sorted({answer.ids[place + 1] for place, answer in enumerate(free[:3])})
    both: tuple[Decoder[Any], ...] = (decoder, source)
    found, expected = (generate(one, SOURCES, generation, eos_ids=eos_ids, pad_id=PAD) for one in both)
    assert len({answer.ids for answer in expected}) > 1
    for answer, other in zip(found, expected, strict=True):
        assert (answer.ids, answer.ended) == (other.ids, other.ended)
        assert np.abs(np.array(answer.log_probs) - other.log_probs).max() < 1e-4


def test_one_pass_over_a_target_gives_the_logits_of_the_model(pair: Path) -> None:
    decoder, source = opened(pair)
    ids, mask = right_padded(*left_padded(SOURCES, PAD))
    written = np.random.default_rng(2).integers(4, 50, (len(SOURCES), 9))
    found = decoder.outputs({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": written})
    with torch.inference_mode():
        given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": written}
        expected = source.model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_target_that_is_given_token_by_token_reads_as_in_the_model(pair: Path) -> None:
    decoder, source = opened(pair)
    targets = [np.random.default_rng(row).integers(4, 50, 3 + row).tolist() for row in range(len(SOURCES))]
    both: tuple[Decoder[Any], ...] = (decoder, source)
    for found, expected in zip(*(forced(one, SOURCES, targets, pad_id=PAD) for one in both), strict=True):
        assert np.abs(found.log_probs - expected.log_probs).max() < 1e-4
        assert found.best.tolist() == expected.best.tolist()


def test_graphs_have_the_names_that_their_readers_look_for_and_the_standard_operators_alone(pair: Path) -> None:
    encoder, decoder = (onnx.load(pair / name) for name in (ENCODER, DECODER))
    assert [value.name for value in encoder.graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in encoder.graph.output] == ["last_hidden_state"]
    inputs = [value.name for value in decoder.graph.input]
    assert inputs[:4] == [
        "input_ids",
        "encoder_attention_mask",
        "encoder_hidden_states",
        "past_key_values.0.decoder.key",
    ]
    assert inputs[-1] == "use_cache_branch"
    past = {name.replace("past_key_values", "present") for name in inputs if name.startswith("past_key_values")}
    assert {value.name for value in decoder.graph.output} == {"logits", *past}
    assert {node.domain for graph in (encoder, decoder) for node in nodes(graph.graph)} <= {"", "ai.onnx"}


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All of a graph, those of branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes(attribute.g)


def test_the_first_step_computes_the_keys_and_values_of_the_source_and_later_ones_none(pair: Path) -> None:
    decoder, _ = opened(pair)
    ids, mask = left_padded(SOURCES, PAD)
    _, first = decoder.start(ids, mask)
    num_tokens = mask.shape[1]
    of_source = [name for name in decoder.sizes if ".encoder." in name]
    assert {first.given[name].shape()[2] for name in of_source} == {num_tokens}
    found = decoder.decoder.values(
        [name.replace("past_key_values", "present") for name in of_source],
        {"input_ids": onnxruntime.OrtValue.ortvalue_from_numpy(ids[:, :1]), **first.given},
    )
    assert {value.shape()[2] for value in found.values()} == {0}


def test_a_later_step_does_not_read_what_the_encoder_made_but_its_size(pair: Path) -> None:
    decoder, _ = opened(pair)
    ids, mask = left_padded(SOURCES, PAD)
    _, cache = decoder.start(ids, mask)
    hidden = cache.given["encoder_hidden_states"].numpy()
    other = {**cache.given, "encoder_hidden_states": onnxruntime.OrtValue.ortvalue_from_numpy(np.full_like(hidden, 7))}
    one, two = (decoder.step(ids[:, :1], mask, Encoded(given))[0] for given in (cache.given, other))
    assert np.array_equal(one, two)


def test_a_weight_is_in_one_of_the_graphs_and_once(pair: Path) -> None:
    decoder = onnx.load(pair / DECODER)
    weights = [onnx.numpy_helper.to_array(value) for value in decoder.graph.initializer]
    large = [weight for weight in weights if weight.size >= 32 * 32]
    kept = {weight.tobytes() for weight in large} | {weight.T.tobytes() for weight in large if weight.ndim == 2}
    assert len({weight.tobytes() for weight in large}) == len(large)
    assert len(kept) == 2 * len(large)  # none is another one's transpose
    assert not any(attribute.g.initializer for node in nodes(decoder.graph) for attribute in node.attribute)


def test_a_graph_without_a_cache_is_refused(pair: Path, tmp_path: Path) -> None:
    for name in (ENCODER, DECODER):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((pair / ENCODER).read_bytes())
    with pytest.raises(RunError, match="keeps no cache"):
        onnx_sequence_decoder(tmp_path, start_id=0)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no config\.json"):
        export(traceable(SavedModel(tmp_path), HEAD), tmp_path)
