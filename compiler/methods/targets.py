"""Which modules of a model a method speaks of: patterns over the names that its files have."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from compiler.diagnostics import Diagnostic, nearest
from compiler.groups import LAYER
from compiler.methods.interface import Tuned, num_parameters
from compiler.typed import About
from compiler.weights import is_in_head

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe

PATTERNS = "by their names, the ends of these, or patterns in which * stands for any part of a name between dots"
SavedModules = Annotated[
    tuple[str, ...], About(f"Further modules that are trained in full and saved with the adapter, {PATTERNS}.")
]
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern means a module: its name or the end of it after a dot; * is any characters but dots."""
    return _expression(pattern).fullmatch(module) is not None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(r"(?:.*\.)?" + "[^.]*".join(re.escape(part) for part in pattern.split("*")))


def meant(patterns: Iterable[str], modules: Iterable[str]) -> tuple[str, ...]:
    """The modules that one of the patterns means, in their order."""
    known = tuple(patterns)
    return tuple(module for module in modules if any(matches(pattern, module) for pattern in known))


def inside_layers(modules: Iterable[str]) -> tuple[str, ...]:
    """The names that modules have inside a numbered layer, each once."""
    suffixes = (name[found.end() :] for name in modules if (found := LAYER.search(name)))
    return tuple(sorted(dict.fromkeys(suffixes)))


def every(modules: Iterable[str]) -> tuple[str, ...]:
    """Patterns that mean all of some modules: * in place of the numbers of layers, each pattern once."""
    return tuple(dict.fromkeys(_NUMBER.sub("*", name) for name in modules))


def check_patterns(
    recipe: Recipe, pointer: str, patterns: Iterable[str], modules: Iterable[str], what: str
) -> Iterator[Diagnostic]:
    """Every pattern must mean a module. `what` the modules are, in the singular."""
    known = tuple(modules)
    existing = sorted({*inside_layers(known), *(name.rpartition(".")[2] for name in known)})
    for index, pattern in enumerate(patterns):
        if not meant((pattern,), known):
            message = f'"{pattern}" matches no {what} of the model'
            best = nearest(pattern, existing)
            hint = (f'did you mean "{best}"? ' if best else "") + f"the model has: {', '.join(existing)}"
            yield recipe.finding("R205", f"{pointer}/{index}", message, hint)


def modules_of(parameters: Iterable[str]) -> tuple[str, ...]:
    """The modules that hold some parameters, with those around them."""
    found: dict[str, None] = {}
    for name in parameters:
        parts = name.split(".")[:-1]
        found.update(dict.fromkeys(".".join(parts[: count + 1]) for count in range(len(parts))))
    return tuple(found)


def check_saved(
    recipe: Recipe, patterns: Iterable[str], targets: Iterable[str], parameters: Iterable[str]
) -> Iterator[Diagnostic]:
    """Every pattern of modules to save must mean a module, which holds no target: that would be trained twice."""
    modules, trained = modules_of(parameters), tuple(targets)
    pointer = "/method/modules_to_save"
    found = list(check_patterns(recipe, pointer, patterns, modules, "module"))
    yield from found
    wrong = {each.pointer for each in found}
    for index, pattern in enumerate(patterns):
        saved = () if f"{pointer}/{index}" in wrong else meant((pattern,), modules)
        inside = next((name for name in trained if any(_holds(module, name) for module in saved)), None)
        if inside is not None:
            message = f'"{pattern}" holds {inside}, which is a target module: it would be trained twice'
            yield recipe.finding("R231", f"{pointer}/{index}", message, "leave it out of one of the two lists")


def _holds(module: str, name: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def tuned(model: ModelFacts, modules: Iterable[str], parameters: int, saved: Iterable[str]) -> Tuned:
    """What is trained where `parameters` are added to some modules, and modules that patterns mean are saved whole."""
    names = saved_parameters(model, saved)
    held = dict.fromkeys(name.rpartition(".")[0] for name in names)
    count = parameters + num_parameters(model.shapes, names)
    return Tuned(modules=tuple(dict.fromkeys((*modules, *held))), parameters=count, total=model.num_parameters)


def saved_parameters(model: ModelFacts, patterns: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The parameters of the modules that patterns mean, with their shapes; those of heads apart."""
    whole = meant(patterns, modules_of(model.shapes))
    return {
        name: shape
        for name, shape in model.shapes.items()
        if not is_in_head(name) and any(_holds(module, name) for module in whole)
    }
