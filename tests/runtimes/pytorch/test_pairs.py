"""Encoder-decoders as PyTorch tunes them: which layers are frozen, what the head is, and what no file has."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.torch import load_file, save_file

from compiler.methods import Freeze
from compiler.tasks import Translation
from runtimes.errors import RunError
from runtimes.pytorch.methods import module_of
from runtimes.pytorch.models import load_pretrained, save_pretrained
from runtimes.tasks import module_of as task_module
from tests.runtimes.pairs import MODELS, save_pair

TASK = Translation(start_id=2, end_id=3)
HEAD = task_module(TASK).head(TASK)
LAYERS = {
    "t5": ("encoder.block.", "decoder.block."),
    "bart": ("model.encoder.layers.", "model.decoder.layers."),
    "marian": ("model.encoder.layers.", "model.decoder.layers."),
    "encoder-decoder": ("encoder.encoder.layer.", "decoder.bert.encoder.layer."),
}
HEADS = {"t5": "lm_head", "bart": "lm_head", "marian": "lm_head", "encoder-decoder": "decoder.cls.predictions.decoder"}


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_frozen_from_the_input_on_the_encoder_s_first(tmp_path: Path, name: str) -> None:
    loaded = load_pretrained(save_pair(name, tmp_path), HEAD)
    module_of("freeze").wrap(loaded.model, loaded.head, Freeze(layers=3), HEAD.peft_task, "tiny")
    encoder, decoder = LAYERS[name]
    frozen = {key for key, value in loaded.model.named_parameters() if not value.requires_grad}
    trained = {key for key, value in loaded.model.named_parameters() if value.requires_grad}
    assert {key for key in frozen if key.startswith((encoder, decoder))} == {
        key
        for key, _ in loaded.model.named_parameters()
        if key.startswith((f"{encoder}0.", f"{encoder}1.", f"{decoder}0."))
    }
    assert any(key.startswith(f"{decoder}1.") for key in trained)
    embeddings = {key for key in trained if "embed" in key and "norm" not in key.lower()}
    assert embeddings == set(), "each half has embeddings of its own"


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_what_gives_the_logits(tmp_path: Path, name: str) -> None:
    assert load_pretrained(save_pair(name, tmp_path), HEAD).head == (HEADS[name],)


def test_positions_that_are_computed_are_neither_trained_nor_saved_and_keep_their_values(tmp_path: Path) -> None:
    model = load_pretrained(save_pair("marian", tmp_path / "model"), HEAD).model
    name = "model.encoder.embed_positions.weight"
    assert name not in dict(model.named_parameters())
    positions = dict(model.named_buffers())[name]
    expected = torch.sin(torch.arange(40)[:, None] / 10000 ** (torch.arange(0, 32, 2) / 32))  # Vaswani 2017
    assert torch.allclose(positions[:, :16], expected, atol=1e-6)
    save_pretrained(model, tmp_path / "saved")
    assert name not in load_file(tmp_path / "saved" / "model.safetensors")


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    file = save_pair("t5", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    del tensors["decoder.block.1.layer.1.EncDecAttention.q.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"decoder\.block\.1\.layer\.1\.EncDecAttention"):
        load_pretrained(tmp_path, HEAD)


def test_what_the_decoder_was_trained_to_read_first_is_saved(tmp_path: Path) -> None:
    other = Translation(start_id=5, end_id=3)
    model = load_pretrained(save_pair("bart", tmp_path / "model"), task_module(other).head(other)).model
    save_pretrained(model, tmp_path / "saved")
    assert '"decoder_start_token_id": 5' in (tmp_path / "saved" / "config.json").read_text()
