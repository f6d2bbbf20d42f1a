"""Whether an adapter that a training begins with is of the recipe's method: read from its files, no framework."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compiler.adapter_names import bare_name
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic, short
from compiler.methods.targets import saved_parameters
from compiler.weights import is_in_head

if TYPE_CHECKING:
    from compiler.facts import AdapterFacts, ModelFacts
    from compiler.recipe import Recipe

FROM = (
    "A folder with a PEFT adapter of the same method, rank, scale and target modules, whose weights are the first "
    "values; a path as a model's."
)
# The files' hashes are in the key of a training, and not where they lie.
BEGUN: Mapping[str, bool] = {"later": True, "key": False}
_OLD = {"gamma": "weight", "beta": "bias"}
Shape = tuple[int, ...]
Parts = Mapping[str, Mapping[str, Shape]]
"""Of each module, the weights beside it: by what their names have after the module's."""


def check_beginning(recipe: Recipe, model: ModelFacts, said: Mapping[str, Any], parts: Parts) -> Iterator[Diagnostic]:
    """The adapter says the same as the recipe, and has weights of the same shapes beside the same modules.

    `said`: what its adapter_config.json would say. `parts`: what the method adds to each module.
    """
    adapter = model.adapter
    if adapter is None:
        return
    wrong = [key for key, value in said.items() if adapter.config.get(key, False) != value]
    if wrong:
        differ = ", ".join(f"{key} is {_shown(adapter.config.get(key))} and not {_shown(said[key])}" for key in wrong)
        message = f"the adapter {adapter.id} is of another method than the recipe's: its {differ}"
        yield recipe.finding("R232", "/method/from", message, "write the method as the adapter was trained")
        return
    theirs, saved = _of_adapter(adapter, {end for own in parts.values() for end in own})
    renamed = model.architecture == "vision"
    lacking, more = _differing(theirs, tuple(parts), renamed=renamed)
    if lacking or more:
        what = f"lacks {lacking[0]}" if lacking else f"has {more[0]} besides"
        message = f"the adapter {adapter.id} is of other target modules than the recipe's method: it {what}"
        yield recipe.finding("R232", "/method/from", message, "name the adapter's target_modules")
        return
    patterns = getattr(recipe.method, "modules_to_save", ())
    own = {_present(name): shape for name, shape in saved_parameters(model, patterns).items()}
    stored = [_present(name) for name in model.shapes if not is_in_head(name)]
    beside = _reshaped(parts, theirs), _unlike(own, saved, stored)
    counted = _counted(_flat(parts), _flat(theirs)), _counted(own, saved, more=False)
    for what in itertools.islice(itertools.chain(*(counted if renamed else beside)), 1):
        message = f"the adapter {adapter.id} is of another model, or other modules were saved with it: {what}"
        hint = "name an adapter of this model, and its modules_to_save"
        yield recipe.finding("R232", "/method/from", message, hint)


def _of_adapter(adapter: AdapterFacts, ends: Iterable[str]) -> tuple[dict[str, dict[str, Shape]], dict[str, Shape]]:
    """The weights that an adapter has beside each module, by the ends of their names; and those of saved modules."""
    beside: dict[str, dict[str, Shape]] = {}
    saved: dict[str, Shape] = {}
    for whole, shape in adapter.shapes.items():
        name = bare_name(whole)
        end = next((end for end in ends if name.endswith(f".{end}")), "")
        if end:
            beside.setdefault(name.removesuffix(f".{end}"), {})[end] = shape
        else:
            saved[name] = shape
    return beside, saved


def _reshaped(parts: Parts, theirs: Parts) -> Iterator[str]:
    """Where the weights beside modules have other shapes; the modules are the same."""
    for module, own in parts.items():
        found = next(other for name, other in theirs.items() if _same(module, name))
        for end, shape in own.items():
            if found.get(end) != shape:
                yield _other(f"{module}.{end}", found.get(end), shape)


def _unlike(own: Mapping[str, Shape], saved: Mapping[str, Shape], stored: Iterable[str]) -> Iterator[str]:
    """Where saved modules are not those that the recipe names. What the model has no weights of is of heads."""
    for name, shape in own.items():
        found = next((other for named, other in saved.items() if _same(name, named)), None)
        if found != shape:
            yield _other(name, found, shape)
    others = [name for name in stored if name not in own]
    yield from (f"it has {named} besides" for named in saved if any(_same(name, named) for name in others))


def _other(name: str, found: Shape | None, shape: Shape) -> str:
    return f"it lacks {name}" if found is None else f"its {name} has the shape {list(found)} and not {list(shape)}"


def _flat(parts: Parts) -> dict[str, Shape]:
    return {f"{module}.{end}": shape for module, own in parts.items() for end, shape in own.items()}


def _counted(own: Mapping[str, Shape], theirs: Mapping[str, Shape], *, more: bool = True) -> Iterator[str]:
    """Which shapes are there more or less often, where names can't be compared. `more`: whether none may be left."""
    wanted, found = Counter(own.values()), Counter(theirs.values())
    for shape in wanted - found:
        yield f"of the shape {list(shape)} it has {found[shape]} weights and not {wanted[shape]}"
    for shape in found - wanted if more else ():
        yield f"of the shape {list(shape)} it has {found[shape]} weights and not {wanted[shape]}"


def _present(name: str) -> str:
    """What models call a parameter now that old files have another name of."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.{_OLD.get(last, last)}"


def choose_head(adapter: AdapterFacts, names: tuple[str, ...] | None) -> tuple[bool, tuple[Choice, ...]]:
    """Whether a training begins with the head that an adapter brings, and what is to be said of it.

    `names`: of the outputs of the task's head; None where it has no names for them.
    """
    if not adapter.has_head:
        return True, ()
    why = "" if names is None else _why_not(adapter.labels, names)
    if why:
        return False, (Choice(pointer="/method/from", value="head left out", reason=why),)
    reason = "it answers the task" if names is None else "the adapter's own head has these labels"
    return True, (Choice(pointer="/method/from", value="head kept", reason=reason),)


def _why_not(labels: tuple[str, ...] | None, names: tuple[str, ...]) -> str:
    """Why a head with these labels does not answer with these names; "" where it does."""
    if labels is None:
        return "no config.json beside the adapter says which labels its head has"
    if labels == names:
        return ""
    return f"its labels are {'in another order' if sorted(labels) == sorted(names) else 'others'}"


def _shown(value: object) -> str:
    return short(json.dumps(value, ensure_ascii=False))


def _differing(theirs: Iterable[str], modules: tuple[str, ...], *, renamed: bool) -> tuple[list[str], list[str]]:
    """The modules that the adapter lacks, and those that it has besides; what stands in front of a name is the head's.

    `renamed`: whether the model calls its modules otherwise than its files, so that only their number can be compared.
    """
    theirs = tuple(theirs)
    if renamed:
        return list(modules[len(theirs) :]), list(theirs[len(modules) :])
    lacking = [own for own in modules if not any(_same(own, other) for other in theirs)]
    return lacking, [other for other in theirs if not any(_same(own, other) for own in modules)]


def _same(stored: str, named: str) -> bool:
    """Whether two names are of one module: a model with a head puts a word in front, or the files do."""
    return stored == named or named.endswith(f".{stored}") or stored.endswith(f".{named}")
