"""Adapters of every kind: what is saved loads in a process of PEFT alone, and merged models answer as adapters do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file

from compiler.driver import compile_recipe
from compiler.loading import load
from compiler.placement import parse_target
from compiler.plan import Train
from runtimes.backends import backend
from runtimes.errors import RunError
from runtimes.protocol import Batch
from runtimes.pytorch.backend import load_engine
from runtimes.pytorch.engine import TorchEngine
from runtimes.pytorch.methods import layer_norm
from runtimes.rows.features import Features
from runtimes.saved import SavedModel, trained_model
from tests.conformance.engines import do_step, micro_batches, prepared, unpacked
from tests.conformance.subjects import CAUSAL, FACTS, Project, Subject, write
from tests.runtimes.tiny import placed

STEPS = 4
# Float32 sums in another order, over values near one.
TOLERANCE = 2e-6
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 4},
    "stabilized": {"type": "lora", "rank": 4, "rank_stabilized": True, "initialization": "gaussian"},
    "orthogonal": {"type": "lora", "rank": 4, "initialization": "orthogonal", "target_modules": "all-linear"},
    "dora": {"type": "dora", "rank": 4},
    "dora-orthogonal": {"type": "dora", "rank": 4, "initialization": "orthogonal"},
    "ia3": {"type": "ia3"},
    "layer-norm": {"type": "layer-norm"},
    "adalora": {"type": "adalora", "initial_rank": 4, "target_rank": 2, "interval": 3},
}
SUBJECTS = {
    "bert": Subject(task="text-classification", loss="cross-entropy", method="lora", encoder="bert"),
    "llama": Subject(task="text-generation", loss="cross-entropy", method="lora", encoder="llama", stored=CAUSAL),
}
SAVED = {"bert": ["word_embeddings", "pooler"], "llama": ["model.norm"]}
LOAD = """
import json, sys
import numpy, torch, transformers
from peft import PeftModel
base, adapter, auto_class, batch, out = sys.argv[1:]
model = getattr(transformers, auto_class).from_pretrained(base, dtype=torch.float32, **json.load(sys.stdin))
model = PeftModel.from_pretrained(model, adapter).eval()
inputs = {name: torch.from_numpy(value).long() for name, value in numpy.load(batch).items()}
with torch.inference_mode():
    numpy.save(out, model(**inputs).logits.numpy())
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=SUBJECTS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return write(SUBJECTS[request.param], tmp_path_factory.mktemp(request.param) / "project")


@pytest.fixture(scope="module")
def rows(project: Project) -> Features:
    return prepared(project)


def step_of(project: Project, method: dict[str, Any]) -> Train:
    """The project's train step with another method, as the compiler resolves it."""
    recipe = json.loads((project.folder / "recipe.json").read_text(encoding="utf-8"))
    place = project.folder / "varied.json"
    place.write_text(json.dumps({**recipe, "method": method, "runtime": "pytorch"}), encoding="utf-8")
    step = compile_recipe(load(place), FACTS, parse_target("cpu")).plan.step("train")
    assert isinstance(step, Train)
    return step


def trained(project: Project, rows: Features, method: dict[str, Any], folder: Path) -> tuple[Train, TorchEngine]:
    """An engine after some steps, and what it left in folder/adapter."""
    step = step_of(project, method)
    engine = load_engine(step, project.model, folder / "init.safetensors", placed())
    for number in range(STEPS):
        do_step(engine, rows, step, number, 1e-2)
    (folder / "adapter").mkdir()
    engine.save_model(folder / "adapter")
    return step, engine


def batch_of(rows: Features, step: Train) -> Batch:
    return unpacked(micro_batches(rows, step, 0)[0])


def kind_of(project: Project) -> str:
    """Which of SUBJECTS a project is."""
    return str(json.loads((project.model / "config.json").read_text(encoding="utf-8"))["model_type"])


