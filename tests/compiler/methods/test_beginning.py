"""Adapters that a training begins with, held to a model by the shapes in their headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compiler.diagnostics import Diagnostic
from compiler.facts import AdapterFacts, ModelFacts
from compiler.methods import module_of
from tests.handmade import MODEL, read

Shapes = Mapping[str, tuple[int, ...]]
LORA = {"peft_type": "LORA", "use_dora": False, "r": 8, "lora_alpha": 16.0, "use_rslora": False}
GPT2 = replace(MODEL, model_type="gpt2", shapes={"h.0.attn.c_attn.weight": (4, 12), "h.0.mlp.c_proj.weight": (16, 4)})
OLD = replace(MODEL, shapes={"layer.0.LayerNorm.gamma": (4,), "layer.0.LayerNorm.beta": (4,)})
# The model calls its modules otherwise than its files.
VISION = replace(
    MODEL,
    architecture="vision",
    model_type="vit",
    shapes={"layer.0.query.weight": (4, 4), "layer.0.output.weight": (4, 8), "pooler.dense.weight": (6, 4)},
)


def findings(model: ModelFacts, config: Mapping[str, Any], shapes: Shapes, **method: Any) -> list[Diagnostic]:
    """What is found about a method that begins with an adapter which has these weights."""
    wrapped = {f"base_model.model.{name}": shape for name, shape in shapes.items()}
    adapter = AdapterFacts(id="./a", config=config, shapes=wrapped, files={})
    recipe = read(method={**method, "from": "./a"})
    return [*module_of(recipe.method).check(recipe, recipe.method, replace(model, adapter=adapter))]


def refused(model: ModelFacts, config: Mapping[str, Any], shapes: Shapes, **method: Any) -> str:
    [found] = findings(model, config, shapes, **method)
    assert (found.code, found.pointer) == ("R232", "/method/from")
    return found.message


def low_rank(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.lora_A.weight": (8, inputs), f"{name}.lora_B.weight": (outputs, 8)}


def test_layers_that_are_stored_the_other_way_round_have_their_updates_the_usual_way() -> None:
    fitting = {**low_rank("transformer.h.0.attn.c_attn", 12, 4), **low_rank("transformer.h.0.mlp.c_proj", 4, 16)}
    assert findings(GPT2, LORA, {**fitting, "score.weight": (2, 4)}, type="lora") == []
    other = {**fitting, **low_rank("transformer.h.0.attn.c_attn", 4, 12)}
    assert "h.0.attn.c_attn.lora_A.weight has the shape [8, 12] and not [8, 4]" in refused(
        GPT2, LORA, other, type="lora"
    )
    vectors = {"transformer.h.0.attn.c_attn.ia3_l": (12, 1), "transformer.h.0.mlp.c_proj.ia3_l": (1, 16)}
    assert findings(GPT2, {"peft_type": "IA3"}, vectors, type="ia3") == []


def test_old_names_of_norms_are_those_of_today() -> None:
    config = {"peft_type": "LN_TUNING"}
    fitting = {f"bert.layer.0.LayerNorm.ln_tuning_layers.{name}": (4,) for name in ("weight", "bias")}
    assert findings(OLD, config, fitting, type="layer-norm") == []
    without = {name: shape for name, shape in fitting.items() if not name.endswith("bias")}
    assert "lacks layer.0.LayerNorm.ln_tuning_layers.bias" in refused(OLD, config, without, type="layer-norm")


def test_saved_modules_of_old_names_are_those_of_today() -> None:
    model = replace(GPT2, shapes={**GPT2.shapes, "ln_f.gamma": (4,)})
    fitting = {**low_rank("h.0.attn.c_attn", 12, 4), **low_rank("h.0.mlp.c_proj", 4, 16)}
    assert findings(model, LORA, {**fitting, "ln_f.weight": (4,)}, type="lora", modules_to_save=["ln_f"]) == []
    assert "it has ln_f.weight besides" in refused(model, LORA, {**fitting, "ln_f.weight": (4,)}, type="lora")


def test_where_names_differ_the_shapes_are_counted() -> None:
    fitting = {**low_rank("vit.layers.0.q", 4, 4), **low_rank("vit.layers.0.o", 4, 8), "classifier.weight": (2, 4)}
    assert findings(VISION, LORA, fitting, type="lora") == []
    other = {**fitting, **low_rank("vit.layers.0.o", 4, 9)}
    assert "of the shape [8, 8] it has 0 weights and not 1" in refused(VISION, LORA, other, type="lora")
    saved = {"type": "lora", "modules_to_save": ["pooler"]}
    assert "of the shape [6, 4] it has 0 weights and not 1" in refused(VISION, LORA, fitting, **saved)
    assert findings(VISION, LORA, {**fitting, "vit.pooler.dense.weight": (6, 4)}, **saved) == []
