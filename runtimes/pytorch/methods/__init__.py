"""How each tuning method wraps a model: one module each, imported on use.

A module has `wrap(model, head, method, task_type, model_id) -> nn.Module`, `new_parameters(model) -> list[New]` for
what wrapping added, and `DROPS_IN_FROZEN`. One whose method does more than an optimizer does has
`course(model, method, num_steps) -> Course` as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn
from transformers import PreTrainedModel

from compiler.methods import Method
from runtimes.initial import New
from runtimes.saved import Adapter

MODULES: Mapping[str, str] = {
    "full": "runtimes.pytorch.methods.full",
    "head": "runtimes.pytorch.methods.head",
    "freeze": "runtimes.pytorch.methods.freeze",
    "lora": "runtimes.pytorch.methods.lora",
    "qlora": "runtimes.pytorch.methods.qlora",
    "dora": "runtimes.pytorch.methods.dora",
    "ia3": "runtimes.pytorch.methods.ia3",
    "layer-norm": "runtimes.pytorch.methods.layer_norm",
    "adapter": "runtimes.pytorch.methods.adapter",
    "bitfit": "runtimes.pytorch.methods.bitfit",
    "prompt": "runtimes.pytorch.methods.prompt",
    "p-tuning": "runtimes.pytorch.methods.p_tuning",
    "prefix": "runtimes.pytorch.methods.prefix",
    "adalora": "runtimes.pytorch.methods.adalora",
    "scratch": "runtimes.pytorch.methods.scratch",
}


class MethodModule(Protocol):
    """What a method's module holds."""

    DROPS_IN_FROZEN: bool
    """Whether modules without a trained parameter have dropout in training; batch norms among them are at rest."""

    def wrap(
        self, model: PreTrainedModel, head: tuple[str, ...], method: Method, task_type: str, model_id: str
    ) -> nn.Module:
        """The model with its trainable parameters marked, and with what the method adds."""
        ...

    def new_parameters(self, model: nn.Module) -> list[New]:
        """What wrapping added, to be given first values."""
        ...


class Course(Protocol):
    """What a method does beside the optimizer."""

    def penalty(self) -> Tensor:
        """A term of the loss that no row has a part in."""
        ...

    def after_step(self) -> None:
        """What follows a step of the optimizer, while its gradients are there."""
        ...

    def answering(self) -> AbstractContextManager[None]:
        """A context in which the model is what its files are: it is evaluated and saved there, and trained outside."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """What it goes on from after an interruption, under the same names at every step."""
        ...

    def take_state(self, found: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave. Raises KeyError when it is of another model."""
        ...


@runtime_checkable
class CourseModule(MethodModule, Protocol):
    """What the module of a method holds that has a course."""

    def course(self, model: nn.Module, method: Method, num_steps: int) -> Course:
        """What goes along with the steps of a wrapped model."""
        ...


def course_of(method: Method, model: nn.Module, num_steps: int) -> Course | None:
    """What goes along with the steps of a wrapped model; None where its method has nothing."""
    module = module_of(method.type)
    return module.course(model, method, num_steps) if isinstance(module, CourseModule) else None


def module_of(name: str) -> MethodModule:
    """The module of a method by the method's type."""
    return cast(MethodModule, importlib.import_module(MODULES[name]))


def require_known(adapter: Adapter) -> Adapter:
    """The adapter, after its method's module is imported: PEFT knows methods of ours from then on."""
    module_of(adapter.method.type)
    return adapter
