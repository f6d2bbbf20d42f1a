"""MLX writes what PyTorch writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs the mlx extra")
pytest.importorskip("torch", reason="needs the mlx extra")

import peft
import torch

from compiler.methods import LoRA
from runtimes.errors import RunError
from runtimes.generation.decoding import forced, generate
from runtimes.mlx.decoding import MlxDecoder, mlx_decoder
from runtimes.pytorch.decoding import torch_decoder
from runtimes.pytorch.quiet import quiet
from runtimes.saved import Adapter, SavedModel
from runtimes.tasks import language
from tests.runtimes.decoders import (
    PAD,
    TRACED,
    WAYS,
    assert_same_answers,
    assert_same_readings,
    prompts,
    save_decoder,
)

PROMPTS = prompts()


@pytest.fixture(scope="module", params=TRACED)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(request.param, tmp_path_factory.mktemp("saved") / request.param)


@pytest.fixture(scope="module")
def decoder(saved: Path) -> MlxDecoder:
    return mlx_decoder(saved)


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_pytorch(saved: Path, decoder: MlxDecoder, way: str) -> None:
    assert_same_answers(decoder, torch_decoder(SavedModel(saved)), PROMPTS, WAYS[way])


def test_one_graph_serves_prompts_and_steps(saved: Path, decoder: MlxDecoder) -> None:
    whole = np.array([PROMPTS[1]])
    ones = np.ones_like(whole)
    at_once, _ = decoder.start(whole, ones)
    _, cache = decoder.start(whole[:, :6], ones[:, :6])
    for length in range(6, whole.shape[1]):
        stepped, cache = decoder.step(whole[:, length : length + 1], ones[:, : length + 1], cache)
    assert np.abs(stepped - at_once).max() < 1e-5
    assert decoder.max_positions == 64


def test_forced_readings_are_those_of_pytorch(saved: Path, decoder: MlxDecoder) -> None:
    continuations = [prompt[::-1] for prompt in PROMPTS]
    found = forced(decoder, PROMPTS, continuations, pad_id=PAD, batch_size=4)
    expected = forced(torch_decoder(SavedModel(saved)), PROMPTS, continuations, pad_id=PAD)
    assert_same_readings(found, expected)


def test_an_adapter_writes_as_peft_does(tmp_path: Path) -> None:
    base = save_decoder("llama", tmp_path / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    with quiet():
        peft.get_peft_model(torch_decoder(SavedModel(base)).model, config).save_pretrained(str(tmp_path / "adapter"))
    decoder = mlx_decoder(base, adapter=tmp_path / "adapter")
    assert_same_answers(
        decoder,
        torch_decoder(SavedModel(base, Adapter(tmp_path / "adapter", LoRA())), language.HEAD),
        PROMPTS,
        WAYS["greedy"],
    )
    [plain] = generate(torch_decoder(SavedModel(base)), PROMPTS[:1], WAYS["greedy"], eos_ids=[], pad_id=PAD)
    assert generate(decoder, PROMPTS[:1], WAYS["greedy"], eos_ids=[], pad_id=PAD)[0].ids != plain.ids


def test_a_model_saved_in_bfloat16_is_computed_in_float32(tmp_path: Path) -> None:
    saved = save_decoder("gpt2", tmp_path / "model", torch.bfloat16)
    assert_same_answers(mlx_decoder(saved), torch_decoder(SavedModel(saved)), PROMPTS, WAYS["greedy"])


def test_a_model_that_keeps_more_than_keys_and_values_is_refused(tmp_path: Path) -> None:
    save_decoder("mamba", tmp_path / "model")
    with pytest.raises(RunError, match="keeps more than keys and values"):
        mlx_decoder(tmp_path / "model")
