"""Where the parameters of real architectures stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import transformers
from torch import nn

from runtimes.groups import Place
from runtimes.pytorch.models import Wrapped, head_of
from runtimes.pytorch.places import places_of
from runtimes.pytorch.quiet import quiet

_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Each with how many layers it has, those of a decoder apart.
MODELS: Mapping[str, tuple[Callable[[], transformers.PreTrainedModel], int]] = {
    "bert": (lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**_TEXT)), 3),
    "gpt2": (
        lambda: transformers.GPT2ForSequenceClassification(
            transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=20, bos_token_id=1, eos_token_id=2)
        ),
        3,
    ),
    "llama": (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**_TEXT)), 3),
    "t5": (
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                d_model=16, d_kv=8, d_ff=16, num_layers=3, num_decoder_layers=2, num_heads=2, vocab_size=20
            )
        ),
        5,
    ),
    "resnet": (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 2, 1])
        ),
        3,
    ),
    "swin": (
        lambda: transformers.SwinForImageClassification(
            transformers.SwinConfig(
                image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4
            )
        ),
        2,
    ),
    "mobilevit": (
        lambda: transformers.MobileViTForImageClassification(transformers.MobileViTConfig(image_size=64)),
        5,
    ),
}


def places(name: str) -> tuple[nn.Module, dict[str, Place]]:
    with quiet():
        model = MODELS[name][0]()
    wrapped = Wrapped(model=model, inner=model, head=head_of(model, ()), values={}, last_layer=None)
    return model, places_of(wrapped)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_and_the_embeddings_below_them_have_a_depth_of_their_own(name: str) -> None:
    model, found = places(name)
    assert found.keys() == dict(model.named_parameters()).keys()
    num_layers = MODELS[name][1]
    tied = name == "t5"  # its head is its embeddings, which are at the bottom
    assert {place.depth for place in found.values()} == set(range(int(tied), num_layers + 2))
    lowest = {parameter for parameter, place in found.items() if place.depth == num_layers + 1}
    assert all(
        "embed" in each or "shared" in each or "wte" in each or "wpe" in each or "stem" in each for each in lowest
    )


@pytest.mark.parametrize("name", MODELS)
def test_norms_biases_and_vectors_are_told_apart(name: str) -> None:
    model, found = places(name)
    norms = {each for each, place in found.items() if "norms" in place.kinds}
    assert norms == {
        each for each in found if "norm" in each.lower().replace("ln_", "norm") and "embed_norm" not in each
    }
    assert all("vectors" in found[each].kinds for each in norms)
    for each, parameter in model.named_parameters():
        assert ("vectors" in found[each].kinds) is (parameter.ndim < 2)
        assert ("biases" in found[each].kinds) is each.endswith(".bias")
