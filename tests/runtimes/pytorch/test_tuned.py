"""What a plan says is tuned is what the engine trains below the head: for every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("peft", reason="needs the torch extra")

from compiler import methods
from compiler.facts import ModelFacts
from compiler.hub import open_model
from compiler.layers import layers_of
from compiler.methods import Adapter, BitFit, Freeze, Method
from compiler.model_facts import model_facts
from compiler.tasks import ContinuedPretraining, ImageClassification, Task, TextClassification, TextToText
from compiler.weights import is_above_layers
from runtimes import tasks
from runtimes.pytorch.methods import module_of
from runtimes.pytorch.models import load_pretrained
from tests.conformance.subjects import (
    CAUSAL,
    DECODERS,
    ENCODER_DECODERS,
    ENCODERS,
    FACTS,
    LABELS,
    SEQUENCE,
    VISION,
    save_model,
)

# Architecture -> how it is stored here, and a task for it.
MODELS: dict[str, tuple[str, Task]] = {
    **dict.fromkeys(ENCODERS, ("bare", TextClassification(labels=LABELS))),
    **dict.fromkeys(VISION, ("bare", ImageClassification(labels=LABELS))),
    **dict.fromkeys(DECODERS, (CAUSAL, ContinuedPretraining(objective="causal"))),
    **dict.fromkeys(ENCODER_DECODERS, (SEQUENCE, TextToText())),
}
WITHOUT_BIASES = ("modernbert", "llama", "qwen3", "t5")
LINEAR = [name for name in MODELS if name != "resnet"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where a tiny model of an architecture is, made once."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            save_model(root / name, name, MODELS[name][0])
        return root / name

    return folder


def facts(folder: Path) -> ModelFacts:
    return model_facts(open_model(str(folder), None, folder.parent, FACTS.sources))


def planned(folder: Path, method: Method) -> tuple[Method, int]:
    """The resolved method, and how many parameters it trains below the head."""
    model = facts(folder)
    module = methods.module_of(method)
    found, _ = module.resolve(method, model)
    count = module.tuned(found, model).parameters
    assert count is not None
    return found, count


def trained(folder: Path, task: Task, method: Method) -> int:
    """How many parameters the wrapped model trains below its head, as its files name them."""
    head = tasks.module_of(task).head(task)
    loaded = load_pretrained(folder, head)
    beside = () if head.pretrained and methods.module_of(method).SAVES == "adapter" else loaded.head
    model = module_of(method.type).wrap(loaded.model, beside, method, head.peft_task, "tiny")
    tops = tuple(f"{top}." for top in loaded.head)
    inner = {name.removeprefix("base_model.model."): value for name, value in model.named_parameters()}
    below = [name for name in inner if not is_above_layers(name) and not name.startswith(tops)]
    return sum(inner[name].numel() for name in below if inner[name].requires_grad)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("name", LINEAR)
def test_adapters(folders: Any, name: str, placement: Any) -> None:
    method, count = planned(folders(name), Adapter(placement=placement, reduction_factor=4))
    assert count > 0
    assert trained(folders(name), MODELS[name][1], method) == count


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT_BIASES])
def test_biases(folders: Any, name: str) -> None:
    method, count = planned(folders(name), BitFit())
    assert count > 0
    assert trained(folders(name), MODELS[name][1], method) == count


@pytest.mark.parametrize("name", WITHOUT_BIASES)
def test_a_model_without_biases_has_none_to_train(folders: Any, name: str) -> None:
    assert planned(folders(name), BitFit())[1] == 0


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_layers_that_are_left(folders: Any, name: str, embeddings: bool) -> None:
    total = facts(folders(name)).num_layers
    for last in range(1, total + 1):
        method, count = planned(folders(name), Freeze(last=last, embeddings=embeddings))
        assert method == Freeze(layers=total - last, embeddings=embeddings)
        assert trained(folders(name), MODELS[name][1], method) == count


# Of the tiny models: an encoder's and a decoder's layers together, stages, layers that share their weights.
NUM_LAYERS = {
    "bert": 2,
    "albert": 1,
    "modernbert": 3,
    "llama": 2,
    "t5": 4,
    "bart": 4,
    "encoder-decoder": 4,
    "resnet": 2,
}


@pytest.mark.parametrize("name", NUM_LAYERS)
def test_a_layer_is_what_the_first_number_counts(folders: Any, name: str) -> None:
    model = facts(folders(name))
    assert model.num_layers == NUM_LAYERS[name] == len({*layers_of(model.shapes).values()})
