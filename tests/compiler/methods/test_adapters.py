"""What the methods that PEFT wraps choose in real architectures, and what of their options is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler import weights
from compiler.diagnostics import RecipeError
from compiler.methods import IA3, LoRA
from compiler.methods.ia3 import feed_forward, keys_and_values
from compiler.methods.targets import every, inside_layers, matches
from compiler.weights import Tensor, linear_modules, norm_modules
from tests.handmade import MODEL, planned, resolved

Shapes = dict[str, tuple[int, ...]]


@pytest.mark.parametrize(
    ("pattern", "module", "meant"),
    [
        ("query", "encoder.layer.0.attention.self.query", True),
        ("uery", "encoder.layer.0.attention.self.query", False),
        ("self.query", "encoder.layer.0.attention.self.query", True),
        ("encoder.layer.*.attention.self.query", "encoder.layer.11.attention.self.query", True),
        ("layer.*.attention.self.query", "bert.encoder.layer.11.attention.self.query", True),
        ("layer.*.dense", "encoder.layer.0.output.dense", False),
        ("layer.*.output.dense", "encoder.layer.0.attention.output.dense", False),
        ("*_proj", "layers.0.self_attn.q_proj", True),
        ("layer.1*.output", "layer.12.output", True),
        ("layer.1.output", "layer.1xoutput", False),
    ],
)
def test_a_pattern_means_the_end_of_a_name_and_a_star_no_dot(pattern: str, module: str, meant: bool) -> None:
    assert matches(pattern, module) is meant


def tensors_of(architecture: str) -> dict[str, Tensor]:
    """What the header of a tiny model's file says."""
    pytest.importorskip("torch", reason="needs the torch extra")
    import torch
    from transformers import AutoModel, AutoModelForSeq2SeqLM
    from transformers.core_model_loading import revert_weight_conversion

    from runtimes.mlx.trace import weightless
    from tests.runtimes.mlx.architectures import ARCHITECTURES

    config = ARCHITECTURES[architecture].config()
    with weightless():
        model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel).from_config(config)
    values = {name: value.to(torch.device("meta")) for name, value in model.state_dict().items()}
    return {
        name: Tensor("F32" if value.is_floating_point() else "I64", tuple(value.shape))
        for name, value in revert_weight_conversion(model, values).items()
    }


def stored(architecture: str) -> Shapes:
    """The weights of a tiny model as the compiler knows them."""
    return weights.shapes(tensors_of(architecture))


def norms_of(architecture: str) -> tuple[str, ...]:
    """The norms of a tiny model that layer-norm may train."""
    found = tensors_of(architecture)
    return norm_modules(weights.shapes(found), weights.batch_norms(found))


LINEAR = {
    "bert": "attention.output.dense attention.self.key attention.self.query attention.self.value intermediate.dense "
    "output.dense",
    "distilbert": "attention.k_lin attention.out_lin attention.q_lin attention.v_lin ffn.lin1 ffn.lin2",
    "roberta": "attention.output.dense attention.self.key attention.self.query attention.self.value intermediate.dense "
    "output.dense",
    "albert": "albert_layers.0.attention.dense albert_layers.0.attention.key albert_layers.0.attention.query "
    "albert_layers.0.attention.value albert_layers.0.ffn albert_layers.0.ffn_output",
    "deberta": "attention.output.dense attention.self.key_proj attention.self.query_proj attention.self.value_proj "
    "intermediate.dense output.dense",
    "modernbert": "attn.Wo attn.Wqkv mlp.Wi mlp.Wo",
    "llama": "mlp.down_proj mlp.gate_proj mlp.up_proj self_attn.k_proj self_attn.o_proj self_attn.q_proj "
    "self_attn.v_proj",
    "qwen3": "mlp.down_proj mlp.gate_proj mlp.up_proj self_attn.k_proj self_attn.o_proj self_attn.q_proj "
    "self_attn.v_proj",
    "gpt2": "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
    "bart": "encoder_attn.k_proj encoder_attn.out_proj encoder_attn.q_proj encoder_attn.v_proj fc1 fc2 "
    "self_attn.k_proj self_attn.out_proj self_attn.q_proj self_attn.v_proj",
    "marian": "encoder_attn.k_proj encoder_attn.out_proj encoder_attn.q_proj encoder_attn.v_proj fc1 fc2 "
    "self_attn.k_proj self_attn.out_proj self_attn.q_proj self_attn.v_proj",
    "t5": "layer.0.SelfAttention.k layer.0.SelfAttention.o layer.0.SelfAttention.q layer.0.SelfAttention.v "
    "layer.1.DenseReluDense.wi layer.1.DenseReluDense.wo layer.1.EncDecAttention.k layer.1.EncDecAttention.o "
    "layer.1.EncDecAttention.q layer.1.EncDecAttention.v layer.2.DenseReluDense.wi layer.2.DenseReluDense.wo",
    "vit": "attention.attention.key attention.attention.query attention.attention.value attention.output.dense "
    "intermediate.dense output.dense",
}


