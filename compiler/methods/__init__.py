"""Tuning methods: one module each, with its part of the language, its checks and what it resolves to."""

from __future__ import annotations

from types import ModuleType
from typing import assert_never

from compiler.methods import freeze, full, head, lora, qlora
from compiler.methods.freeze import Freeze
from compiler.methods.full import Full
from compiler.methods.head import Head
from compiler.methods.lora import LoRA
from compiler.methods.qlora import QLoRA

__all__ = ["Freeze", "Full", "Head", "LoRA", "Method", "QLoRA", "module_of"]

Method = Full | Head | Freeze | LoRA | QLoRA


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
        case _:
            assert_never(method)
