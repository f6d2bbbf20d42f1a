"""How many tokens of a row are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.auto import Auto

if TYPE_CHECKING:
    from compiler.facts import DataFacts, ModelFacts

NO_TOKENS = 1
"""The length of every row where a model reads no tokens."""
LONGEST = 512  # tokens; longer rows are the author's decision


def auto_length(model: ModelFacts | None, data: DataFacts) -> Auto[int]:
    """What a max_length of "auto" stands for: the longest row, within LONGEST and what the model takes."""
    limit = min(LONGEST, model.max_positions or LONGEST) if model is not None else LONGEST
    longest = data.longest_row or limit
    over = f", the limit is {limit}" if longest > limit else ""
    return Auto(max(2, min(longest, limit)), f"the longest row has {longest} tokens{over}")


def auto_target_length(model: ModelFacts | None, data: DataFacts) -> Auto[int]:
    """What a max_target_length of "auto" stands for: the longest target, within LONGEST and what the model writes."""
    limit = min(LONGEST, model.max_target_positions or LONGEST) if model is not None else LONGEST
    longest = data.longest_target or limit
    over = f", the limit is {limit}" if longest > limit else ""
    return Auto(max(2, min(longest, limit)), f"the longest target has {longest} tokens{over}")


def length_grid(max_length: int) -> tuple[int, ...]:
    """The lengths that batches are padded to: fine where rows are short, coarse where they are long."""
    grid: list[int] = []
    length = 0
    while length < max_length:
        length += 8 if length < 64 else 16 if length < 128 else 32 if length < 256 else 64 if length < 512 else 128
        grid.append(min(length, max_length))
    return tuple(grid)
