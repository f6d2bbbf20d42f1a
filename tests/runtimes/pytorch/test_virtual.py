"""Virtual tokens: what is saved is PEFT's, decoders begin from what PEFT computes, and training goes on exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch

from compiler.plan import Train
from runtimes import tasks
from runtimes.backends import backend
from runtimes.errors import RunError
from runtimes.generation.decoding import Decoder, forced, generate, scored
from runtimes.generation.virtual import VirtualCache, read_virtual, write_virtual
from runtimes.protocol import Batch
from runtimes.pytorch.loading import load_saved
from runtimes.pytorch.virtual import VirtualModel, virtual_cache
from runtimes.rows.batches import collate
from runtimes.rows.features import Features
from runtimes.saved import SavedModel, trained_folder, trained_model
from tests.conformance import engines, subjects
from tests.conformance.subjects import CAUSAL, SEQUENCE, Subject, loss_names, write
from tests.runtimes.tiny import placed

PROJECTED = {"type": "prefix", "num_virtual_tokens": 3, "projection": True, "hidden_size": 5}
CASES = [
    ("text-classification", "prompt", "bert", "bare"),
    ("text-classification", "p-tuning", "distilbert", "bare"),
    ("text-classification", "prefix", "roberta", "bare"),
    ("text-classification", "prefix", "llama", CAUSAL),
    ("token-classification", "prompt", "albert", "bare"),
    ("question-answering", "prompt", "bert", "bare"),
    ("continued-pretraining", "prompt", "modernbert", "masked-lm"),
    ("text-to-text", "prompt", "t5", SEQUENCE),
    ("text-to-text", "p-tuning", "bart", SEQUENCE),
    ("text-to-text", "prompt", "encoder-decoder", SEQUENCE),
    ("text-generation", "p-tuning", "gpt2", CAUSAL),
    ("text-generation", "prefix", "qwen3", CAUSAL),
    ("text-generation", "projected", "llama", CAUSAL),
]
DECODERS = [case for case in CASES if case[0] == "text-generation"]
# What anybody does who is given the two folders.
PLAIN = """
import json, sys
import numpy as np, torch, transformers
from peft import PeftModel
for asked in json.load(sys.stdin):
    base = getattr(transformers, asked["auto_class"]).from_pretrained(asked["base"], **asked["config"])
    model = PeftModel.from_pretrained(base, asked["adapter"]).eval()
    given = {name: torch.tensor(values) for name, values in asked["inputs"].items()}
    with torch.inference_mode():
        found = model(**given)
    np.save(asked["out"], np.stack([found[name].numpy() for name in asked["results"]], axis=-1))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A model after a few steps, as it was saved."""

    step: Train
    base: Path
    saved: SavedModel
    rows: Features

    @property
    def batch(self) -> Batch:
        """Rows of several lengths."""
        return collate(self.rows, np.arange(4), grid=())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A case, tuned on PyTorch; each once."""
    known: dict[tuple[str, ...], Tuned] = {}

    def of(task: str, method: str, encoder: str, stored: str) -> Tuned:
        case = (task, method, encoder, stored)
        if case not in known:
            known[case] = tune(*case, tmp_path_factory.mktemp("tuned"))
        return known[case]

    return of


def tune(task: str, method: str, encoder: str, stored: str, folder: Path) -> Tuned:
    subject = Subject(task=task, loss=loss_names(task)[0], method=method, encoder=encoder, stored=stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(subjects._METHODS, "projected", PROJECTED)
        patch.setattr(subjects, "runtimes_of", lambda method: ("pytorch", "mlx"))
        project = write(subject, folder)
    step, rows = engines.train_step(project), engines.prepared(project)
    engine = backend("pytorch").load_engine(step, project.model, folder / "init.safetensors", placed("pytorch"))
    for number in range(5):
        engines.do_step(engine, rows, step, number, 1e-2)
    adapter = folder / "trained" / trained_folder(step)
    adapter.mkdir(parents=True)
    engine.save_model(adapter)
    return Tuned(step=step, base=project.model, saved=trained_model(step, folder / "trained", project.model), rows=rows)


# what is saved


@pytest.fixture(scope="module")
def plain(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], np.ndarray]:
    """What PEFT answers for each case, in a process that knows nothing of us."""
    folder = tmp_path_factory.mktemp("plain")
    asked = [question(tuned(*case), folder / f"{number}.npy") for number, case in enumerate(CASES)]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        check=False,
        capture_output=True,
        text=True,
        input=json.dumps(asked),
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {case: np.load(folder / f"{number}.npy") for number, case in enumerate(CASES)}


def given(model: Tuned) -> dict[str, np.ndarray]:
    """What a model is asked: of two texts also which is which."""
    others = {"question-answering": ["token_type_ids"], "text-to-text": ["decoder_input_ids"]}
    names = ("input_ids", "attention_mask", *others.get(model.step.task.type, []))
    return {name: model.batch.inputs[name] for name in names}


