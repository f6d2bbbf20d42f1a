"""AdaLoRA through PEFT: updates B E A, whose ranks are taken by importance after each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """What AdaLoRA does beside the optimizer: a term of the loss, and ranks that are taken after each step.

    What is decided by is on the host, so that no step waits for the device but those that take ranks.
    """

    def __init__(self, model: nn.Module, method: AdaLoRA, num_steps: int) -> None:
        self.weight = method.orthogonal_weight
        self.model: AdaLoraModel = cast(Any, model).base_model
        self.configuration = cast(peft.AdaLoraConfig, self.model.peft_config["default"])
        first, last = method.phases(num_steps)
        self.configuration.tinit, self.configuration.tfinal = first, last
        self.settled = num_steps - last  # the step after which no more ranks are taken
        self.configuration.total_step = num_steps
        self.updates = {name: value for name, value in self.model.model.named_parameters() if _is_update(name)}
        self.count = 0  # steps so far
        self.kept = {name: [True] * len(value) for name, value in self.updates.items() if "lora_E" in name}
        self._taken: dict[str, Tensor] = {}  # the ranks that are not kept, on the device; made when they are needed
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
        if self.count > self.settled:
            self._take()  # as PEFT does then, which would move what is kept to the device in each step
            return
        self._say()
        self.model.update_and_allocate(self.count)  # type: ignore[no-untyped-call]
        self._keep(self.configuration.rank_pattern or {})
        self._fill()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Inside, the model is what its files are: what has grown again of ranks that were taken is in none of them."""
        self._say()
        held = {name: self.updates[name].data for name in self.kept}
        try:
            for name, value in held.items():
                self.updates[name].data = value.clone()
            self._take()
            yield
        finally:
            for name, value in held.items():
                self.updates[name].data = value

    def state(self) -> dict[str, Tensor]:
        """All that it goes on from."""
        kept = {f"kept/{name}": torch.tensor(ranks) for name, ranks in self.kept.items()}
        return {"count": torch.tensor(self.count), **kept, **self._averages()}

    def take_state(self, found: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave. Raises KeyError when it is of another model."""
        self.count = int(found["count"].item())
        self._keep({name: found[f"kept/{name}"].tolist() for name in self.kept})
        for name, value in self._averages().items():
            value.copy_(found[name])

    def _averages(self) -> dict[str, Tensor]:
        """PEFT's own averages, the tensors themselves."""
        allocator = self.model.rankallocator
        averages = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
        return {f"{kind}/{name}": value for kind, values in averages.items() for name, value in values.items()}

    def _keep(self, kept: Mapping[str, list[bool]]) -> None:
        """Takes note of the ranks that are kept."""
        for name, ranks in kept.items():
            if ranks != self.kept[name]:
                self.kept[name] = ranks
                self._taken.pop(name, None)

    def _take(self) -> None:
        """Makes the ranks zero that are not kept."""
        for name, ranks in self.kept.items():
            value = self.updates[name].data
            if name not in self._taken:
                self._taken[name] = ~torch.tensor(ranks, device=value.device)[:, None]
            value.masked_fill_(self._taken[name], 0.0)

    def _say(self) -> None:
        """Tells PEFT which ranks are left: what it knew is of another process, or under the names of its files."""
        self.configuration.rank_pattern = {name: [*ranks] for name, ranks in self.kept.items()}

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
