"""A value that the compiler chose, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class Auto(Generic[T]):
    """A chosen value and why it was chosen."""

    value: T
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An open value of the recipe (JSON Pointer), what the compiler put there, and why."""

    pointer: str
    value: str | int | float | tuple[str | float, ...]
    reason: str