def question(model: Tuned, out: Path) -> dict[str, Any]:
    head = tasks.module_of(model.step.task).head(model.step.task)
    assert model.saved.adapter is not None
    return {
        "auto_class": head.auto_class,
        "config": {name: value for name, value in head.config.items() if name != "label2id"},
        "base": str(model.base),
        "adapter": str(model.saved.adapter.folder),
        "inputs": {name: values.tolist() for name, values in given(model).items()},
        "results": head.results,
        "out": str(out),
    }


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_peft_loads_the_folder_in_a_fresh_process_and_answers_the_same(tuned: Any, plain: Any, case: Any) -> None:
    """Of positions that are padding, answers are anybody's. PEFT answers for virtual tokens too, before the rows'."""
    model, expected = tuned(*case), plain[case]
    head, inputs = tasks.module_of(model.step.task).head(model.step.task), given(model)
    with torch.inference_mode():
        loaded: Any = load_saved(model.saved, head)
        found = loaded(**{name: torch.tensor(values) for name, values in inputs.items()})
        ours = np.stack([found[name].numpy() for name in head.results], axis=-1)
    if model.step.task.type != "text-classification":
        real = model.batch.positions if "decoder_input_ids" in inputs else inputs["attention_mask"] == 1
        expected, ours = expected[:, -real.shape[1] :][real], ours[real]
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_an_adapter_holds_what_a_network_makes_and_not_the_network(tuned: Any) -> None:
    from safetensors.numpy import load_file

    model: Tuned = tuned("text-classification", "p-tuning", "distilbert", "bare")
    assert model.saved.adapter is not None
    names = {*load_file(model.saved.adapter.folder / "adapter_model.safetensors")}
    assert "prompt_embeddings" in names
    assert not [name for name in names if "mlp_head" in name]


@pytest.mark.parametrize("kind", ["bert", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "roberta"])
@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification"])
def test_every_encoder_that_is_given_a_prefix_looks_at_it_and_not_at_padding(kind: str, head: str) -> None:
    """xlm-roberta is roberta's own class under another name."""
    import transformers

    from compiler.methods import Prefix
    from compiler.methods.prefix import _ENCODERS
    from runtimes.pytorch.methods import prefix
    from runtimes.pytorch.quiet import quiet

    assert kind in _ENCODERS
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 16,
    }
    with quiet():
        create: Any = transformers.CONFIG_MAPPING[kind]
        config = create(
            **sizes, vocab_size=40, max_position_embeddings=40, pad_token_id=1, embedding_size=16, initializer_range=0.5
        )
        torch.manual_seed(0)
        bare: Any = getattr(transformers, f"AutoModelFor{head}").from_config(config).eval()
    task = {"SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS"}[head]
    model = prefix.wrap(bare, ("classifier",), Prefix(num_virtual_tokens=3), task, "tiny").eval()
    ids, mask = torch.tensor([[5, 6, 7, 1], [8, 9, 10, 11]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])

    def answers(ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits if logits.ndim == 2 else logits[:, :3]

    before = answers(ids)
    other = ids.clone()
    other[0, 3] = 12
    torch.testing.assert_close(answers(other), before)
    with torch.no_grad():
        model.get_parameter("prompt_encoder.default.embedding.weight").normal_()
    assert (answers(ids) - before).abs().min() > 1e-4


# decoders


def decoders(model: Tuned, folder: Path) -> dict[str, Decoder[Any]]:
    """The decoder of each runtime that is here."""
    from compiler.checks import resolved_export
    from compiler.recipe import Onnx
    from runtimes.pytorch import onnx_format

    export = resolved_export(Onnx())
    assert isinstance(export, Onnx)
    onnx_format.write(export, model.step.task, model.saved, folder)
    [stage] = onnx_format.stages(export, model.step.task, model.saved, folder, "cpu")
    assert stage.decoder is not None
    found = {"pytorch": backend("pytorch").decoder(model.step.task, model.saved, "cpu"), "onnx": stage.decoder()}
    try:
        return found | {"mlx": backend("mlx").decoder(model.step.task, model.saved, "cpu")}
    except ImportError:
        return found


@pytest.mark.parametrize("case", DECODERS, ids="-".join)
def test_every_decoder_begins_from_what_peft_computes(tuned: Any, case: Any, tmp_path: Path) -> None:
    """Prompts are padded on the left, answers are forced token by token; PEFT reads each whole row, alone."""
    from compiler.generation import Generation

    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    model: Tuned = tuned(*case)
    peft_model: Any = load_saved(model.saved, tasks.module_of(model.step.task).head(model.step.task))

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            rows = [
                peft_model(input_ids=torch.tensor(row[seen == 1][None])).logits[0]
                for row, seen in zip(ids, mask, strict=True)
            ]
        whole = np.zeros((*ids.shape, rows[0].shape[-1]), np.float32)
        for place, row in enumerate(rows):
            whole[place, ids.shape[1] - len(row) :] = row.numpy()
        return whole

    prompts, answers = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]], [[15, 16], [17, 18, 19], [20]]
    expected = scored(logits, prompts, answers, pad_id=0)
    for name, decoder in decoders(model, tmp_path).items():
        found = forced(decoder, prompts, answers, pad_id=0)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5, err_msg=name)
        written = generate(decoder, prompts, Generation(max_new_tokens=60), eos_ids=(3,), pad_id=0)
        assert decoder.max_positions is not None
        assert max(len(prompt) + len(text.ids) for prompt, text in zip(prompts, written, strict=True)) <= 61
        assert decoder.max_positions == 64 - model.step.method.num_virtual_tokens, name  # type: ignore[union-attr]


