"""Bottleneck adapters after frozen projections (Houlsby et al. 2019, arXiv:1902.00751)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic, nearest
from compiler.groups import LAYER
from compiler.methods.interface import Tuned, unknown_shapes
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe

Placement = Literal["houlsby", "pfeiffer"]
NonLinearity = Literal["gelu", "relu", "swish", "tanh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Small layers of our own after frozen projections; the task head is trained in full."""

    type: Annotated[Literal["adapter"], About("Train small layers that stand after frozen ones.")] = "adapter"
    placement: Annotated[
        Placement,
        About("houlsby: after each attention and each feed-forward; pfeiffer: after each feed-forward alone."),
    ] = "houlsby"
    reduction_factor: Annotated[int, About("How many times narrower than its input an adapter is.", minimum=1)] = 16
    non_linearity: Annotated[NonLinearity, About("What stands between the way down and the way up.")] = "gelu"
    dropout: Annotated[float, About("Dropout before each adapter.", minimum=0, below=1)] = 0.0
    target_modules: Annotated[
        tuple[str, ...] | Literal["auto"],
        About(
            "Linear layers after which adapters stand, by their names inside a layer. auto: by the placement.",
            nonempty=True,
        ),
    ] = "auto"


LEARNING_RATE = Auto(5e-4, "method adapter: adapters stand about ten times the rate of full tuning")
MERGES = False  # whether what it trains is merged into its base before an export: it is not linear
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME

# The last projections of the two halves of a layer, by their names inside it, as the architectures call them.
_ATTENTION = frozenset(
    {
        "attention.attn.o",  # MPNet
        "attention.dense",  # ALBERT, GPT-NeoX
        "attention.out_lin",  # DistilBERT
        "attention.output.dense",  # BERT, RoBERTa, DeBERTa, ViT
        "attn.Wo",  # ModernBERT
        "attn.c_proj",  # GPT-2
        "crossattention.output.dense",
        "encoder_attn.out_proj",
        "self_attention.dense",  # BLOOM, Falcon
        "self_attn.dense",  # Phi
        "self_attn.o_proj",  # Llama, Qwen
        "self_attn.out_proj",  # BART, Marian
        "EncDecAttention.o",
        "SelfAttention.o",  # T5
    }
)
_FEED_FORWARD = frozenset(
    {
        "DenseReluDense.wo",
        "fc2",
        "ffn.lin2",
        "ffn_output",
        "mlp.Wo",
        "mlp.c_proj",
        "mlp.dense_4h_to_h",
        "mlp.down_proj",
        "mlp.fc2",
        "output.dense",
    }
)
_PLACED: Mapping[Placement, tuple[frozenset[str], ...]] = {
    "houlsby": (_ATTENTION, _FEED_FORWARD),
    "pfeiffer": (_FEED_FORWARD,),
}


def inside(module: str) -> str:
    """The name of a module inside its innermost numbered layer; its whole name outside of them."""
    ends = [found.end() for found in LAYER.finditer(module)]
    return module[ends[-1] :] if ends else module


def matches(pattern: str, module: str) -> bool:
    """Whether a target pattern means a module: equal to its name, or to its name inside a layer."""
    return pattern in (module, inside(module))


def width(outputs: int, reduction_factor: int) -> int:
    """The units of an adapter after a projection with so many outputs."""
    return outputs // reduction_factor


def check(recipe: Recipe, method: Adapter, model: ModelFacts) -> Iterator[Diagnostic]:
    """Adapters stand after projections that the model has, and each has a unit at least."""
    if not model.has_shapes:
        yield unknown_shapes(recipe)
        return
    if method.target_modules == "auto":
        if not _placed(method, model):
            message = f"it is not known after which layers of the model ({model.model_type}) adapters stand"
            yield recipe.finding("R205", "/method/target_modules", message, _hint(model))
            return
    else:
        missing = list(_missing(recipe, method.target_modules, model))
        yield from missing
        if missing:
            return
    yield from _check_width(recipe, method, model)


def _hint(model: ModelFacts) -> str:
    if names := _names(model):
        return f"name target_modules; the model has: {', '.join(names)}"
    return 'use the method "full", "freeze" or "head"'


def _names(model: ModelFacts) -> list[str]:
    return sorted({inside(name) for name in model.linear_modules if LAYER.search(name)})


def _missing(recipe: Recipe, patterns: tuple[str, ...], model: ModelFacts) -> Iterator[Diagnostic]:
    existing = _names(model)
    for index, pattern in enumerate(patterns):
        if not any(matches(pattern, name) for name in model.linear_modules):
            message = f'"{pattern}" is no linear layer inside the layers of the model'
            best = nearest(pattern, existing)
            hint = (f'did you mean "{best}"? ' if best else "") + f"the model has: {', '.join(existing)}"
            yield recipe.finding("R205", f"/method/target_modules/{index}", message, hint)


def _check_width(recipe: Recipe, method: Adapter, model: ModelFacts) -> Iterator[Diagnostic]:
    patterns = _placed(method, model) if method.target_modules == "auto" else method.target_modules
    least = min(_outputs(name, model) for name in _modules(patterns, model))
    if method.reduction_factor > least:
        message = f"an adapter {method.reduction_factor} times narrower than {least} outputs has no unit"
        yield recipe.finding("R233", "/method/reduction_factor", message, f"at most {least}")


def _placed(method: Adapter, model: ModelFacts) -> tuple[str, ...]:
    """The projections of the model after which a placement has adapters, by their names inside a layer.

    None where one of the halves of a layer is not known: half of a placement would be another one.
    """
    known = {inside(name) for name in model.linear_modules if LAYER.search(name)}
    halves = [known & names for names in _PLACED[method.placement]]
    return tuple(sorted(set().union(*halves))) if all(halves) else ()


def _modules(patterns: tuple[str, ...], model: ModelFacts) -> list[str]:
    return [name for name in model.linear_modules if any(matches(pattern, name) for pattern in patterns)]


def _outputs(module: str, model: ModelFacts) -> int:
    """The outputs of a linear module: of GPT-2's, which are stored the other way round, the bias says it."""
    return model.shapes.get(f"{module}.bias", model.shapes[f"{module}.weight"])[0]


def resolve(method: Adapter, model: ModelFacts) -> tuple[Adapter, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    if method.target_modules != "auto":
        return method, ()
    placed = _placed(method, model)
    where = "each attention and each feed-forward" if method.placement == "houlsby" else "each feed-forward"
    choice = Choice(pointer="/method/target_modules", value=placed, reason=f"the last projections of {where}")
    return replace(method, target_modules=placed), (choice,)


def tuned(method: Adapter, model: ModelFacts) -> Tuned:
    """The projections with an adapter: two matrices and two biases each."""
    assert method.target_modules != "auto", "resolved"
    modules = _modules(method.target_modules, model)
    count = 0
    for outputs in (_outputs(name, model) for name in modules):
        units = width(outputs, method.reduction_factor)
        count += 2 * outputs * units + units + outputs
    return Tuned(modules=tuple(modules), parameters=count, total=model.num_parameters)