@pytest.mark.parametrize("name", METHODS)
def test_merged_and_loaded_adapters_answer_as_what_was_trained(
    project: Project, rows: Features, name: str, tmp_path: Path
) -> None:
    """With modules saved beside: in the base + adapter, in the merged model, and in a process with PEFT alone."""
    kind = kind_of(project)
    whole = [] if name == "layer-norm" else SAVED[kind]
    saved = [module for module in whole if not (module == "pooler" and "all-linear" in METHODS[name].values())]
    step, engine = trained(project, rows, {**METHODS[name], "modules_to_save": saved}, tmp_path)
    batch = batch_of(rows, step)
    own = engine.evaluate(batch).outputs[batch.positions]
    base = backend("pytorch").scores(step.task, SavedModel(project.model), "cpu") if kind == "llama" else None
    adapter = backend("pytorch").scores(step.task, trained_model(step, tmp_path, project.model), "cpu")
    (tmp_path / "merged").mkdir()
    backend("pytorch").merge(step, project.model, tmp_path / "adapter", tmp_path / "merged")
    merged = backend("pytorch").scores(step.task, SavedModel(tmp_path / "merged"), "cpu")
    for scores in (adapter, merged):
        assert np.abs(scores(batch)[batch.positions] - own).max() < TOLERANCE * max(1.0, float(np.abs(own).max()))
    if base is not None:
        assert np.abs(base(batch)[batch.positions] - own).max() > 1e-3, "who does not move is equal to anybody"
    assert same_in_peft_alone(project, step, batch, tmp_path)


