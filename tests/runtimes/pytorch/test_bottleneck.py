"""Bottleneck adapters as PEFT has them: the formula, and files that a fresh process reads."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("peft", reason="needs the torch extra")

import peft
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.pytorch_utils import Conv1D

from runtimes.pytorch.bottleneck import BottleneckConfig, BottleneckLayer
from runtimes.pytorch.quiet import quiet

PROJECT = Path(__file__).parents[3]
IDS = torch.arange(2, 14).reshape(2, 6)
# A process that knows PEFT and this module, and nothing else of ours.
READER = """
import json, sys
import peft, torch
import runtimes.pytorch.bottleneck
from transformers import AutoModelForSequenceClassification
base = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
model = peft.PeftModel.from_pretrained(base, sys.argv[2]).eval()
with torch.inference_mode():
    print(json.dumps(model(torch.arange(2, 14).reshape(2, 6)).logits.tolist()))
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A classifier with two labels."""
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    with quiet():
        model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=24, initializer_range=0.2))
        model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path, **changes: Any) -> Any:
    """A classifier with adapters after its feed-forwards, all of whose values are drawn."""
    settings = {"target_modules": ["1.output.dense", "0.output.dense"], "modules_to_save": ["classifier"]}
    with quiet():
        model = BertForSequenceClassification.from_pretrained(base)
        wrapped = peft.get_peft_model(model, BottleneckConfig(**{**settings, "reduction_factor": 4, **changes}))
    return wrapped.eval()


def shaken(model: Any) -> Any:
    """The model with other values in what is trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def logits(model: Any) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(IDS).logits.numpy()
    return found


def layer(function: str, base: nn.Module | None = None) -> BottleneckLayer:
    torch.manual_seed(0)
    config = BottleneckConfig(target_modules=["x"], reduction_factor=2, non_linearity=function)
    made = BottleneckLayer(base or nn.Linear(3, 8), "default", config)
    shaken(made)
    return made.eval()


FORMULAS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
    "swish": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
}


@pytest.mark.parametrize("function", FORMULAS)
@pytest.mark.parametrize("projection", [nn.Linear, Conv1D], ids=["Linear", "Conv1D"])
def test_a_projection_s_output_goes_down_through_a_function_and_up(function: str, projection: Any) -> None:
    base: nn.Module = nn.Linear(3, 8) if projection is nn.Linear else Conv1D(8, 3)
    found, x = layer(function, base), torch.randn(5, 3)
    down, up = (cast(nn.Linear, part["default"]) for part in (found.bottleneck_down, found.bottleneck_up))
    assert (down.weight.shape, up.weight.shape) == ((4, 8), (8, 4))
    with torch.inference_mode():
        y = base(x).numpy()
        below = y @ down.weight.numpy().T + down.bias.numpy()
        expected = y + np.vectorize(FORMULAS[function])(below) @ up.weight.numpy().T
        np.testing.assert_allclose(found(x).numpy(), expected + up.bias.numpy(), atol=1e-6)


def test_a_model_begins_as_it_was(base: Path) -> None:
    model = adapted(base)
    with model.disable_adapter():
        before = logits(model)
    np.testing.assert_array_equal(logits(model), before)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert all("bottleneck_" in name or "modules_to_save" in name for name in trained)
    assert len(trained) == 2 * 4 + 2


def test_adapters_can_be_switched_off_added_and_taken_out(base: Path) -> None:
    with quiet():
        plain = BertForSequenceClassification.from_pretrained(base).eval()
    model = shaken(adapted(base, modules_to_save=None))
    assert np.abs(logits(model) - logits(plain)).max() > 0.01
    with model.disable_adapter():
        np.testing.assert_array_equal(logits(model), logits(plain))
    config = BottleneckConfig(target_modules=["1.output.dense"], reduction_factor=8)
    model.add_adapter("second", config)
    model.set_adapter("second")
    np.testing.assert_array_equal(logits(model), logits(plain))
    np.testing.assert_array_equal(logits(model.unload()), logits(plain))


def test_merging_is_refused(base: Path) -> None:
    with pytest.raises(ValueError, match="can't be merged into their base: they are not linear"):
        adapted(base).merge_and_unload()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["LayerNorm"]}, "stand after linear modules, not after LayerNorm"),
        ({"reduction_factor": 17}, "17 times narrower than 16 outputs has no unit"),
        ({"non_linearity": "sine"}, "non_linearity is one of gelu, relu, swish, tanh, not sine"),
    ],
)
def test_what_can_t_be_is_said(base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapted(base, **changes)


@pytest.mark.slow
def test_a_fresh_process_loads_the_folder_and_answers_the_same(base: Path, tmp_path: Path) -> None:
    model = shaken(adapted(base, non_linearity="swish"))
    model.save_pretrained(tmp_path / "adapter")
    settings = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, str(base), str(tmp_path / "adapter")],
        capture_output=True,
        text=True,
        env=settings,
        check=True,
    )
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), logits(model), atol=1e-6)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["peft_type"], written["non_linearity"], written["reduction_factor"]) == ("BOTTLENECK", "swish", 4)
