"""The two graphs of an encoder-decoder, run by onnxruntime, against the model that they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import torch

from compiler.generation import Generation
from runtimes.decoding import Decoder, forced, generate, left_padded, right_padded
from runtimes.errors import RunError
from runtimes.export.facts import DECODER, ENCODER
from runtimes.export.sequence import OnnxSequenceDecoder, onnx_sequence_decoder
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
    inputs = [value.name for value in decoder.graph.input]
    assert inputs[:3] == ["input_ids", "encoder_attention_mask", "past_key_values.0.decoder.key"]
    assert {name.replace("past_key_values", "present") for name in inputs if ".encoder." in name} == {
        value.name for value in encoder.graph.output
    }
    assert decoder.graph.output[0].name == "logits"
    assert {node.domain for graph in (encoder, decoder) for node in graph.graph.node} <= {"", "ai.onnx"}


def test_a_graph_without_a_cache_is_refused(pair: Path, tmp_path: Path) -> None:
    for name in (ENCODER, DECODER):
        (tmp_path / name).write_bytes((pair / ENCODER).read_bytes())
    with pytest.raises(RunError, match="keeps no cache"):
        onnx_sequence_decoder(tmp_path, start_id=0)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no config\.json"):
        export(traceable(SavedModel(tmp_path), HEAD), tmp_path)