def same_in_peft_alone(project: Project, step: Train, batch: Batch, folder: Path) -> bool:
    """Whether a fresh process with transformers and PEFT has the logits of the merged model."""
    import transformers

    from runtimes import tasks

    head = tasks.module_of(step.task).head(step.task)
    inputs = {
        name: np.asarray(value) for name, value in batch.inputs.items() if name in {"input_ids", "attention_mask"}
    }
    np.savez(folder / "batch.npz", **inputs)  # type: ignore[arg-type]
    given = [str(project.model), str(folder / "adapter"), head.auto_class, str(folder / "batch.npz")]
    config = json.dumps({**head.config})
    arguments = [sys.executable, "-c", LOAD, *given, str(folder / "logits.npy")]
    subprocess.run(arguments, input=config, text=True, check=True, capture_output=True)
    model = getattr(transformers, head.auto_class).from_pretrained(folder / "merged", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(value).long() for name, value in inputs.items()}).logits.numpy()
    seen = inputs["attention_mask"].astype(bool) if expected.ndim == 3 else slice(None)
    found = np.load(folder / "logits.npy")
    return bool(np.abs(found - expected)[seen].max() < TOLERANCE * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("name", METHODS)
def test_a_training_resumes_to_the_bit(project: Project, rows: Features, name: str, tmp_path: Path) -> None:
    step = step_of(project, METHODS[name])

    def engine() -> TorchEngine:
        return load_engine(step, project.model, tmp_path / "init.safetensors", placed())

    first = engine()
    for number in range(2):
        do_step(first, rows, step, number, 1e-2)
    first.save_state(tmp_path)
    second = engine()
    second.load_state(tmp_path)
    for subject in (first, second):
        do_step(subject, rows, step, 2, 1e-2)
    for subject, place in ((first, tmp_path / "a"), (second, tmp_path / "b")):
        place.mkdir()
        subject.save_state(place)
    assert (tmp_path / "a" / "state.safetensors").read_bytes() == (tmp_path / "b" / "state.safetensors").read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_the_first_answers_are_the_base_s(project: Project, rows: Features, name: str, tmp_path: Path) -> None:
    """An update is nothing at first; orthogonal ones but for rounding."""
    step = step_of(project, METHODS[name])
    engine = load_engine(step, project.model, tmp_path / "init.safetensors", placed())
    plain = step_of(project, {"type": "full"})
    head = load_engine(plain, project.model, tmp_path / "full.safetensors", placed())
    batch = batch_of(rows, step)
    expected = head.evaluate(batch).outputs[batch.positions]
    assert np.abs(engine.evaluate(batch).outputs[batch.positions] - expected).max() < 1e-5


def test_orthogonal_factors_have_no_product_and_dora_s_lengths_are_the_base_s(project: Project, tmp_path: Path) -> None:
    method = {"type": "dora", "rank": 4, "initialization": "orthogonal"}
    engine = load_engine(step_of(project, method), project.model, tmp_path / "init.safetensors", placed())
    values = load_file(tmp_path / "init.safetensors")
    layers = [name.removesuffix(".lora_A.default.weight") for name in values if "lora_A" in name]
    assert layers
    for layer in layers:
        up, down = values[f"{layer}.lora_B.default.weight"], values[f"{layer}.lora_A.default.weight"]
        assert np.abs(up @ down).max() < 1e-6 * np.abs(up).max()
        assert min(np.abs(up).max(), np.abs(down).max()) > 1e-3
        weight = engine.model.get_parameter(f"{layer}.base_layer.weight").detach().double()
        lengths = values[f"{layer}.lora_magnitude_vector.default.weight"]
        assert lengths == pytest.approx(weight.square().sum(1).sqrt().numpy(), rel=1e-6)


def test_an_adapter_says_what_it_is(project: Project, rows: Features, tmp_path: Path) -> None:
    trained(project, rows, METHODS["stabilized"], tmp_path)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (written["use_rslora"], written["init_lora_weights"], written["r"]) == (True, "gaussian", 4)
    assert written["lora_alpha"] == 4.0  # twice the root of the rank


def test_a_copy_of_tied_embeddings_is_refused(tmp_path: Path) -> None:
    from tests.tiny import save_decoder

    save_decoder(tmp_path / "tied")
    project = write(SUBJECTS["llama"], tmp_path / "project")
    step = step_of(project, {"type": "lora", "modules_to_save": ["embed_tokens"]})
    with pytest.raises(RunError) as caught:
        load_engine(step, tmp_path / "tied", tmp_path / "init.safetensors", placed())
    assert caught.value.code == "E406"
    assert "is the weight of lm_head.weight as well" in caught.value.message


def test_a_pattern_with_a_star_updates_only_what_it_means(project: Project, tmp_path: Path) -> None:
    pattern = "layer.0.*.self.query" if kind_of(project) == "bert" else "layers.0.*.q_proj"
    step = step_of(project, {"type": "lora", "rank": 2, "target_modules": [pattern]})
    engine = load_engine(step, project.model, tmp_path / "init.safetensors", placed())
    [name] = [name for name in engine.trained if "lora_A" in name]
    assert ".0." in name


def test_what_scales_a_layer_does_not_decay(project: Project, tmp_path: Path) -> None:
    """It would come near zero, where the layer says nothing; rows and columns are no matrices."""
    engine = load_engine(step_of(project, METHODS["ia3"]), project.model, tmp_path / "init.safetensors", placed())
    decays = {id(value): group["weight_decay"] for group in engine.optimizer.param_groups for value in group["params"]}
    scales = [decays[id(value)] for name, value in engine.trained.items() if "ia3_l" in name]
    assert set(scales) == {0.0}


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.BatchNorm2d(4),
        torch.nn.PReLU(4),
        torch.nn.Linear(4, 4),
        torch.nn.LayerNorm(4, elementwise_affine=False),
    ],
)
def test_layer_norm_finds_no_norm_in_what_only_looks_like_one(module: torch.nn.Module) -> None:
    assert not layer_norm.is_norm(module)


@pytest.mark.parametrize("module", [torch.nn.LayerNorm(4), torch.nn.RMSNorm(4), torch.nn.GroupNorm(2, 4)])
def test_layer_norm_finds_norms_of_single_rows(module: torch.nn.Module) -> None:
    assert layer_norm.is_norm(module)
