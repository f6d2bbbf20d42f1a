"""Encoder-decoders: our loop against transformers' own generation, and the caches against none."""

# Axes: B = rows, T = tokens, V = vocabulary

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import peft
import torch

from compiler.generation import Generation
from compiler.methods import LoRA
from compiler.tasks import Translation
from runtimes.generation.decoded import Decoded
from runtimes.generation.decoding import forced, generate, left_padded, right_padded
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.sequence_decoding import TorchSequenceDecoder, sequence_decoder
from runtimes.saved import Adapter, SavedModel
from runtimes.tasks import module_of
from tests.runtimes.pairs import LIMITS, MODELS, PAD, save_pair, sources

SOURCES = sources()
NEW = 12


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TorchSequenceDecoder]:
    folder = tmp_path_factory.mktemp("pairs")
    return {name: sequence_decoder(SavedModel(save_pair(name, folder / name))) for name in MODELS}


def end_tokens(decoder: TorchSequenceDecoder, num_beams: int) -> list[int]:
    """Tokens that end some answers early."""
    generation = Generation(max_new_tokens=NEW, num_beams=num_beams)
    answers = generate(decoder, SOURCES, generation, eos_ids=[], pad_id=PAD)
    return sorted({answer.ids[place + 1] for place, answer in enumerate(answers[:3])})


def theirs(model: Any, eos_ids: list[int], num_beams: int) -> Any:
    """What transformers generates."""
    ids, mask = (torch.from_numpy(array) for array in right_padded(*left_padded(SOURCES, PAD)))
    with quiet(), torch.inference_mode():
        return model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=NEW,
            eos_token_id=eos_ids or None,
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
        )


def assert_same_tokens(decoder: TorchSequenceDecoder, answers: list[Decoded], sequences: Any) -> None:
    for answer, row in zip(answers, sequences.tolist(), strict=True):
        assert row[0] == decoder.start_id
        assert list(answer.ids) == row[1:][: len(answer.ids)]
        assert len(set(row[1:][len(answer.ids) :])) <= 1, "padding alone"


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(decoders: dict[str, TorchSequenceDecoder], name: str) -> None:
    decoder = decoders[name]
    eos_ids = end_tokens(decoder, 1)
    answers = generate(decoder, SOURCES, Generation(max_new_tokens=NEW), eos_ids=eos_ids, pad_id=PAD)
    assert len({answer.ids for answer in answers}) > 1
    assert_same_tokens(decoder, answers, theirs(decoder.model, eos_ids, 1).sequences)


@pytest.mark.parametrize("name", MODELS)
def test_beams_and_their_scores_are_those_of_transformers(decoders: dict[str, TorchSequenceDecoder], name: str) -> None:
    decoder = decoders[name]
    eos_ids = end_tokens(decoder, 3)
    generation = Generation(max_new_tokens=NEW, num_beams=3)
    answers = generate(decoder, SOURCES, generation, eos_ids=eos_ids, pad_id=PAD)
    found = theirs(decoder.model, eos_ids, 3)
    assert_same_tokens(decoder, answers, found.sequences)
    scores = [answer.log_prob / len(answer.ids) for answer in answers]
    assert np.abs(np.array(scores) - found.sequences_scores.numpy()).max() < 1e-5  # they add up in float32


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_mixed_lengths_answers_as_each_row_alone(
    decoders: dict[str, TorchSequenceDecoder], name: str
) -> None:
    """Sources are padded on the left by the loop, and learnt positions count from the left."""
    decoder = decoders[name]
    for generation in (Generation(max_new_tokens=NEW), Generation(max_new_tokens=NEW, num_beams=3)):
        together = generate(decoder, SOURCES, generation, eos_ids=[7], pad_id=PAD, batch_size=99)
        for row, source in enumerate(SOURCES):
            [alone] = generate(decoder, [source], generation, eos_ids=[7], pad_id=PAD)
            assert alone.ids == together[row].ids
            assert np.abs(np.array(alone.log_probs) - together[row].log_probs).max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_cached_readings_are_those_of_one_pass_without_a_cache(
    decoders: dict[str, TorchSequenceDecoder], name: str
) -> None:
    decoder, random = decoders[name], np.random.default_rng(1)
    targets = [random.integers(4, 50, length).tolist() for length in (8, 3, 0, 11, 6, 1)]
    readings = forced(decoder, SOURCES, targets, pad_id=PAD, batch_size=4)
    for source, target, reading in zip(SOURCES, targets, readings, strict=True):
        read = torch.tensor([[decoder.start_id, *target]])
        with torch.inference_mode():
            found = decoder.model(input_ids=torch.tensor([source]), decoder_input_ids=read, use_cache=False)
        logits = found.logits[0, : len(target)].double()
        expected = logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target, dtype=torch.long)]
        assert np.abs(reading.log_probs - expected.numpy()).max(initial=0) < 1e-5
        assert reading.best.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("name", ["bart", "encoder-decoder", "marian"])
def test_an_answer_is_as_long_as_the_decoder_has_positions_however_long_the_source(
    decoders: dict[str, TorchSequenceDecoder], name: str
) -> None:
    decoder = decoders[name]
    assert decoder.max_positions == LIMITS[name]
    [answer] = generate(decoder, [[5] * 40], Generation(max_new_tokens=99), eos_ids=[], pad_id=PAD)
    assert (len(answer.ids), answer.ended) == (40, "length")


def test_an_adapter_that_is_not_merged_writes_as_peft_does(tmp_path: Path) -> None:
    base = save_pair("bart", tmp_path / "base")
    plain = sequence_decoder(SavedModel(base))
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    with quiet():
        peft.get_peft_model(sequence_decoder(SavedModel(base)).model, config).save_pretrained(str(tmp_path / "adapter"))
    head = module_of(Translation(start_id=2, end_id=3)).head(Translation(start_id=2, end_id=3))
    decoder = sequence_decoder(SavedModel(base, Adapter(tmp_path / "adapter", LoRA())), head)
    answers = generate(decoder, SOURCES, Generation(max_new_tokens=NEW), eos_ids=[], pad_id=PAD)
    assert_same_tokens(decoder, answers, theirs(decoder.model, [], 1).sequences)
    assert answers != generate(plain, SOURCES, Generation(max_new_tokens=NEW), eos_ids=[], pad_id=PAD)
