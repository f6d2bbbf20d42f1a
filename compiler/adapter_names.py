"""What PEFT calls the parameters of a model: in the one that it has wrapped, and in an adapter's files."""

from __future__ import annotations

import re
from collections.abc import Collection

WITHIN, BESIDE = "base_model.model.", "base_model."
"""What stands before the model's own names: where modules within it are tuned, and where tokens beside it are."""
_PARTS = (".base_layer.", ".modules_to_save.default.", ".ln_tuning_layers.default.", ".original_module.")
"""What stands inside of a name where a module was wrapped, or copied to be trained in full."""
_MAGNITUDE = re.compile(r"(\.lora_magnitude_vector\.default)\.weight$")
_UNSAID = re.compile(r"\.default(?=\.|$)")


def bare_name(name: str) -> str:
    """A parameter's name without what stands before it in a wrapped model or an adapter's file."""
    return next((own for own in own_names(name) if own != name), name)


def own_names(name: str) -> tuple[str, ...]:
    """The names that a parameter may have in the model itself: several, as that may call a module `model` too."""
    return tuple(dict.fromkeys(name.removeprefix(wrapper) for wrapper in (WITHIN, BESIDE)))


def without_parts(name: str) -> str:
    """A parameter's name without what stands inside of it where a module was wrapped or copied."""
    for part in _PARTS:
        name = name.replace(part, ".")
    return name


def saved_name(name: str) -> str:
    """What the file of an adapter calls a parameter of a wrapped model."""
    whole = name.replace(".modules_to_save.default.", ".")
    return _UNSAID.sub("", _MAGNITUDE.sub(r"\1", whole))


def inside(name: str, module: str) -> bool:
    """Whether a module or parameter is a module or inside of it."""
    return name == module or name.startswith(f"{module}.")


def is_of_head(name: str, head: Collection[str]) -> bool:
    """Whether a parameter or module, by its name in a model that may be wrapped, is of a task's head.

    `head`: modules by their names in the model itself, whole subtrees.
    """
    return any(inside(bare_name(name), top) for top in head)
