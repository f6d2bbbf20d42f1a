"""Our loop against transformers' own generation, and the cache against none."""

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
from runtimes.generation.decoded import Decoded
from runtimes.generation.decoding import forced, generate, left_padded
from runtimes.pytorch.decoding import TorchDecoder, torch_decoder
from runtimes.pytorch.loading import SourceError
from runtimes.pytorch.quiet import quiet
from runtimes.saved import Adapter, SavedModel
from runtimes.tasks import language
from tests.runtimes.decoders import MODELS, PAD, prompts, save_decoder

PROMPTS = prompts()
NEW = 12


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TorchDecoder]:
    folder = tmp_path_factory.mktemp("decoders")
    return {name: torch_decoder(SavedModel(save_decoder(name, folder / name))) for name in MODELS}


def end_tokens(decoder: TorchDecoder, num_beams: int) -> list[int]:
    """Tokens that end some answers early."""
    generation = Generation(max_new_tokens=NEW, num_beams=num_beams)
    answers = generate(decoder, PROMPTS, generation, eos_ids=[], pad_id=PAD)
    return sorted({answer.ids[place] for place, answer in enumerate(answers[:4])})


def theirs(model: Any, eos_ids: list[int], num_beams: int) -> Any:
    """What transformers generates."""
    ids, mask = (torch.from_numpy(array) for array in left_padded(PROMPTS, PAD))
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


def assert_same_tokens(answers: list[Decoded], sequences: Any) -> None:
    for answer, row in zip(answers, sequences.tolist(), strict=True):
        new = row[max(map(len, PROMPTS)) :]
        assert list(answer.ids) == new[: len(answer.ids)]
        assert set(new[len(answer.ids) :]) <= {PAD}


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(decoders: dict[str, TorchDecoder], name: str) -> None:
    decoder = decoders[name]
    eos_ids = end_tokens(decoder, 1)
    answers = generate(decoder, PROMPTS, Generation(max_new_tokens=NEW), eos_ids=eos_ids, pad_id=PAD)
    assert len({len(answer.ids) for answer in answers}) > 1
    assert_same_tokens(answers, theirs(decoder.model, eos_ids, 1).sequences)


@pytest.mark.parametrize("num_beams", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_beams_and_their_scores_are_those_of_transformers(
    decoders: dict[str, TorchDecoder], name: str, num_beams: int
) -> None:
    decoder = decoders[name]
    eos_ids = end_tokens(decoder, num_beams)
    generation = Generation(max_new_tokens=NEW, num_beams=num_beams)
    answers = generate(decoder, PROMPTS, generation, eos_ids=eos_ids, pad_id=PAD)
    found = theirs(decoder.model, eos_ids, num_beams)
    assert len({len(answer.ids) for answer in answers}) > 1
    assert_same_tokens(answers, found.sequences)
    scores = [answer.log_prob / len(answer.ids) for answer in answers]
    assert np.abs(np.array(scores) - found.sequences_scores.numpy()).max() < 1e-5  # they add up in float32


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_mixed_lengths_answers_as_each_row_alone(decoders: dict[str, TorchDecoder], name: str) -> None:
    decoder = decoders[name]
    for generation in (
        Generation(max_new_tokens=NEW),
        Generation(max_new_tokens=NEW, num_beams=3),
        Generation(max_new_tokens=NEW, temperature=1.0, top_p=0.9),
    ):
        together = generate(decoder, PROMPTS, generation, eos_ids=[7], pad_id=PAD, batch_size=99)
        for row, prompt in enumerate(PROMPTS):
            [alone] = generate(decoder, [prompt], generation, eos_ids=[7], pad_id=PAD, rows=[row])
            assert alone.ids == together[row].ids
            assert np.abs(np.array(alone.log_probs) - together[row].log_probs).max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_cached_readings_are_those_of_one_pass_without_a_cache(decoders: dict[str, TorchDecoder], name: str) -> None:
    decoder, random = decoders[name], np.random.default_rng(1)
    continuations = [random.integers(4, 50, length).tolist() for length in (8, 3, 0, 11, 6, 1)]
    readings = forced(decoder, PROMPTS, continuations, pad_id=PAD, batch_size=4)
    for prompt, continuation, reading in zip(PROMPTS, continuations, readings, strict=True):
        with torch.inference_mode():
            logits = decoder.model(torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0].double()
        logits = logits[len(prompt) - 1 : len(prompt) - 1 + len(continuation)]
        expected = logits.log_softmax(-1)[torch.arange(len(continuation)), torch.tensor(continuation, dtype=torch.long)]
        top = logits.topk(2).values
        assert np.abs(reading.log_probs - expected.numpy()).max(initial=0) < 1e-5
        assert np.abs(reading.margins - (top[:, 0] - top[:, 1]).numpy()).max(initial=0) < 1e-5
        assert reading.best.tolist() == logits.argmax(-1).tolist()


def test_positions_end_where_the_configuration_says(decoders: dict[str, TorchDecoder]) -> None:
    assert {name: decoder.max_positions for name, decoder in decoders.items()} == dict.fromkeys(MODELS, 64)


def test_an_adapter_that_is_not_merged_writes_as_peft_does(tmp_path: Path) -> None:
    base = save_decoder("llama", tmp_path / "base")
    plain = torch_decoder(SavedModel(base))
    torch.manual_seed(1)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with quiet():
        peft.get_peft_model(torch_decoder(SavedModel(base)).model, config).save_pretrained(str(tmp_path / "adapter"))
    decoder = torch_decoder(SavedModel(base, Adapter(tmp_path / "adapter", LoRA())), language.HEAD)
    answers = generate(decoder, PROMPTS, Generation(max_new_tokens=NEW), eos_ids=[], pad_id=PAD)
    assert_same_tokens(answers, theirs(decoder.model, [], 1).sequences)
    assert answers != generate(plain, PROMPTS, Generation(max_new_tokens=NEW), eos_ids=[], pad_id=PAD)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no config\.json"):
        torch_decoder(SavedModel(tmp_path))
