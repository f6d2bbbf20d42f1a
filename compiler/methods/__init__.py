"""Tuning methods: one module each, with its part of the language, its checks and what it resolves to."""

from __future__ import annotations

from types import ModuleType
from typing import assert_never

from compiler.methods import dora, freeze, full, head, ia3, layer_norm, lora, qlora
from compiler.methods.dora import DoRA
from compiler.methods.freeze import Freeze
from compiler.methods.full import Full
from compiler.methods.head import Head
from compiler.methods.ia3 import IA3
from compiler.methods.layer_norm import LayerNorm
from compiler.methods.lora import LoRA
from compiler.methods.qlora import QLoRA

__all__ = ["IA3", "DoRA", "Freeze", "Full", "Head", "LayerNorm", "LoRA", "Method", "QLoRA", "module_of"]

Method = Full | Head | Freeze | LoRA | QLoRA | DoRA | IA3 | LayerNorm


def module_of(method: Method) -> ModuleType:
    """The module of a method: LEARNING_RATE, MERGES, RUNTIMES, check, resolve."""
    match method:
        case Full():
            return full
        case Head():
            return head
        case Freeze():
            return freeze
        case LoRA():
            return lora
        case QLoRA():
            return qlora
        case DoRA():
            return dora
        case IA3():
            return ia3
        case LayerNorm():
            return layer_norm
        case _:
            assert_never(method)
