"""NEFTune by its law: how large the noise is, where it is, and that evaluation has none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from torch import Tensor, nn

from compiler.placement import Runtime
from compiler.recipe import AdamW
from runtimes.backends import backend
from runtimes.protocol import Engine
from runtimes.pytorch.embedding_noise import EmbeddingNoise, embedding_noise, token_counts
from runtimes.pytorch.quiet import quiet
from runtimes.rows.batches import collate
from runtimes.rows.features import Features
from runtimes.rows.packing import SEGMENTS, write_packed
from tests.conformance.engines import do_step, micro_batches
from tests.runtimes.rows.test_packing import CAPACITY, TASK, texts
from tests.runtimes.test_engines import save_model
from tests.runtimes.tiny import features, placed, train_step
from tests.tiny import save_decoder

ALPHA, WIDTH = 5.0, 64
TOKENS = (40, 25, 3)  # of three rows, in a batch of 40


class Embedding(nn.Module):
    """The embeddings of some tokens, all of them zero: what is left is the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.noise = nn.Embedding(7, WIDTH), EmbeddingNoise(ALPHA)
        nn.init.zeros_(self.embedding.weight)
        self.embedding.register_forward_hook(self.noise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        self.noise.measure({"attention_mask": attention_mask} if self.training else None)
        return {"embedded": self.embedding(input_ids)}


def inputs() -> dict[str, np.ndarray[Any, Any]]:
    mask = (np.arange(40)[None, :] < np.asarray(TOKENS)[:, None]).astype(np.int64)
    return {"input_ids": np.ones((3, 40), np.int64), "attention_mask": mask}


def on_pytorch(module: nn.Module, seed: int) -> np.ndarray[Any, Any]:
    torch.manual_seed(seed)
    found: dict[str, Tensor] = module(**{name: torch.from_numpy(value) for name, value in inputs().items()})
    return found["embedded"].detach().numpy()


def on_mlx(module: nn.Module, seed: int) -> np.ndarray[Any, Any]:
    mx = pytest.importorskip("mlx.core", reason="needs the mlx extra")
    from runtimes.mlx.graph import Input
    from runtimes.mlx.lower import lower
    from runtimes.mlx.passes import simplify
    from runtimes.mlx.trace import trace

    axes = Input(dtype="int64", axes=("batch", "tokens"))
    run = mx.compile(lower(simplify(trace(module, dict.fromkeys(inputs(), axes)))))
    given = {name: mx.array(value) for name, value in inputs().items()}
    outputs, _ = run({"embedding.weight": mx.zeros((7, WIDTH))}, {}, given, mx.random.key(seed))
    return np.array(outputs["embedded"])


@pytest.mark.parametrize("run", [on_pytorch, on_mlx])
def test_noise_is_uniform_within_a_bound_that_falls_with_the_row_s_tokens(run: Any) -> None:
    found = run(Embedding().train(), 0)
    for row, tokens in zip(found, TOKENS, strict=True):
        bound = ALPHA / math.sqrt(tokens * WIDTH)
        count = row.size
        assert 0.99 * bound < np.abs(row).max() <= bound
        # Of a uniform distribution: deviation bound / sqrt(3). Five standard errors of the mean and of the square.
        assert abs(row.mean()) < 5 * bound / math.sqrt(3 * count)
        assert np.square(row).mean() == pytest.approx(bound**2 / 3, abs=5 * bound**2 * math.sqrt(4 / 45 / count))
    assert np.array_equal(run(Embedding().train(), 0), found)
    assert not np.array_equal(run(Embedding().train(), 1), found)


@pytest.mark.parametrize("run", [on_pytorch, on_mlx])
def test_evaluation_has_no_noise(run: Any) -> None:
    assert not run(Embedding().eval(), 0).any()


def test_tokens_are_counted_within_each_of_the_rows_that_share_a_sequence() -> None:
    segments = torch.tensor([[1, 1, 1, 2, 2, 0]])
    assert token_counts({SEGMENTS: segments}).tolist() == [[3, 3, 3, 2, 2, 1]]


# --- in training


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("exact") / "model", 0.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 60)


