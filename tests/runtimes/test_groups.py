"""Where parameters stand in a model, by their names, and how they are updated there."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from runtimes.groups import Group, Place, depths_of, group_of, unfrozen
from tests.runtimes.tiny import train_step

# Parameters from the top of a model to its bottom: those of one line are at one depth.
MODELS: Mapping[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "bert": (
        ("classifier", "bert.pooler"),
        (
            ("classifier.weight", "bert.pooler.dense.bias"),
            ("bert.encoder.layer.2.output.dense.weight",),
            ("bert.encoder.layer.1.output.LayerNorm.bias",),
            ("bert.encoder.layer.0.attention.self.query.weight",),
            ("bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.weight"),
        ),
    ),
    "llama": (
        ("lm_head",),
        (
            ("lm_head.weight",),
            ("model.layers.10.mlp.up_proj.weight", "model.norm.weight"),
            *((f"model.layers.{number}.mlp.up_proj.weight",) for number in range(9, -1, -1)),
            ("model.embed_tokens.weight",),
        ),
    ),
    "opt": (
        ("score",),
        (
            ("score.weight",),
            ("model.decoder.layers.1.fc1.weight", "model.decoder.final_layer_norm.weight"),
            ("model.decoder.layers.0.fc1.weight",),
            ("model.decoder.embed_positions.weight",),
        ),
    ),
    "t5": (
        ("lm_head",),
        (
            ("lm_head.weight",),
            ("decoder.block.1.layer.0.SelfAttention.q.weight", "decoder.final_layer_norm.weight"),
            ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
            ("encoder.block.2.layer.1.DenseReluDense.wo.weight", "encoder.final_layer_norm.weight"),
            ("encoder.block.1.layer.1.DenseReluDense.wo.weight",),
            ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
            ("shared.weight",),
        ),
    ),
    "two berts": (
        (),
        (
            (),
            ("decoder.bert.encoder.layer.0.attention.self.query.weight", "enc_to_dec_proj.weight"),
            ("encoder.encoder.layer.0.attention.self.query.weight",),
            ("encoder.embeddings.word_embeddings.weight", "decoder.bert.embeddings.word_embeddings.weight"),
        ),
    ),
    "resnet": (
        ("classifier",),
        (
            ("classifier.1.weight",),
            ("resnet.encoder.stages.1.layers.5.layer.0.convolution.weight",),
            ("resnet.encoder.stages.0.layers.0.layer.2.normalization.bias",),
            ("resnet.embedder.embedder.convolution.weight",),
        ),
    ),
    "swin": (
        ("classifier",),
        (
            ("classifier.weight",),
            ("swin.encoder.layers.1.blocks.7.attention.self.query.weight", "swin.layernorm.weight"),
            (
                "swin.encoder.layers.0.blocks.1.attention.self.query.weight",
                "swin.encoder.layers.0.downsample.norm.bias",
            ),
            ("swin.embeddings.patch_embeddings.projection.weight",),
        ),
    ),
    "lora": (
        ("classifier",),
        (
            ("base_model.model.classifier.modules_to_save.default.weight",),
            ("base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.default.weight",),
            ("base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.default.weight",),
            ("base_model.model.bert.embeddings.word_embeddings.weight",),
        ),
    ),
    "p-tuning": (
        ("classifier",),
        (
            ("base_model.classifier.modules_to_save.default.weight",),
            ("base_model.bert.encoder.layer.1.output.dense.weight",),
            ("base_model.bert.encoder.layer.0.output.dense.weight",),
            ("prompt_encoder.default.mlp_head.4.weight", "base_model.bert.embeddings.LayerNorm.bias"),
        ),
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_the_head_is_above_the_layers_and_these_above_the_embeddings(model: str) -> None:
    head, lines = MODELS[model]
    found = depths_of({name: (2, 2) for line in lines for name in line}, head)
    assert found == {name: depth for depth, line in enumerate(lines) for name in line}


def test_numbers_in_the_head_are_no_layers() -> None:
    names = ("mapping.7.weight", "h.0.weight", "wte.weight")
    assert depths_of(dict.fromkeys(names, (2, 2)), ["mapping"]) == dict(zip(names, (0, 1, 2), strict=True))


def group(depth: int, *kinds: str, **options: object) -> Group:
    return group_of(train_step(weight_decay=0.1, **options), Place(depth=depth, kinds=frozenset(kinds)))  # type: ignore[arg-type]


def test_without_options_all_has_one_rate_and_vectors_alone_do_not_decay() -> None:
    assert group(0) == group(5) == Group(rate=1.0, weight_decay=0.1, opens=0)
    assert group(3, "vectors", "norms") == Group(rate=1.0, weight_decay=0.0, opens=0)


def test_a_rate_falls_from_layer_to_layer_and_the_top_one_has_all_of_it() -> None:
    rates = [group(depth, layer_decay=0.5, head_lr_multiplier=10.0).rate for depth in range(5)]
    assert rates == [10.0, 1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("excludes", "decaying"),
    [
        ((), {"matrix", "bias", "norm", "words", "head"}),
        (("vectors",), {"matrix", "words", "head"}),
        (("biases",), {"matrix", "norm", "words", "head"}),
        (("norms", "embeddings", "head"), {"matrix", "bias"}),
    ],
)
def test_what_is_excluded_does_not_decay(excludes: tuple[str, ...], decaying: set[str]) -> None:
    kinds = {
        "matrix": (),
        "bias": ("vectors", "biases"),
        "norm": ("vectors", "norms"),
        "words": ("embeddings",),
        "head": ("head",),
    }
    found = {name for name, own in kinds.items() if group(1, *own, decay_excludes=excludes).weight_decay}
    assert found == decaying


def test_one_more_layer_is_unfrozen_after_so_many_steps() -> None:
    groups = {str(depth): group(depth, unfreeze_every=3) for depth in range(4)}
    found = [len(unfrozen(groups, number)) for number in range(12)]
    assert found == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
