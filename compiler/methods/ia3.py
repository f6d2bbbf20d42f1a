"""IA3: trained vectors that scale keys, values and what is between feed-forward layers (Liu et al. 2022).

arXiv:2205.05638.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.groups import is_in_layer
from compiler.methods import targets
from compiler.methods.beginning import BEGUN, FROM, check_beginning
from compiler.methods.interface import Tuned, unknown_shapes
from compiler.methods.targets import PATTERNS, SavedModules, check_patterns, check_saved, every, matches, meant
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe

# The last words of the names that models give to the layers which compute keys and values; with queries in some.
_KEYS_AND_VALUES = (
    *("key", "value", "key_proj", "value_proj", "k", "v", "k_proj", "v_proj", "k_lin", "v_lin"),
    *("Wqkv", "qkv", "qkv_proj", "query_key_value", "in_proj", "c_attn"),
)
# And to the second layer of a feed-forward pair, whose input is scaled.
_FEED_FORWARD = (
    *("output.dense", "ffn_output", "ffn.lin2", "mlp.Wo", "mlp.down_proj", "mlp.c_proj", "mlp.fc2", "fc2"),
    *("DenseReluDense.wo", "dense_4h_to_h", "mlp.fc_out", "feed_forward.w2"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IA3:
    """Vectors that scale what layers compute, one number an output or input; the task head is trained in full."""

    type: Annotated[Literal["ia3"], About("Train vectors that scale keys, values and feed-forward layers.")] = "ia3"
    target_modules: Annotated[
        tuple[str, ...] | Literal["auto"],
        About(
            f"Linear layers to scale, {PATTERNS}. auto: those of keys, of values, and the last of feed-forward ones.",
            nonempty=True,
        ),
    ] = "auto"
    feedforward_modules: Annotated[
        tuple[str, ...] | Literal["auto"],
        About("Those of the target modules whose inputs are scaled, not their outputs. auto: the feed-forward ones."),
    ] = "auto"
    modules_to_save: SavedModules = ()
    from_: Annotated[str | None, About(FROM)] = field(default=None, metadata=BEGUN)


LEARNING_RATE = Auto(3e-3, "method ia3: few numbers stand high rates; that of its paper")
MERGES = True  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def keys_and_values(modules: tuple[str, ...]) -> tuple[str, ...]:
    """The linear modules in layers that compute keys and values."""
    return meant(_KEYS_AND_VALUES, filter(is_in_layer, modules))


def feed_forward(modules: tuple[str, ...]) -> tuple[str, ...]:
    """The second ones of feed-forward pairs in layers, which are not those behind an attention of the same name."""
    found = meant(_FEED_FORWARD, filter(is_in_layer, modules))
    return tuple(name for name in found if "attention" not in name.lower().rpartition(".output.")[0].rpartition(".")[2])


def check(recipe: Recipe, method: IA3, model: ModelFacts) -> Iterator[Diagnostic]:
    """Every pattern must name a linear module; feed-forward modules are among the targets."""
    if not model.has_shapes:
        yield unknown_shapes(recipe)
        return
    linear = model.linear_modules
    if method.target_modules == "auto":
        if not keys_and_values(linear):
            message = f"no layers that compute keys and values were found in the model ({model.model_type})"
            hint = "name target_modules and feedforward_modules" if linear else 'use the method "full" or "head"'
            yield recipe.finding("R205", "/method/target_modules" if linear else "/method", message, hint)
            return
    else:
        yield from check_patterns(recipe, "/method/target_modules", method.target_modules, linear, "linear module")
    known = meant(_targets(method, linear), linear)
    if method.feedforward_modules != "auto":
        pointer = "/method/feedforward_modules"
        yield from check_patterns(recipe, pointer, method.feedforward_modules, known, "target module")
    yield from check_saved(recipe, method.modules_to_save, known, model.shapes)
    yield from check_beginning(recipe, model, {"peft_type": "IA3"}, _parts(method, model, known))


def _parts(method: IA3, model: ModelFacts, known: tuple[str, ...]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The vector of each target module, as PEFT saves it."""
    patterns = method.feedforward_modules
    scaled = set(feed_forward(known) if patterns == "auto" else meant(patterns, known))
    sides = {name: model.sides(name) for name in known}
    return {
        name: {"ia3_l": (1, inputs) if name in scaled else (outputs, 1)} for name, (outputs, inputs) in sides.items()
    }


def _targets(method: IA3, linear: tuple[str, ...]) -> tuple[str, ...]:
    if method.target_modules != "auto":
        return method.target_modules
    return every((*keys_and_values(linear), *feed_forward(linear)))


def resolve(method: IA3, model: ModelFacts) -> tuple[IA3, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    linear = model.linear_modules
    patterns, choices = _targets(method, linear), []
    if method.target_modules == "auto":
        reason = "what computes keys and values, and the second of feed-forward pairs"
        choices.append(Choice(pointer="/method/target_modules", value=patterns, reason=reason))
    feedforward = method.feedforward_modules
    if feedforward == "auto":
        feedforward = every(name for name in feed_forward(linear) if any(matches(own, name) for own in patterns))
        reason = "the second of feed-forward pairs, among the target modules"
        choices.append(Choice(pointer="/method/feedforward_modules", value=feedforward, reason=reason))
    return replace(method, target_modules=patterns, feedforward_modules=feedforward), tuple(choices)


def tuned(method: IA3, model: ModelFacts) -> Tuned:
    """The linear modules with a vector: a number for each input of the feed-forward ones, for each output of others."""
    modules = meant(method.target_modules, model.linear_modules)
    inner = set(meant(method.feedforward_modules, modules))
    count = sum(model.sides(name)[name in inner] for name in modules)
    return targets.tuned(model, modules, count, method.modules_to_save)
