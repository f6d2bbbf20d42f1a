"""Metrics of next tokens: what a language model gives to those that come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.typed import About


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """Exponential of the mean cross-entropy of a token in nats; guessing among k tokens costs k."""

    type: Annotated[
        Literal["perplexity"], About("Exponential of the mean loss of a token; guessing among k tokens costs k.")
    ] = "perplexity"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAccuracy:
    """Share of the tokens that were the likeliest."""

    type: Annotated[Literal["token-accuracy"], About("Share of the tokens that were the likeliest.")] = "token-accuracy"
