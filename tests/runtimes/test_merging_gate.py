"""Known failures of merging, each made on purpose: the gate names the edge from the adapter to the merged model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("peft", reason="needs the torch extra")

import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from compiler.methods import LoRA
from runtimes.export import Stage
from runtimes.pytorch.loading import load_source
from runtimes.pytorch.models import merge
from runtimes.pytorch.noise import float32_noise
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.scores import torch_scores
from runtimes.pytorch.stored import changes
from runtimes.rows.tokens import open_encoder
from runtimes.saved import Adapter, SavedModel
from runtimes.survival import Floats, Rounding, float32, survival
from runtimes.verification.comparison import HeldOut
from runtimes.verification.edges import Source, verify_export
from runtimes.verification.gate import Verification
from tests.runtimes.conftest import HEAD, LABELS, MAX_LENGTH, TASK, Tiny, labelled, labels_of

Weights = dict[str, Any]
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


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


def merged(base: Path, adapter: Path, out: Path) -> Path:
    """The adapter merged into a model, as a run merges it."""
    merge(base, adapter, out, HEAD)
    return out


def head_dropped(weights: Weights, base: Weights) -> Weights:
    return {name: base[name] if name.startswith("classifier") else value for name, value in weights.items()}


def not_merged(weights: Weights, base: Weights) -> Weights:
    return {name: value if name.startswith("classifier") else base[name] for name, value in weights.items()}


def one_module_left_out(weights: Weights, base: Weights) -> Weights:
    name = "bert.encoder.layer.1.attention.self.value.weight"
    return {**weights, name: base[name]}


DAMAGES: Mapping[str, Callable[[Weights, Weights], Weights]] = {
    "head dropped": head_dropped,
    "not merged": not_merged,
    "a module left out": one_module_left_out,
}


def verified(tiny: Tiny, adapter: Path, model: Path, out: Path, base: Path | None = None) -> Verification:
    trained = torch_scores(SavedModel(base or tiny.model, Adapter(adapter, LoRA())), HEAD)
    targets = labels_of(trained, tiny.texts, tiny.model)
    return verify_export(
        tiny.verify_step,
        held_out=HeldOut(task=TASK, rows=labelled(tiny.texts, targets)),
        encoder=open_encoder(tiny.model / "tokenizer.json", max_length=MAX_LENGTH),
        stages=[Stage("trained", lambda: trained), Stage("merged", lambda: torch_scores(SavedModel(model), HEAD))],
        source=Source(lambda batches: float32_noise(load_source(model), batches, HEAD)),
        out=out,
    ).verification


def test_a_merged_model_passes(tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    found = verified(tiny, adapter, merged(tiny.model, adapter, tmp_path / "model"), tmp_path / "out")
    assert found.passed, found.first_failure


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_known_failure_of_merging_is_caught(damage: str, tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    file = merged(tiny.model, adapter, tmp_path / "model") / WEIGHTS
    weights, base = load_file(file), load_file(tiny.model / WEIGHTS)
    save_file(DAMAGES[damage](weights, base), file, metadata={"format": "pt"})
    found = verified(tiny, adapter, tmp_path / "model", tmp_path / "out")
    assert not found.passed
    assert str(found.first_failure).startswith("trained -> merged: ")


def test_an_adapter_that_was_merged_twice_is_caught(tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    once = merged(tiny.model, adapter, tmp_path / "once")
    found = verified(tiny, adapter, merged(once, adapter, tmp_path / "twice"), tmp_path / "out")
    assert str(found.first_failure).startswith("trained -> merged: ")


def in_four_bits(steps: Mapping[str, float], name: str, values: Floats) -> Floats:
    """A weight on a grid of fifteen values; one without a step as it is."""
    return np.round(values / steps[name]).astype(np.float32) * np.float32(steps[name]) if name in steps else values


def rounded(folder: Path, rounding: Rounding) -> Path:
    """The model with its weights rounded."""
    weights = load_numpy(folder / WEIGHTS)
    save_numpy({name: rounding(name, value) for name, value in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    return folder


def test_an_update_that_is_lost_in_the_four_bits_of_its_base_is_caught(
    tiny: Tiny, adapter: Path, tmp_path: Path
) -> None:
    """The base lies on the grid, and no weight is moved as far as to the middle between two of its values."""
    base, small = tmp_path / "base", tmp_path / "small"
    shutil.copytree(tiny.model, base)
    matrices = {name: value for name, value in load_numpy(base / WEIGHTS).items() if "layer" in name and value.ndim > 1}
    steps = {name: float(np.abs(value).max() / 7) for name, value in matrices.items()}
    rounding = partial(in_four_bits, steps)
    rounded(base, rounding)
    shutil.copytree(adapter, small)
    updates = load_numpy(small / ADAPTER)
    scaled = {name: value * np.float32(0.01) if "lora_B" in name else value for name, value in updates.items()}
    save_numpy(scaled, small / ADAPTER, {"format": "pt"})

    whole = merged(base, small, tmp_path / "whole")
    tuned = list(changes(base, whole, {}))
    far = [np.abs(change.after - change.before).max() / steps[change.name] for change in tuned if change.name in steps]
    assert 0 < max(far) < 0.25
    left = survival(tuned, {"whole": float32, "4 bits": rounding})
    assert left["4 bits"].lost and not left["whole"].lost
    assert verified(tiny, small, whole, tmp_path / "well", base).passed

    found = verified(tiny, small, rounded(whole, rounding), tmp_path / "out", base)
    assert not found.passed
    assert str(found.first_failure).startswith("trained -> merged: ")


def test_what_the_adapter_decides_is_not_what_its_base_decides(tiny: Tiny, adapter: Path) -> None:
    """Else nothing above would say anything."""
    trained = torch_scores(SavedModel(tiny.model, Adapter(adapter, LoRA())), HEAD)
    base = torch_scores(SavedModel(tiny.model), HEAD)
    own, others = (labels_of(scores, tiny.texts, tiny.model) for scores in (trained, base))
    assert 0.1 < np.mean(own == others) < 0.9
    assert len(LABELS) == 2
