"""How many tokens of a row are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.auto import Auto

if TYPE_CHECKING:
    from compiler.facts import DataFacts, ModelFacts

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
