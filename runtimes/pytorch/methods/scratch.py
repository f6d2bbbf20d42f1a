"""Training from nothing: every parameter is trained, as by full tuning; runtimes/pytorch/fresh.py draws them."""

from __future__ import annotations

from runtimes.pytorch.methods.full import DROPS_IN_FROZEN, new_parameters, wrap

__all__ = ["DROPS_IN_FROZEN", "new_parameters", "wrap"]
