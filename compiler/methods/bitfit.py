"""BitFit: biases are trained, all else is frozen (Ben Zaken et al. 2021, arXiv:2106.10199)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods.interface import Tuned, num_parameters, unknown_shapes
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About
from compiler.weights import is_above_layers, is_bias

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class BitFit:
    """Every bias is trained, and the head, but for the matrix by which it gives words."""

    type: Annotated[Literal["bitfit"], About("Train the biases and the task head.")] = "bitfit"


LEARNING_RATE = Auto(1e-3, "method bitfit: biases alone stand twenty times the rate of full tuning")
MERGES = False  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "model"
RUNTIMES = EVERY_RUNTIME


def check(recipe: Recipe, method: BitFit, model: ModelFacts) -> Iterator[Diagnostic]:
    """The model has biases."""
    if not model.has_shapes:
        yield unknown_shapes(recipe)
        return
    if not _biases(model):
        message = f"the model ({model.model_type}) has no biases in its layers"
        yield recipe.finding("R234", "/method", message, 'use the method "lora"')


def resolve(method: BitFit, model: ModelFacts) -> tuple[BitFit, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    return method, ()


def tuned(method: BitFit, model: ModelFacts) -> Tuned:
    """The modules with a bias, of which the biases alone are trained."""
    names = _biases(model)
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return Tuned(modules=tuple(modules), parameters=num_parameters(model.shapes, names), total=model.num_parameters)


def _biases(model: ModelFacts) -> list[str]:
    return [name for name, shape in model.shapes.items() if is_bias(name, len(shape)) and not is_above_layers(name)]