@pytest.mark.parametrize("architecture", LINEAR)
def test_lora_s_auto_is_every_linear_module_in_the_layers(architecture: str) -> None:
    assert inside_layers(linear_modules(stored(architecture))) == tuple(LINEAR[architecture].split())


_SEQUENCE = tuple(
    f"{half}.layers.*.{name}"
    for half, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn")))
    for name in (*(f"{each}.{of}_proj" for each in attentions for of in "kv"), "fc2")
)
SCALED = {
    "bert": ("layer.*.attention.self.key", "layer.*.attention.self.value", "layer.*.output.dense"),
    "distilbert": ("layer.*.attention.k_lin", "layer.*.attention.v_lin", "layer.*.ffn.lin2"),
    "roberta": ("layer.*.attention.self.key", "layer.*.attention.self.value", "layer.*.output.dense"),
    "albert": (
        "albert_layers.*.attention.key",
        "albert_layers.*.attention.value",
        "albert_layers.*.ffn_output",
    ),
    "modernbert": ("layers.*.attn.Wqkv", "layers.*.mlp.Wo"),
    "deberta": ("layer.*.attention.self.key_proj", "layer.*.attention.self.value_proj", "layer.*.output.dense"),
    "llama": ("layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj", "layers.*.mlp.down_proj"),
    "qwen3": ("layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj", "layers.*.mlp.down_proj"),
    "gpt2": ("h.*.attn.c_attn", "h.*.mlp.c_proj"),
    "t5": (
        "decoder.block.*.layer.*.EncDecAttention.k",
        "decoder.block.*.layer.*.EncDecAttention.v",
        "decoder.block.*.layer.*.SelfAttention.k",
        "decoder.block.*.layer.*.SelfAttention.v",
        "encoder.block.*.layer.*.SelfAttention.k",
        "encoder.block.*.layer.*.SelfAttention.v",
        "decoder.block.*.layer.*.DenseReluDense.wo",
        "encoder.block.*.layer.*.DenseReluDense.wo",
    ),
    "bart": _SEQUENCE,
    "marian": _SEQUENCE,
    "vit": ("layer.*.attention.attention.key", "layer.*.attention.attention.value", "layer.*.output.dense"),
}


@pytest.mark.parametrize("architecture", SCALED)
def test_ia3_s_auto_is_keys_values_and_what_ends_feed_forward_pairs(architecture: str) -> None:
    linear = linear_modules(stored(architecture))
    found = every((*keys_and_values(linear), *feed_forward(linear)))
    assert [any(name.endswith(end) for end in SCALED[architecture]) for name in found] == [True] * len(found)
    assert all(any(name.endswith(end) for name in found) for end in SCALED[architecture])
    assert not any("attention.output" in name for name in found)


NORMS = {"bert": 5, "distilbert": 5, "albert": 3, "llama": 5, "qwen3": 9, "gpt2": 5, "vit": 5}


@pytest.mark.parametrize("architecture", NORMS)
def test_layer_norm_s_auto_is_every_norm(architecture: str) -> None:
    """Two layers with two norms each, two more in qwen3's attention, and one outside; ALBERT's layers are one."""
    assert len(norms_of(architecture)) == NORMS[architecture]


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "layer-norm", "adalora"])
def test_a_resnet_has_nothing_for_adapters_and_is_told_what_fits(method: str) -> None:
    held = tensors_of("resnet")
    shapes, over_batches = weights.shapes(held), weights.batch_norms(held)
    facts = replace(MODEL, shapes=shapes, batch_norms=over_batches, model_type="resnet", architecture="encoder")
    with pytest.raises(RecipeError) as caught:
        resolved(facts, method=method)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R205", "/method")
    assert '"full"' in str(found.hint)