def load(name: Runtime, alpha: float, model: Path, folder: Path) -> Engine:
    step = train_step(optimizer=AdamW(), neftune_alpha=alpha)
    return backend(name).load_engine(step, model, folder / "init.safetensors", placed(name))


@pytest.mark.parametrize("name", ["pytorch", "mlx"])
def test_a_step_has_noise_by_its_seed_and_an_evaluation_none(
    name: Runtime, model: Path, rows: Features, tmp_path: Path
) -> None:
    if name == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    plain, noisy, faint = (load(name, alpha, model, tmp_path) for alpha in (0.0, 5.0, 1e-6))
    step = train_step()
    batches = micro_batches(rows, step, 0)

    def loss(engine: Engine, seed: int) -> float:
        done = engine.train_step(batches, denominators={"loss": 9.0}, learning_rates=(0.0,), seed=seed)
        return done.result().losses["loss"]

    assert loss(noisy, 1) == loss(noisy, 1) != loss(noisy, 2)
    assert loss(faint, 1) == pytest.approx(loss(plain, 1), rel=1e-5)
    assert abs(loss(noisy, 1) - loss(plain, 1)) > 1e-4
    assert np.array_equal(noisy.evaluate(batches[0]).losses, plain.evaluate(batches[0]).losses)


@pytest.mark.parametrize("name", ["pytorch", "mlx"])
def test_a_resumed_training_has_the_same_noise(name: Runtime, model: Path, rows: Features, tmp_path: Path) -> None:
    if name == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    whole, after = (load(name, 5.0, model, tmp_path) for _ in range(2))
    step = train_step()
    expected = []
    for number in range(4):
        expected.append(do_step(whole, rows, step, number, 1e-2))
        if number == 1:
            whole.save_state(tmp_path)
    after.load_state(tmp_path)
    assert [do_step(after, rows, step, number, 1e-2) for number in (2, 3)] == expected[2:]


def test_an_encoder_decoder_has_noise_on_what_it_reads_alone(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    with quiet():
        config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
        config.decoder_start_token_id = 0
        model = T5ForConditionalGeneration(config).train()
    noise = embedding_noise(train_step(neftune_alpha=5.0), model)
    assert noise is not None
    ids = torch.arange(2, 12).reshape(2, 5)
    embedded: dict[str, Tensor] = {}
    for half, stack in (("read", model.get_encoder()), ("written", model.get_decoder())):
        first = stack.block[0]
        first.register_forward_pre_hook(lambda _, args, half=half: embedded.update({half: args[0].detach()}))
    noise.measure({"attention_mask": torch.ones_like(ids)})
    model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=ids[:, :3])
    exact = model.get_input_embeddings().weight.detach()
    moved = (embedded["read"] - exact[ids]).abs()
    assert 0 < moved.max() <= 5.0 / math.sqrt(5 * 32)
    assert torch.equal(embedded["written"], exact[ids[:, :3]])


@pytest.mark.parametrize("runtime", ["pytorch", "mlx"])
def test_rows_that_share_a_sequence_have_noise_as_well(runtime: Runtime, tmp_path: Path) -> None:
    if runtime == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    model = tmp_path / "model"
    save_decoder(model)
    (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    write_packed(texts(tmp_path), "whole", CAPACITY, tmp_path / "packed")
    packed = Features(tmp_path / "packed")
    batch = collate(packed, np.arange(len(packed)), grid=(CAPACITY,))
    losses = []
    for alpha in (0.0, 1e-6, 5.0):
        step = train_step(task=TASK, packing="whole", keep_head=True, metrics=(), neftune_alpha=alpha)
        engine = backend(runtime).load_engine(step, model, tmp_path / "init.safetensors", placed(runtime))
        done = engine.train_step([batch], denominators={"loss": 9.0}, learning_rates=(0.1,), seed=0)
        losses.append(done.result().losses["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[2] - losses[0]) > 1e-4 * losses[0]
