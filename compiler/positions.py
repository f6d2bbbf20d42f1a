"""How many tokens a model has positions for, as a configuration of the transformers layout says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Positions are told by how far tokens are apart, so that their number has no limit, whatever stands in n_positions.
_RELATIVE = frozenset(["longt5", "mt5", "switch_transformers", "t5", "udop", "umt5"])
_NAMES = ("max_position_embeddings", "n_positions", "n_ctx")


def has_relative_positions(config: Mapping[str, Any]) -> bool:
    """Whether a model takes any number of tokens."""
    return config.get("model_type") in _RELATIVE


def num_positions(config: Mapping[str, Any]) -> int | None:
    """Those that a model has; None without a limit, or where it does not say."""
    if has_relative_positions(config):
        return None
    found = (config.get(name) for name in _NAMES)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )
