"""Tuning methods: one module each, with its part of the language, its checks and what it resolves to."""

from __future__ import annotations

import importlib
from typing import cast

from compiler.methods.freeze import Freeze
from compiler.methods.full import Full
from compiler.methods.head import Head
from compiler.methods.interface import MethodModule, Tuned
from compiler.methods.lora import LoRA
from compiler.methods.p_tuning import PTuning
from compiler.methods.prefix import Prefix
from compiler.methods.prompt import Prompt
from compiler.methods.qlora import QLoRA

__all__ = [
    "Freeze",
    "Full",
    "Head",
    "LoRA",
    "Method",
    "MethodModule",
    "PTuning",
    "Prefix",
    "Prompt",
    "QLoRA",
    "Tuned",
    "module_of",
]

Method = Full | Head | Freeze | LoRA | QLoRA | Prompt | PTuning | Prefix


def module_of(method: Method) -> MethodModule:
    """The module of a method: the one that defines its class."""
    return cast(MethodModule, importlib.import_module(type(method).__module__))
