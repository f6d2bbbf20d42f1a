"""Whether an adapter that a training begins with is of the recipe's method: read from its files, no framework."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compiler.adapter_names import bare_name
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic, short

if TYPE_CHECKING:
    from compiler.facts import AdapterFacts, ModelFacts
    from compiler.recipe import Recipe

FROM = (
    "A folder with a PEFT adapter of the same method, rank, scale and target modules, whose weights are the first "
    "values; a path as a model's."
)
# The files' hashes are in the key of a training, and not where they lie.
BEGUN: Mapping[str, bool] = {"later": True, "key": False}


def check_beginning(
    recipe: Recipe, model: ModelFacts, said: Mapping[str, Any], part: str, modules: Iterable[str]
) -> Iterator[Diagnostic]:
    """The adapter says the same as the recipe, and has the same modules.

    `said`: what its adapter_config.json would say. `part`: what the names of its weights have after a module's.
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
    lacking, more = _differing(adapter, part, tuple(modules), renamed=model.architecture == "vision")
    if lacking or more:
        what = f"lacks {lacking[0]}" if lacking else f"has {more[0]} besides"
        message = f"the adapter {adapter.id} is of other target modules than the recipe's method: it {what}"
        yield recipe.finding("R232", "/method/from", message, "name the adapter's target_modules")


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


def _differing(
    adapter: AdapterFacts, part: str, modules: tuple[str, ...], *, renamed: bool
) -> tuple[list[str], list[str]]:
    """The modules that the adapter lacks, and those that it has besides; what stands in front of a name is the head's.

    `renamed`: whether the model calls its modules otherwise than its files, so that only their number can be compared.
    """
    names = map(bare_name, adapter.shapes)
    theirs = tuple(dict.fromkeys(name[: name.index(part)] for name in names if part in name))
    if renamed:
        return list(modules[len(theirs) :]), list(theirs[len(modules) :])
    lacking = [own for own in modules if not any(_same(own, other) for other in theirs)]
    return lacking, [other for other in theirs if not any(_same(own, other) for own in modules)]


def _same(stored: str, named: str) -> bool:
    """Whether two names are of one module: a model with a head puts a word in front, or the files do."""
    return stored == named or named.endswith(f".{stored}") or stored.endswith(f".{named}")
