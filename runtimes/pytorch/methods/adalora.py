"""AdaLoRA through PEFT: updates B E A, whose ranks are taken by importance after each step."""

from __future__ import annotations

from typing import Any, cast

import peft
import torch
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.adalora.layer import AdaLoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from compiler.methods import AdaLoRA
from runtimes.initial import New
from runtimes.pytorch.adapters import is_linear, is_transposed, saved_modules, targets, task_type, wrapped

DROPS_IN_FROZEN = True
_DEVIATION = 0.02  # of A and B at first, as PEFT draws them


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: AdaLoRA, task: str, model_id: str) -> nn.Module:
    """A PEFT model: updates on the target modules, and a trained copy of the head."""
    saved = saved_modules(model, head, method.modules_to_save)
    configuration = peft.AdaLoraConfig(
        init_r=method.initial_rank,
        target_r=method.target_rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        deltaT=method.interval,
        beta1=method.beta1,
        beta2=method.beta2,
        orth_reg_weight=method.orthogonal_weight,
        total_step=1,  # which Course knows
        target_modules=targets(model, saved, method.target_modules, is_linear),
        fan_in_fan_out=is_transposed(model),
        modules_to_save=list(saved),
        task_type=task_type(task),
        base_model_name_or_path=model_id,
    )
    return wrapped(model, configuration, saved, model_id)


def new_parameters(model: nn.Module) -> list[New]:
    """The updates: A and B normal, E zero, so that the first answers are the base's."""
    found: list[New] = []
    for name, module in model.named_modules():
        if isinstance(module, AdaLoraLayer):
            for part in ("lora_A", "lora_B"):
                shape = tuple(getattr(module, part)["default"].shape)
                found.append(New(name=f"{name}.{part}.default", shape=shape, kind="normal", scale=_DEVIATION))
            shape = tuple(cast(nn.Parameter, module.lora_E["default"]).shape)
            found.append(New(name=f"{name}.lora_E.default", shape=shape, kind="zeros"))
    return found


class Course:
    """What AdaLoRA does beside the optimizer: a term of the loss, and ranks that are taken after each step."""

    def __init__(self, model: nn.Module, method: AdaLoRA, num_steps: int) -> None:
        self.weight = method.orthogonal_weight
        self.model: AdaLoraModel = cast(Any, model).base_model
        self.configuration = cast(peft.AdaLoraConfig, self.model.peft_config["default"])
        self.configuration.tinit, self.configuration.tfinal = method.phases(num_steps)
        self.configuration.total_step = num_steps
        self.updates = {name: value for name, value in self.model.model.named_parameters() if _is_update(name)}
        first = next(iter(self.updates.values()))
        self.count = torch.zeros((), device=first.device)
        self.kept = {name: torch.ones_like(value) for name, value in self.updates.items() if "lora_E" in name}
        self._fill()

    def penalty(self) -> Tensor:
        """The weighted mean, over the factors of updates, of |P P' - 1| in the Frobenius norm."""
        factors = [
            value if "lora_A" in name else value.T for name, value in self.updates.items() if "lora_E" not in name
        ]
        distances = [
            torch.linalg.norm(value @ value.T - torch.eye(len(value), device=value.device)) for value in factors
        ]
        mean: Tensor = torch.stack(distances).mean()
        return self.weight * mean

    def after_step(self) -> None:
        """Counts a step of the optimizer, whose gradients are still there, and takes ranks."""
        self.count += 1
        self._say()
        self.model.update_and_allocate(int(self.count.item()))  # type: ignore[no-untyped-call]
        pattern = self.configuration.rank_pattern or {}
        for name, values in pattern.items():
            self.kept[name].copy_(torch.tensor(values).reshape(self.kept[name].shape))
        self._fill()

    def before_saving(self) -> None:
        """Takes what has grown again of ranks that were taken, which no file of PEFT has."""
        self._say()
        allocator: Any = self.model.rankallocator
        allocator.mask_using_rank_pattern(self.model.model, self.configuration.rank_pattern)

    def state(self) -> dict[str, Tensor]:
        """All that it goes on from, the tensors themselves."""
        allocator = self.model.rankallocator
        averages = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc, "kept": self.kept}
        found = {f"{kind}/{name}": value for kind, values in averages.items() for name, value in values.items()}
        return {"count": self.count, **found}

    def _say(self) -> None:
        """Tells PEFT which ranks are left: what it knew is of another process, or under the names of its files."""
        left = {name: value.flatten().bool().tolist() for name, value in self.kept.items()}
        self.configuration.rank_pattern = left

    def _fill(self) -> None:
        """Averages that are not there yet, or no more, are zero, so that a state has the same names at every step."""
        allocator = self.model.rankallocator
        for name, value in self.updates.items():
            for averages in (allocator.exp_avg_ipt, allocator.exp_avg_unc):
                averages.setdefault(name, torch.zeros_like(value))
            allocator.ipt.setdefault(name, torch.zeros_like(value))


def course(model: nn.Module, method: AdaLoRA, num_steps: int) -> Course:
    """What goes along with the steps of a training."""
    return Course(model, method, num_steps)


def _is_update(name: str) -> bool:
    return any(f".{part}.default" in name for part in ("lora_A", "lora_B", "lora_E"))
