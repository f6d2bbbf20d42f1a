"""The modules that compute in training as they do in evaluation. The same on every engine."""

from __future__ import annotations

from torch import nn

from compiler.methods import Method
from runtimes.pytorch.methods import module_of

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def resting_modules(model: nn.Module, method: Method) -> tuple[nn.Module, ...]:
    """Those of a wrapped model that have no dropout in training by its method, and batch norms that are frozen.

    A batch norm in training moves its means, which a file of an adapter does not have.
    """
    if module_of(method.type).DROPS_IN_FROZEN:
        return tuple(module for module in model.modules() if isinstance(module, _BATCH_NORMS) and _is_frozen(module))
    return frozen_modules(model)


def frozen_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """The largest modules without a trained parameter: they compute as in evaluation, without dropout."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return (model,)
    children = (child for child in model.children() if next(child.parameters(), None) is not None)
    return tuple(frozen for child in children for frozen in frozen_modules(child))


def _is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, and none is trained."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and not any(trained)
