"""Functions for MLX beside PyTorch: tasks, architectures, shapes, precisions, and what is refused."""

# B = rows, T = tokens, C = outputs of a position

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs the mlx extra")
pytest.importorskip("torch", reason="needs the torch extra")

import peft
import torch
import transformers

from compiler.functions import BATCH_SIZES, Shapes, shapes_of
from compiler.methods import Prompt
from compiler.recipe import Mlx
from compiler.tasks import (
    ContinuedPretraining,
    ImageClassification,
    QuestionAnswering,
    Task,
    TextClassification,
    TextRegression,
    TokenClassification,
)
from compiler.tasks.masking import Masking
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.export import Written
from runtimes.export.functions import FUNCTION, portions
from runtimes.mlx.format import stages, write_function
from runtimes.mlx.functions import open_function
from runtimes.protocol import Batch
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.scores import torch_scores
from runtimes.saved import Adapter, SavedModel
from tests.runtimes.tiny import batch_of
from tests.tiny import save_image_processor, save_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.long]

LABELS = ("bad", "fair", "good")
CLASSES = TextClassification(labels=LABELS)
MASKED = ContinuedPretraining(objective="masked", end="", masking=Masking(mask_id=4, special_ids=(0,), vocab_size=50))
SHAPES = Shapes(batch_sizes=(1, 4), lengths=(8, 16))
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 1,  # not zero, so that padding with zeros would show
}
TOLERANCE = 2e-5
"""Of logits of 1 to 10 in float32: a hundred times their rounding, and far below what a token more would change."""


def save(folder: Path, task: Task, model_type: str, **sizes: Any) -> SavedModel:
    """A random model for a task, with its tokenizer."""
    head = tasks.module_of(task).head(task)
    save_tokenizer(folder, ("the", "film"), pad_token_id=1)
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **sizes}, **head.config)
    torch.manual_seed(0)
    with quiet():
        getattr(transformers, head.auto_class).from_config(config).save_pretrained(folder)
    return SavedModel(folder)


def batch(num_rows: int, num_tokens: int, *, by_token: bool = False) -> Batch:
    """Rows of all lengths up to so many tokens, the first one the longest, padded with the token 1."""
    random = np.random.default_rng(num_rows)
    lengths = np.maximum(3, num_tokens - np.arange(num_rows))
    mask_BT = (np.arange(num_tokens) < lengths[:, None]).astype(np.int64)
    ids_BT = np.where(mask_BT, random.integers(5, 50, mask_BT.shape), 1)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": np.zeros_like(ids_BT)}
    return batch_of(inputs, ids_BT if by_token else None)


def written(saved: SavedModel, task: Task, out: Path, shapes: Shapes = SHAPES, **export: Any) -> Written:
    return write_function(Mlx(**export), task, saved, shapes, out, "cpu")


def difference(saved: SavedModel, task: Task, out: Path, given: Batch) -> float:
    """The largest difference of an output where a row has tokens."""
    source = torch_scores(saved, tasks.module_of(task).head(task))(given)
    [*_, deployed] = stages(Mlx(), task, saved, out, "cpu")
    found = deployed.open()(given)
    assert found.shape == source.shape
    if source.ndim == 3:
        real_BT = given.inputs["attention_mask"].astype(bool)
        found, source = found[real_BT], source[real_BT]
    return float(np.abs(found - source).max())


@pytest.mark.parametrize(
    ("task", "model_type"),
    [
        (CLASSES, "bert"),
        (CLASSES, "roberta"),  # counts positions from the padding token
        (CLASSES, "gpt2"),  # answers at the last token that is no padding
        (replace(CLASSES, multi_label=True), "bert"),
        (TextRegression(mean=3.0, deviation=2.0), "bert"),
        (TokenClassification(labels=LABELS), "bert"),
        (QuestionAnswering(), "bert"),
        (MASKED, "bert"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.type,
)
def test_a_function_answers_as_the_saved_model(task: Task, model_type: str, tmp_path: Path) -> None:
    saved = save(tmp_path / "model", task, model_type)
    written(saved, task, tmp_path)
    by_token = tasks.module_of(task).head(task).reading != "logits"
    for shape in ((1, 8), (3, 5), (7, 11)):  # as traced; fewer; more rows than a trace has
        assert difference(saved, task, tmp_path, batch(*shape, by_token=by_token)) < TOLERANCE


def test_a_function_reads_images(tmp_path: Path) -> None:
    task = ImageClassification(labels=("dark", "light"), shape=(3, 8, 8))
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.2,
    )
    config.num_labels = 2
    save_image_processor(tmp_path / "model", config, 8)
    with quiet():
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    saved = SavedModel(tmp_path / "model")
    assert shapes_of(task, 1).lengths == ()
    says = written(saved, task, tmp_path, shapes_of(task, 1)).says
    assert "traced at 1, 4, 16 rows, " in says
    pixels = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)
    assert difference(saved, task, tmp_path, batch_of({"pixel_values": pixels})) < TOLERANCE


