"""DoRA: low-rank updates of the directions of frozen weights, whose lengths are trained (Liu et al. 2024).

arXiv:2402.09353.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.auto import Auto
from compiler.methods.lora import LowRank, check, resolve
from compiler.placement import EVERY_RUNTIME
from compiler.typed import About

__all__ = ["LEARNING_RATE", "MERGES", "RUNTIMES", "DoRA", "check", "resolve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoRA(LowRank):
    """As lora, with a trained length for each output of an updated layer."""

    type: Annotated[Literal["dora"], About("As lora, and train the length of each row of a weight by itself.")] = "dora"


LEARNING_RATE = Auto(5e-4, "method dora: as for lora, the trained updates are the same")
MERGES = True  # whether what it trains is merged into its base before an export
RUNTIMES = EVERY_RUNTIME
