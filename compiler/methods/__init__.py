"""Tuning methods: one module each, with its part of the language, its checks and what it resolves to."""

from __future__ import annotations

import importlib
from typing import cast

from compiler.methods.adalora import AdaLoRA
from compiler.methods.adapter import Adapter
from compiler.methods.bitfit import BitFit
from compiler.methods.dora import DoRA
from compiler.methods.freeze import Freeze
from compiler.methods.full import Full
from compiler.methods.head import Head
from compiler.methods.ia3 import IA3
from compiler.methods.interface import MethodModule, Tuned
from compiler.methods.layer_norm import LayerNorm
from compiler.methods.lora import LoRA
from compiler.methods.p_tuning import PTuning
from compiler.methods.prefix import Prefix
from compiler.methods.prompt import Prompt
from compiler.methods.qlora import QLoRA
from compiler.methods.scratch import Scratch

__all__ = [
    "IA3",
    "AdaLoRA",
    "Adapter",
    "BitFit",
    "DoRA",
    "Freeze",
    "Full",
    "Head",
    "LayerNorm",
    "LoRA",
    "Method",
    "MethodModule",
    "PTuning",
    "Prefix",
    "Prompt",
    "QLoRA",
    "Scratch",
    "Tuned",
    "module_of",
    "reads_weights",
]

Method = (
    Full
    | Scratch
    | Head
    | Freeze
    | LoRA
    | QLoRA
    | DoRA
    | IA3
    | LayerNorm
    | Adapter
    | BitFit
    | AdaLoRA
    | Prompt
    | PTuning
    | Prefix
)


def module_of(method: Method) -> MethodModule:
    """The module of a method: the one that defines its class."""
    return cast(MethodModule, importlib.import_module(type(method).__module__))


def reads_weights(method: Method) -> bool:
    """Whether a method begins with the model's own weights."""
    return not isinstance(method, Scratch)