def test_all_linear_has_those_outside_of_layers() -> None:
    found = resolved(method={"type": "lora", "target_modules": "all-linear"})
    expected = ("attention.self.query", "attention.self.value", "pooler.dense")
    assert (found.method.target_modules, len(found.tuned.modules)) == (expected, 5)  # type: ignore[union-attr]


def test_an_embedding_s_projection_is_linear() -> None:
    assert "encoder.embedding_hidden_mapping_in" in linear_modules(stored("albert"))


@pytest.mark.parametrize(("stable", "alpha"), [(False, 32.0), (True, 8.0)])
def test_alpha_is_chosen_so_that_an_update_counts_twice(stable: bool, alpha: float) -> None:
    found = resolved(method={"type": "lora", "rank": 16, "rank_stabilized": stable}).method
    assert isinstance(found, LoRA)
    assert found.alpha == alpha


def test_the_plan_counts_what_is_trained() -> None:
    """Four matrices of 384 by 384: each 8 * 768 numbers of an update, 384 lengths, 384 scales of outputs."""
    assert resolved(method="lora").tuned.parameters == 4 * 8 * 768
    assert resolved(method="dora").tuned.parameters == 4 * (8 * 768 + 384)
    assert resolved(method="adalora").tuned.parameters == 4 * 12 * 769
    assert resolved(method={"type": "ia3", "target_modules": ["query", "value"]}).tuned.parameters == 4 * 384
    saved = resolved(method={"type": "lora", "modules_to_save": ["pooler"]}).tuned
    assert (saved.parameters, saved.modules[-1]) == (4 * 8 * 768 + 384 * 384, "pooler.dense")


def test_vectors_of_conv1d_are_counted_by_its_own_sides() -> None:
    shapes = {"h.0.attn.c_attn.weight": (4, 12), "h.0.mlp.c_proj.weight": (16, 4)}
    found = resolved(replace(MODEL, model_type="gpt2", shapes=shapes), method="ia3")
    assert found.tuned.parameters == 12 + 16
    assert found.method == IA3(
        target_modules=("h.*.attn.c_attn", "h.*.mlp.c_proj"), feedforward_modules=("h.*.mlp.c_proj",)
    )


def test_options_that_are_left_out_leave_the_key_of_a_lora_as_it_was() -> None:
    [train] = [step for step in planned(method="lora").to_json()["steps"] if step["step"] == "train"]
    assert set(train["method"]) == {"type", "rank", "alpha", "dropout", "target_modules"}


@pytest.mark.parametrize(
    ("method", "code", "pointer", "said"),
    [
        ({"type": "lora", "rank": 3, "initialization": "orthogonal"}, "R230", "initialization", "an even rank"),
        ({"type": "dora", "target_modules": ["qery"]}, "R205", "target_modules/0", '"qery" matches no linear module'),
        ({"type": "lora", "target_modules": ["layer.*.query"]}, "R205", "target_modules/0", "matches no linear module"),
        ({"type": "lora", "modules_to_save": ["word_embeddings"]}, "R205", "modules_to_save/0", "matches no module"),
        ({"type": "lora", "modules_to_save": ["encoder"]}, "R231", "modules_to_save/0", "it would be trained twice"),
        ({"type": "ia3", "target_modules": ["query"], "feedforward_modules": ["value"]}, "R205",
         "feedforward_modules/0", "matches no target module"),
        ({"type": "adalora", "initial_rank": 8}, "R230", "target_rank", "not below the initial rank 8"),
        ({"type": "adalora", "initial_share": 0.7}, "R230", "final_share", "leave no steps"),
        ({"type": "layer-norm", "target_modules": ["query"]}, "R205", "target_modules/0", "matches no norm"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_named(method: dict[str, Any], code: str, pointer: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(method=method)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == (code, f"/method/{pointer}")
    assert said in found.message


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "layer-norm"])
def test_an_adapter_is_merged_before_its_export(kind: str) -> None:
    shapes = {f"encoder.layer.0.{name}.weight": (8, 8) for name in ("attention.self.key", "attention.self.value")} | {
        "encoder.layer.0.output.LayerNorm.weight": (8,)
    }
    steps = planned(replace(MODEL, shapes=shapes), method=kind, export=["onnx"]).steps
    assert [step.id for step in steps][3] == "merge"


def test_unfreezing_has_no_importance_for_adalora() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(method="adalora", training={"unfreeze_every": 20})
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R230", "/training/unfreeze_every")
