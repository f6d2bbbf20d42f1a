"""How a decoder writes: the recipe's `generation` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.typed import About

MOST_EXAMPLES = 64
"""Solved rows that a recipe may ask for before a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How the tokens of an answer are chosen, and where it ends. The default is greedy: always the likeliest token."""

    max_new_tokens: Annotated[int, About("Tokens of an answer, its end token counted.", minimum=1)] = 128
    num_beams: Annotated[
        int, About("Answers that are written side by side; the likeliest one a token is kept.", minimum=1, maximum=64)
    ] = 1
    temperature: Annotated[
        float, About("0: the likeliest token. Above: drawn from the softmax of logits / temperature.", minimum=0)
    ] = 0.0
    top_k: Annotated[
        int | None, About("With temperature: draw from this many likeliest tokens; null for all.", minimum=1)
    ] = None
    top_p: Annotated[
        float,
        About("With temperature: draw from the fewest likeliest tokens with this share or more.", above=0, maximum=1),
    ] = 1.0
    stop: Annotated[tuple[str, ...], About("An answer ends before the first of these texts.")] = ()
    rows: Annotated[
        int, About("At most so many held-out rows are answered, where a metric is measured on texts.", minimum=1)
    ] = 100
    few_shot: Annotated[
        int | Literal["auto"],
        About(
            "Solved train rows before each prompt, for a second look at the untuned model; metrics of written texts "
            "alone are measured so, and 0 leaves it out. auto: 3, or as many as the model has positions for.",
            minimum=0,
            maximum=MOST_EXAMPLES,
        ),
    ] = "auto"
    seed: Annotated[
        int,
        About(
            "Decides what is drawn: tokens with temperature, and the rows of few_shot.", minimum=0, maximum=2**32 - 1
        ),
    ] = 0

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0

    def room(self, max_positions: int | None) -> int | None:
        """Tokens that a prompt may have where the answer takes positions of the same model; None without a limit."""
        return None if max_positions is None else max_positions - min(self.max_new_tokens, max_positions // 2)