def test_what_a_decoder_begins_from_is_checked_when_it_is_read(tuned: Any, tmp_path: Path) -> None:
    model: Tuned = tuned("text-generation", "prefix", "qwen3", CAUSAL)
    loaded: Any = load_saved(model.saved, tasks.module_of(model.step.task).head(model.step.task))
    assert isinstance(loaded, VirtualModel)
    cache, file = virtual_cache(loaded), tmp_path / "cache.npz"
    sizes = [tuple((array.shape[1], array.shape[3]) for array in layer) for layer in cache.layers]
    assert read_virtual(file, sizes) == VirtualCache()  # type: ignore[arg-type]  # pairs
    write_virtual(cache, file)
    first = file.read_bytes()
    write_virtual(cache, file)
    assert file.read_bytes() == first
    again = read_virtual(file, sizes)  # type: ignore[arg-type]  # pairs
    assert len(again.layers) == len(cache.layers)
    for one, two in zip(again.layers, cache.layers, strict=True):
        np.testing.assert_array_equal(np.stack(one), np.stack(two))
    with pytest.raises(ValueError, match="has not the keys and values of 1 layers"):
        read_virtual(file, sizes[:1])  # type: ignore[arg-type]  # pairs
    with pytest.raises(ValueError, match="is of another model"):
        read_virtual(file, [((7, 7), (7, 7))] * len(sizes))


# training


@pytest.mark.parametrize("name", ["pytorch", "mlx"])
@pytest.mark.parametrize("method", ["prompt", "p-tuning", "prefix"])
def test_a_training_that_is_taken_up_ends_as_one_that_was_not_interrupted(
    method: str, name: Any, tmp_path: Path
) -> None:
    if name == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    subject = Subject(task="text-classification", loss="cross-entropy", method=method)
    project = write(subject, tmp_path)
    step, rows = engines.train_step(project), engines.prepared(project)

    def engine() -> Any:
        return backend(name).load_engine(step, project.model, tmp_path / "init.safetensors", placed(name))

    whole, half = engine(), engine()
    for number in range(6):
        engines.do_step(whole, rows, step, number, 1e-2)
    for number in range(3):
        engines.do_step(half, rows, step, number, 1e-2)
    half.save_state(tmp_path)
    taken_up = engine()
    taken_up.load_state(tmp_path)
    for number in range(3, 6):
        engines.do_step(taken_up, rows, step, number, 1e-2)
    for folder, trained in (("one", whole), ("two", taken_up)):
        (tmp_path / folder).mkdir()
        trained.save_model(tmp_path / folder)
    saved = [(tmp_path / folder / "adapter_model.safetensors").read_bytes() for folder in ("one", "two")]
    assert saved[0] == saved[1]


def test_layers_are_not_computed_again_behind_a_prefix(tmp_path: Path) -> None:
    project = write(Subject(task="text-classification", loss="cross-entropy", method="prefix"), tmp_path)
    again = placed("pytorch", gradient_checkpointing=True)
    with pytest.raises(RunError) as caught:
        backend("pytorch").load_engine(engines.train_step(project), project.model, tmp_path / "init.safetensors", again)
    assert caught.value.code == "E410"


@pytest.mark.parametrize("name", ["pytorch", "mlx"])
def test_vectors_are_seen_by_layers_that_are_computed_again(name: Any, tmp_path: Path) -> None:
    if name == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    project = write(Subject(task="text-classification", loss="cross-entropy", method="prompt"), tmp_path)
    step, rows = engines.train_step(project), engines.prepared(project)
    figures = []
    for again in (False, True):
        placement = placed(name, gradient_checkpointing=again)
        engine = backend(name).load_engine(step, project.model, tmp_path / "init.safetensors", placement)
        figures.append([engines.do_step(engine, rows, step, number, 1e-2) for number in range(3)])
    np.testing.assert_allclose(figures[1], figures[0], rtol=1e-5)
