# Axes: B = rows, T = tokens

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("peft", reason="needs the torch extra")

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from compiler.methods import LoRA
from runtimes.protocol import Batch
from runtimes.pytorch.loading import SourceError
from runtimes.pytorch.precision import exact_float32
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.scores import torch_scores
from runtimes.saved import Adapter, SavedModel
from runtimes.tasks import module_of
from tests.runtimes.tiny import TASK, batch_of

HEAD = module_of(TASK).head(TASK)  # three classes

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


@pytest.fixture
def batch() -> Batch:
    """Three rows of 3, 6 and 9 tokens."""
    mask_BT = (np.arange(9) < np.array([[3], [6], [9]])).astype(np.int64)
    ids_BT = np.random.default_rng(0).integers(1, 50, (3, 9)) * mask_BT
    return batch_of({"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": np.zeros_like(ids_BT)})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An encoder without a head."""
    torch.manual_seed(0)
    with quiet():
        BertModel(BertConfig(**SIZES, initializer_range=0.2)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def tune(base: Path, *, saved: list[str]):
    """A LoRA model whose updates are not zero, with a head of three classes."""
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, dtype=torch.float32)
        wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=saved))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return wrapped.eval()


def logits(model, batch: Batch) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(
            **{name: torch.from_numpy(values) for name, values in batch.inputs.items()}
        ).logits.numpy()
    return found


def test_an_adapter_on_its_base_scores_as_the_model_that_was_saved(base: Path, batch: Batch, tmp_path: Path) -> None:
    model = tune(base, saved=["classifier"])
    with quiet():
        model.save_pretrained(tmp_path / "adapter")
    found = torch_scores(SavedModel(base, Adapter(tmp_path / "adapter", LoRA())), HEAD)(batch)
    assert found.shape == (3, 3)
    assert np.abs(found - logits(model, batch)).max() < 1e-6


def test_a_merged_model_scores_as_its_adapter(base: Path, batch: Batch, tmp_path: Path) -> None:
    model = tune(base, saved=["classifier"])
    with quiet():
        model.save_pretrained(tmp_path / "adapter")
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
    adapter = torch_scores(SavedModel(base, Adapter(tmp_path / "adapter", LoRA())), HEAD)(batch)
    assert (
        np.abs(torch_scores(SavedModel(tmp_path / "merged"), HEAD)(batch) - adapter).max() < 1e-5
    )  # W + BA is rounded once


def test_an_adapter_without_its_head_is_refused_rather_than_scored_at_random(base: Path, tmp_path: Path) -> None:
    with quiet():
        tune(base, saved=[]).save_pretrained(tmp_path / "adapter")
    with pytest.raises(SourceError, match=r"classifier\.bias, classifier\.weight are neither in"):
        torch_scores(SavedModel(base, Adapter(tmp_path / "adapter", LoRA())), HEAD)


def test_a_folder_without_an_adapter_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not an adapter"):
        torch_scores(SavedModel(base, Adapter(tmp_path, LoRA())), HEAD)


def test_arrays_that_a_model_does_not_take_are_left_out(batch: Batch, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    with quiet():
        DistilBertForSequenceClassification(DistilBertConfig(**sizes)).save_pretrained(tmp_path)
    assert torch_scores(SavedModel(tmp_path), HEAD)(batch).shape == (3, 2)


def test_the_process_gets_its_own_precision_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with exact_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
