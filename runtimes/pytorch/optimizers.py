"""The plan's optimizer on torch, and its moments: made before the first step, saved and taken up by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from compiler.moments import wanted
from compiler.plan import Train
from compiler.recipe import SGD, Adam, AdamW
from runtimes.groups import Group
from runtimes.pytorch.quiet import quiet

_CODES = ("qmap1", "qmap2")  # what the 256 codes of bitsandbytes stand for: the same for all, and never changed


def new_optimizer(
    step: Train, trained: Mapping[str, nn.Parameter], groups: Mapping[str, Group]
) -> torch.optim.Optimizer:
    """The plan's optimizer, with a group of its own for each rate and decay."""
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in trained.items():
        members.setdefault((groups[name].rate, groups[name].weight_decay), []).append(value)
    given: list[dict[str, Any]] = [
        {"params": values, "rate": rate, "weight_decay": decay} for (rate, decay), values in members.items()
    ]
    match step.optimizer:
        case AdamW() as adam if wanted(adam):
            return _held_otherwise(adam, given, step.learning_rate)
        case AdamW(beta1=beta1, beta2=beta2, epsilon=epsilon):
            return torch.optim.AdamW(given, lr=step.learning_rate, betas=(beta1, beta2), eps=epsilon, fused=True)
        case Adam(beta1=beta1, beta2=beta2, epsilon=epsilon):
            return torch.optim.Adam(given, lr=step.learning_rate, betas=(beta1, beta2), eps=epsilon, fused=True)
        case SGD(momentum=momentum):
            return torch.optim.SGD(given, lr=step.learning_rate, momentum=momentum, fused=True)
        case _:
            assert_never(step.optimizer)


def _held_otherwise(adam: AdamW, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits, or paged (Dettmers et al. 2022, arXiv:2110.02861)."""
    with quiet():
        import bitsandbytes
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW(
        groups,
        lr=learning_rate,
        betas=(adam.beta1, adam.beta2),
        eps=adam.epsilon,
        optim_bits=8 if adam.state == "8-bit" else 32,
        is_paged=adam.paged,
    )
    return optimizer


def hold_moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, *, exactly: bool) -> None:
    """Makes zero moments of a parameter.

    `exactly`: in 32 bits in any case, as embeddings need them: few of their rows have a gradient in a step, so that the
    moments of a block differ by more than 8 bits tell apart.
    """
    match optimizer:
        case torch.optim.Adam():
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        case torch.optim.SGD():
            momentum = optimizer.defaults["momentum"]
            optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)} if momentum else {}
        case _:
            _hold_otherwise(optimizer, parameter, exactly=exactly)


def _hold_otherwise(optimizer: Any, parameter: nn.Parameter, *, exactly: bool) -> None:
    if exactly:
        first, second = (optimizer.get_state_buffer(parameter, dtype=torch.float32) for _ in range(2))
        optimizer.state[parameter] = {"step": 0, "state1": first, "state2": second}
        return
    for index, group in enumerate(optimizer.param_groups):
        for place, member in enumerate(group["params"]):
            if member is parameter:
                _begin(optimizer, group, parameter, index, place)


def _begin(optimizer: Any, group: Any, parameter: nn.Parameter, index: int, place: int) -> None:
    """Lets an optimizer make its moments of a parameter: all of them or, where there is no room, none."""
    try:
        optimizer.init_state(group, parameter, index, place)
    except RuntimeError:
        optimizer.state.pop(parameter, None)
        raise


def moments_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What is remembered of a parameter, by name."""
    if getattr(optimizer, "is_paged", False):
        torch.cuda.synchronize()  # paged memory is read by the machine itself
    held = optimizer.state.get(parameter, {})
    return {name: torch.as_tensor(value) for name, value in held.items() if name not in _CODES}


def take_moments(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, found: Mapping[str, Tensor], prefix: str
) -> None:
    """Takes up the moments of a parameter, which were saved under a prefix. Raises KeyError for one that was not."""
    held = optimizer.state.get(parameter, {})
    for name, value in held.items():
        if isinstance(value, int):
            held[name] = int(found[prefix + name].item())
        elif name not in _CODES:
            value.copy_(found[prefix + name])
