"""QLoRA: what PEFT adds is LoRA's; how the weights beside it are held is the runtime's matter."""

from __future__ import annotations

from runtimes.pytorch.methods.lora import DROPS_IN_FROZEN, new_parameters, wrap

__all__ = ["DROPS_IN_FROZEN", "new_parameters", "wrap"]
