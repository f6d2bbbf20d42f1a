# Axes: B = rows, T = tokens

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import onnxruntime
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    FunnelConfig,
    FunnelForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from runtimes.export.facts import ExportFacts
from runtimes.pytorch.inputs import input_names
from runtimes.pytorch.loading import load_source
from runtimes.pytorch.noise import float32_noise, outputs
from runtimes.pytorch.onnx import TRACED_LENGTHS, export
from runtimes.pytorch.onnx_format import traceable
from runtimes.pytorch.onnx_graph import ExportError
from runtimes.saved import SavedModel
from runtimes.tasks import module_of
from runtimes.verification.tolerance import tolerance
from tests.runtimes.tiny import TASK, batch_of

HEAD = module_of(TASK).head(TASK)

Exported = tuple[Path, Path, ExportFacts]
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 160,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with three classes, saved; weights large enough that its answers depend on its inputs."""
    folder = tmp_path_factory.mktemp("source")
    torch.manual_seed(0)
    config = BertConfig.from_dict({**SIZES, "num_labels": 3, "initializer_range": 0.15})
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("bundle") / "model.onnx"
    return source, out, export(traceable(SavedModel(source), HEAD), out)


def padded(num_rows: int, num_tokens: int) -> dict[str, np.ndarray]:
    """Rows of random tokens [B, T], the first whole, each next one five tokens shorter, in two segments."""
    lengths = np.maximum(1, num_tokens - 5 * np.arange(num_rows))[:, None]
    places = np.arange(num_tokens)[None, :]
    mask = (places < lengths).astype(np.int64)
    ids = np.random.default_rng(num_rows * num_tokens).integers(1, SIZES["vocab_size"], mask.shape)
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "token_type_ids": (places >= lengths // 2).astype(np.int64) * mask,
    }


@pytest.mark.parametrize(("num_rows", "num_tokens"), [(1, 3), (3, 11), (7, 17), (1, 40), (5, 128)])
def test_the_graph_answers_as_its_source_at_sizes_that_were_not_traced(
    exported: Exported, num_rows: int, num_tokens: int
) -> None:
    source, out, _ = exported
    batch = padded(num_rows, num_tokens)
    allowed = tolerance(float32_noise(load_source(source), [batch_of(batch)], HEAD))
    [found] = onnxruntime.InferenceSession(out).run(None, batch)
    assert np.abs(found - outputs(load_source(source), batch_of(batch), HEAD)).max() <= allowed


def test_padding_and_segments_change_the_answer_as_they_should(exported: Exported) -> None:
    _, out, _ = exported
    session = onnxruntime.InferenceSession(out)
    short = padded(1, 12)
    long = {name: np.pad(values, ((0, 0), (0, 30))) for name, values in short.items()}
    [alone], [with_padding] = session.run(None, short), session.run(None, long)
    assert np.abs(alone - with_padding).max() < 1e-5  # masked tokens are not seen
    for name in ("attention_mask", "token_type_ids"):  # and every input is read
        [changed] = session.run(None, {**long, name: 1 - long[name]})
        assert np.abs(alone - changed).max() > 1e-3


def test_inputs_outputs_and_axes_are_named(exported: Exported) -> None:
    _, out, facts = exported
    session = onnxruntime.InferenceSession(out)
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert {value.name: value.shape for value in session.get_inputs()} == {
        name: ["batch", "sequence"] for name in names
    }
    assert {value.name: value.shape for value in session.get_outputs()} == {"logits": ["batch", 3]}
    assert (facts.inputs, facts.outputs) == (names, ("logits",))


def test_the_file_is_one_and_says_nothing_about_the_machine_that_wrote_it(exported: Exported) -> None:
    _, out, facts = exported
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    assert facts.num_bytes == out.stat().st_size
    assert facts.custom_operators == ()
    assert b".py" not in out.read_bytes()


def test_weights_that_one_file_could_not_hold_lie_beside_it(exported: Exported, tmp_path: Path) -> None:
    source, inside, _ = exported
    facts = export(traceable(SavedModel(source), HEAD), tmp_path / "model.onnx", inside=1000)
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(files) == ["model.onnx", "model.onnx_data"]
    assert files["model.onnx_data"] > files["model.onnx"]
    assert facts.num_bytes == sum(files.values())
    batch = padded(3, 20)
    [found], [expected] = (
        onnxruntime.InferenceSession(file).run(None, batch) for file in (tmp_path / "model.onnx", inside)
    )
    assert np.array_equal(found, expected)


def test_the_export_is_silent_deterministic_and_restores_what_it_silenced(
    exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out, facts = exported
    before = logging.root.manager.disable, list(warnings.filters)
    assert export(traceable(SavedModel(source), HEAD), tmp_path / "again.onnx") == facts
    assert (logging.root.manager.disable, list(warnings.filters)) == before
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_a_model_of_one_segment_type_takes_no_segments() -> None:
    config = RobertaConfig.from_dict({**SIZES, "type_vocab_size": 1})
    model = RobertaForSequenceClassification(config)
    assert max(TRACED_LENGTHS) < SIZES["max_position_embeddings"]
    assert input_names(model) == ("input_ids", "attention_mask")


def test_a_model_that_fixes_its_length_in_the_graph_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 99, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16, "block_sizes": [1]}
    FunnelForSequenceClassification(FunnelConfig.from_dict(sizes)).save_pretrained(tmp_path / "funnel")
    with pytest.raises(ExportError, match="runs only at the size it was traced with"):
        export(traceable(SavedModel(tmp_path / "funnel"), HEAD), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["funnel"]


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def of_unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_weights, r"no \*\.safetensors there"),
        (without_head, r"the weights lack classifier\.bias, classifier\.weight"),
        (of_unknown_type, "no-such-model"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_named_and_nothing_is_written(
    source: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    with pytest.raises(ExportError, match=said) as caught:
        export(traceable(SavedModel(folder), HEAD), tmp_path / "model.onnx")
    assert caught.value.code == "E501"
    assert not (tmp_path / "model.onnx").exists()
