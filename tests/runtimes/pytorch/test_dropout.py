from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import BertConfig, BertForSequenceClassification

from runtimes.pytorch.dropout import Masks, SeededDropout, seed_dropout, seeded_attention
from runtimes.pytorch.quiet import quiet

BERT = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.3,
)


def drawn(share: float, seed: int = 0, count: int = 200_000) -> torch.Tensor:
    masks = Masks()
    masks.seed(seed)
    return masks.draw(torch.Size([count]), share)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_is_kept(share: float) -> None:
    mask = drawn(share)
    # 200,000 draws: five standard errors of the share are at most 5 * 0.5 / 447.
    assert (mask == 0).float().mean().item() == pytest.approx(share, abs=0.0056)
    assert mask.max().item() == pytest.approx(1 / (1 - share), rel=2**-12)
    assert len(mask.unique()) == 2


def test_extreme_shares_keep_everything_or_a_little() -> None:
    assert (drawn(0.0) == 1).all()
    assert drawn(1.0).isfinite().all()


def test_masks_are_functions_of_the_seed_and_differ_from_draw_to_draw() -> None:
    masks = Masks()
    masks.seed(2**64 - 1)
    first, second = (masks.draw(torch.Size([3, 5, 7]), 0.5) for _ in range(2))
    masks.seed(2**64 - 1)
    assert torch.equal(masks.draw(torch.Size([3, 5, 7]), 0.5), first)
    assert not torch.equal(first, second)
    assert not torch.equal(drawn(0.5, seed=1), drawn(0.5, seed=2))


def test_the_masks_of_a_seed_never_change() -> None:
    assert drawn(0.5, seed=7, count=16).bool().int().tolist() == [0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1]


def test_dropout_gives_gradients_through_what_it_kept() -> None:
    dropout = SeededDropout(0.5)
    dropout.masks = Masks()
    x = torch.ones(1000, requires_grad=True)
    kept = dropout(x)
    kept.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, kept.detach())
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("share", [0.0, 1e-9])
def test_attention_without_drops_is_torchs_own(share: float) -> None:
    torch.manual_seed(0)
    module = nn.Module()
    module.masks = Masks()  # type: ignore[assignment]
    mask = torch.zeros(2, 1, 5, 5).masked_fill(torch.rand(2, 1, 1, 5) < 0.3, torch.finfo(torch.float32).min)
    own = [torch.randn(2, 4, 5, 8, requires_grad=True) for _ in range(3)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in own]
    found, _ = seeded_attention(module, own[0], own[1], own[2], mask, dropout=share, scaling=0.3)
    expected = scaled_dot_product_attention(theirs[0], theirs[1], theirs[2], mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.square().sum().backward()
    expected.square().sum().backward()
    for one, two in zip(own, theirs, strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


def test_causal_attention_is_left_to_torch() -> None:
    module = nn.Module()
    module.masks, module.is_causal = Masks(), True  # type: ignore[assignment]
    value = torch.eye(6)[None, None]
    found, _ = seeded_attention(module, torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8), value, None, dropout=0.5)
    assert not found[0, :, 0].triu(1).any(), "no row sees what comes after it"


def test_attention_drops_whole_shares() -> None:
    module = nn.Module()
    module.masks = Masks()  # type: ignore[assignment]
    query, key = torch.zeros(1, 1, 64, 8), torch.zeros(1, 1, 64, 8)
    value = torch.eye(64)[None, None]
    module.is_causal = False  # type: ignore[assignment]
    for mask in (None, torch.zeros(1, 1, 64, 64)):
        found, _ = seeded_attention(module, query, key, value, mask, dropout=0.5)
        assert set(found.unique().tolist()) == {0.0, 2 / 64}


def test_a_models_answers_names_and_files_stay_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BERT).eval()
    ids = torch.randint(0, 50, (3, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4], [6]])
    names = list(model.state_dict())
    with torch.inference_mode():
        before = model(ids, attention_mask=mask.long()).logits
        seed_dropout(model, model)
        after = model(ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-7)
    assert list(model.state_dict()) == names
    with quiet():
        model.save_pretrained(tmp_path)
    assert "recipec" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["hidden_dropout_prob"] == 0.2


def test_training_takes_every_mask_from_us() -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BERT).train()
    masks = seed_dropout(model, model)
    ids = torch.randint(0, 50, (3, 9))
    for mask in (torch.ones(3, 9, dtype=torch.long), (torch.arange(9) < torch.tensor([[9], [4], [6]])).long()):
        answers = [answer(model, masks, seeds, ids, mask) for seeds in ((1, 1), (2, 1), (1, 2))]
        assert torch.equal(answers[0], answers[1]), "torch's own numbers have no part in it"
        assert not torch.equal(answers[0], answers[2])


def answer(
    model: nn.Module, masks: Masks, seeds: tuple[int, int], ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    torch.manual_seed(seeds[0])
    masks.seed(seeds[1])
    logits: torch.Tensor = model(ids, attention_mask=mask).logits
    return logits
