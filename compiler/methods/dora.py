"""DoRA: low-rank updates of the directions of frozen weights, whose lengths are trained (Liu et al. 2024).

arXiv:2402.09353.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto
from compiler.methods import lora
from compiler.methods.interface import Tuned
from compiler.methods.lora import LowRank, check, resolve
from compiler.methods.targets import meant
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts

__all__ = ["LEARNING_RATE", "MERGES", "RUNTIMES", "SAVES", "DoRA", "check", "resolve", "tuned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoRA(LowRank):
    """As lora, with a trained length for each output of an updated layer."""

    type: Annotated[Literal["dora"], About("As lora, and train the length of each row of a weight by itself.")] = "dora"


LEARNING_RATE = Auto(5e-4, "method dora: as for lora, the trained updates are the same")
MERGES = True  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES = EVERY_RUNTIME


def tuned(method: DoRA, model: ModelFacts) -> Tuned:
    """As lora, and a length for each output of an updated module."""
    found = lora.tuned(method, model)
    lengths = sum(model.sides(name)[0] for name in meant(method.target_modules, model.linear_modules))
    assert found.parameters is not None, "the shapes are known"
    return replace(found, parameters=found.parameters + lengths)
