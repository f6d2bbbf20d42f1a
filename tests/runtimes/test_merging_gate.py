"""Known failures of merging, each made on purpose: the gate names the edge from the adapter to the merged model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("peft", reason="needs the torch extra")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from compiler.methods import LoRA
from runtimes.comparison import HeldOut
from runtimes.export import Stage
from runtimes.gate import Verification
from runtimes.pytorch.loading import load_source
from runtimes.pytorch.noise import float32_noise
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.scores import torch_scores
from runtimes.saved import Adapter, SavedModel
from runtimes.tokens import open_encoder
from runtimes.verify import verify_export
from tests.runtimes.conftest import HEAD, LABELS, MAX_LENGTH, TASK, Tiny, labelled, labels_of

Weights = dict[str, Any]


@pytest.fixture(scope="module")
def adapter(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Updates and a head of their own beside the tiny model."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    configuration = LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(tiny.model, dtype=torch.float32)
        wrapped = get_peft_model(base, configuration)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=1.0 if "classifier" in name else 0.2)
        wrapped.save_pretrained(str(folder))
    return folder


def merged(tiny: Tiny, adapter: Path, out: Path, times: int = 1) -> Path:
    """The adapter merged into its base, once or more often."""
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(tiny.model, dtype=torch.float32)
        for _ in range(times):
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        model.save_pretrained(out)
    return out


def head_dropped(weights: Weights, base: Weights) -> Weights:
    return {name: base[name] if name.startswith("classifier") else value for name, value in weights.items()}


def not_merged(weights: Weights, base: Weights) -> Weights:
    return {name: value if name.startswith("classifier") else base[name] for name, value in weights.items()}


def one_module_left_out(weights: Weights, base: Weights) -> Weights:
    name = "bert.encoder.layer.1.attention.self.value.weight"
    return {**weights, name: base[name]}


def base_in_few_bits(weights: Weights, base: Weights) -> Weights:
    """The update lost in a base of four bits: merged, and rounded to where the base's codes lie."""
    step = {name: value.abs().max() / 7 for name, value in base.items()}
    return {
        name: (value / step[name]).round() * step[name] if "layer" in name and value.ndim == 2 else value
        for name, value in weights.items()
    }


DAMAGES: Mapping[str, Callable[[Weights, Weights], Weights]] = {
    "head dropped": head_dropped,
    "not merged": not_merged,
    "a module left out": one_module_left_out,
    "update lost in four bits": base_in_few_bits,
}


def verified(tiny: Tiny, adapter: Path, model: Path, out: Path) -> Verification:
    trained = torch_scores(SavedModel(tiny.model, Adapter(adapter, LoRA())), HEAD)
    targets = labels_of(trained, tiny.texts, tiny.model)
    return verify_export(
        tiny.verify_step,
        held_out=HeldOut(task=TASK, rows=labelled(tiny.texts, targets)),
        encoder=open_encoder(tiny.model / "tokenizer.json", max_length=MAX_LENGTH),
        stages=[Stage("trained", lambda: trained), Stage("merged", lambda: torch_scores(SavedModel(model), HEAD))],
        noise=lambda batches: float32_noise(load_source(model), batches, HEAD),
        out=out,
    ).verification


def test_a_merged_model_passes(tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    found = verified(tiny, adapter, merged(tiny, adapter, tmp_path / "model"), tmp_path / "out")
    assert found.passed, found.first_failure


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_known_failure_of_merging_is_caught(damage: str, tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    file = merged(tiny, adapter, tmp_path / "model") / "model.safetensors"
    weights, base = load_file(file), load_file(tiny.model / "model.safetensors")
    save_file(DAMAGES[damage](weights, base), file, metadata={"format": "pt"})
    found = verified(tiny, adapter, tmp_path / "model", tmp_path / "out")
    assert not found.passed
    assert str(found.first_failure).startswith("trained -> merged: ")


def test_an_adapter_that_was_merged_twice_is_caught(tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    found = verified(tiny, adapter, merged(tiny, adapter, tmp_path / "model", times=2), tmp_path / "out")
    assert str(found.first_failure).startswith("trained -> merged: ")


def test_what_the_adapter_decides_is_not_what_its_base_decides(tiny: Tiny, adapter: Path) -> None:
    """Else nothing above would say anything."""
    trained = torch_scores(SavedModel(tiny.model, Adapter(adapter, LoRA())), HEAD)
    base = torch_scores(SavedModel(tiny.model), HEAD)
    own, others = (labels_of(scores, tiny.texts, tiny.model) for scores in (trained, base))
    assert 0.1 < np.mean(own == others) < 0.9
    assert len(LABELS) == 2