def test_virtual_tokens_stand_before_each_row_of_a_function(tmp_path: Path) -> None:
    base = save(tmp_path / "base", CLASSES, "bert").folder
    head = tasks.module_of(CLASSES).head(CLASSES)
    torch.manual_seed(0)
    with quiet():
        model = getattr(transformers, head.auto_class).from_pretrained(base)
        config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5, modules_to_save=["classifier"])
        peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(base / name, tmp_path / "adapter" / name)
    saved = SavedModel(base, Adapter(tmp_path / "adapter", Prompt()))
    written(saved, CLASSES, tmp_path)
    given = batch(3, 5)
    assert difference(saved, CLASSES, tmp_path, given) < TOLERANCE
    plain = torch_scores(SavedModel(base), head)(given)
    assert np.abs(torch_scores(saved, head)(given) - plain).max() > 1e-3  # they are read


@pytest.mark.parametrize(
    ("export", "allowed"),
    [({"precision": "bf16"}, 0.2), ({"precision": "fp16"}, 0.02), ({"bits": 8, "group_size": 32}, 0.2)],
    ids=["bf16", "fp16", "8 bits"],
)
def test_rounded_weights_move_the_outputs_a_little(export: dict[str, Any], allowed: float, tmp_path: Path) -> None:
    saved = save(tmp_path / "model", CLASSES, "bert")
    facts = written(saved, CLASSES, tmp_path, **export).facts
    assert 0 < difference(saved, CLASSES, tmp_path, batch(4, 8)) < allowed
    assert facts.get("quantized_layers") == (12 if "bits" in export else None)
    assert [stage.exact for stage in stages(Mlx(**export), CLASSES, saved, tmp_path, "cpu")] == [True, False]


def test_all_traces_share_the_weights(tmp_path: Path) -> None:
    saved = save(tmp_path / "model", CLASSES, "bert", vocab_size=20_000)
    stored = (saved.folder / "model.safetensors").stat().st_size
    assert stored < written(saved, CLASSES, tmp_path).facts["num_bytes"] < 1.2 * stored


def test_rounded_weights_take_less_room(tmp_path: Path) -> None:
    saved = save(tmp_path / "model", CLASSES, "bert", vocab_size=20_000)
    stored = (saved.folder / "model.safetensors").stat().st_size
    assert written(saved, CLASSES, tmp_path, precision="fp16").facts["num_bytes"] < 0.7 * stored


def test_groups_that_divide_nothing_are_refused(tmp_path: Path) -> None:
    saved = save(tmp_path / "model", CLASSES, "bert")
    with pytest.raises(RunError, match="groups of 128 divide the inputs of no linear layer") as refused:
        written(saved, CLASSES, tmp_path, bits=8, group_size=128)
    assert refused.value.code == "E501"
    assert not (tmp_path / FUNCTION).exists()


@pytest.mark.parametrize("num_rows", range(1, 70))
def test_rows_are_cut_into_portions_that_are_at_least_half_full(num_rows: int) -> None:
    found = [*portions(num_rows, BATCH_SIZES)]
    assert sum(taken for taken, _ in found) == num_rows
    assert all(size in BATCH_SIZES and size <= 2 * taken for taken, size in found)


def test_a_row_that_is_longer_than_every_trace_is_refused(tmp_path: Path) -> None:
    written(save(tmp_path / "model", CLASSES, "bert"), CLASSES, tmp_path)
    with pytest.raises(RunError, match="takes 16 tokens of a row, not 17") as refused:
        open_function(tmp_path / FUNCTION).outputs(batch(1, 17).inputs)
    assert refused.value.code == "E604"


def test_an_array_that_nothing_gives_is_named(tmp_path: Path) -> None:
    written(save(tmp_path / "model", CLASSES, "bert"), CLASSES, tmp_path)
    session, given = open_function(tmp_path / FUNCTION), dict(batch(2, 8).inputs)
    whole = session.outputs(given)
    del given["token_type_ids"]  # zero everywhere, so that batches leave it out
    assert (session.outputs(given) == whole).all()
    del given["input_ids"]
    with pytest.raises(RunError, match="takes input_ids, which nothing gives"):
        session.outputs(given)


@pytest.mark.parametrize("kept", [0, 3, 1_000])
def test_a_file_that_was_cut_off_is_refused(kept: int, tmp_path: Path) -> None:
    written(save(tmp_path / "model", CLASSES, "bert"), CLASSES, tmp_path)
    file = tmp_path / FUNCTION
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(RunError, match="the function does not load") as refused:
        open_function(file)
    assert refused.value.code == "E604"
