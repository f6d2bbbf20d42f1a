"""The PyTorch engine: transformers models and PEFT methods on CPU, CUDA or MPS."""

# B = batch, T = positions of a row, C = outputs of a position

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compiler.plan import Train
from compiler.recipe import SGD, Adam, AdamW
from runtimes import tasks
from runtimes.packing import SEGMENTS
from runtimes.protocol import Batch, OutOfMemory, RowResults, StepResult
from runtimes.pytorch.dropout import seed_dropout
from runtimes.pytorch.heads import folded
from runtimes.pytorch.inputs import input_names
from runtimes.pytorch.low_rank import fuse
from runtimes.pytorch.methods import module_of
from runtimes.pytorch.models import Wrapped, save_pretrained, wrapped_model
from runtimes.pytorch.objective import Objective
from runtimes.pytorch.recomputing import recompute_layers

STATE = "state.safetensors"


def load(
    step: Train, model_folder: Path, init_file: Path, device: str = "cpu", *, gradient_checkpointing: bool = False
) -> TorchEngine:
    """The engine of a train step. New parameters get their first values from `init_file`, which is written once."""
    wrapped = wrapped_model(step, model_folder, init_file)
    engine = TorchEngine(step, wrapped, torch.device(device))
    if gradient_checkpointing:
        recompute_layers(engine.inner, engine.masks, engine.device)
    return engine


@dataclass(frozen=True, slots=True)
class PendingTorchStep:
    """Figures that may still be on the device."""

    loss: Tensor
    grad_norm: Tensor

    def result(self) -> StepResult:
        """The figures; waits for the device."""
        return StepResult(losses={"loss": self.loss.item()}, grad_norm=self.grad_norm.item())


class TorchEngine:
    """A torch model, its trainable parameters and their optimizer."""

    fixed_shapes = False

    def __init__(
        self, step: Train, wrapped: Wrapped, device: torch.device, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        inner = wrapped.inner
        self.step, self.device, self.inner, self.last_layer = step, device, inner, wrapped.last_layer
        self.model = wrapped.model.to(device)
        self.objective = Objective(step, self.model)
        fuse(self.model)
        self.masks = seed_dropout(self.model, inner) if device.type == "cpu" else None
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.frozen = () if module_of(step.method.type).DROPS_IN_FROZEN else frozen_modules(inner)
        self.optimizer = new_optimizer(step, self.trained) if optimizer is None else optimizer
        self.objective.eval()

    # --- computing

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        *,
        denominators: Mapping[str, float],
        learning_rates: Sequence[float],
        seed: int,
    ) -> PendingTorchStep:
        """One optimizer step. Raises OutOfMemory with parameters and moments unchanged."""
        torch.manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
        if self.masks:
            self.masks.seed(seed)
        self.mode(training=True)
        with self._frees_memory():
            loss = self._accumulate(micro_batches, denominators["loss"])
            grad_norm = self._clip()
        for group in self.optimizer.param_groups:
            [group["lr"]] = learning_rates
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return PendingTorchStep(loss, grad_norm)

    def _accumulate(self, micro_batches: Sequence[Batch], denominator: float) -> Tensor:
        """Adds the gradients of the loss to the parameters; returns the loss."""
        total = torch.zeros((), device=self.device)
        for batch in micro_batches:
            losses, _ = self._forward(batch)
            loss = (losses * self._tensor(batch.weights)).sum() / denominator
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The losses, in the targets' shape, and the outputs [..., C] in float32."""
        names = (*input_names(self.inner, batch.inputs), *({SEGMENTS} & batch.inputs.keys()))
        inputs = {name: self._tensor(batch.inputs[name]) for name in names}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.step.precision == "bf16"):
            losses, outputs = self.objective(inputs, self._tensor(batch.targets))
        return losses, outputs

    def _tensor(self, values: object) -> Tensor:
        return torch.as_tensor(values).to(self.device, non_blocking=True)

    def _clip(self) -> Tensor:
        """The gradient's norm; gradients are scaled down to max_grad_norm where it is larger."""
        gradients = [value.grad for value in self.trained.values() if value.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        limit = self.step.max_grad_norm
        # On CPU a look at the norm costs nothing and spares a pass over the gradients; elsewhere it would wait.
        if limit is not None and not (self.device.type == "cpu" and norm.item() <= limit):
            nn.utils.clip_grads_with_norm_(self.trained.values(), limit, norm)
        return norm

    def evaluate(self, batch: Batch) -> RowResults:
        """Losses and outputs of a batch, dropout off."""
        self.mode(training=False)
        with self._frees_memory(), torch.inference_mode():
            losses, outputs = self._forward(batch)
            return RowResults(losses=losses.cpu().numpy(), outputs=outputs.cpu().numpy())

    def mode(self, *, training: bool) -> None:
        """Dropout on or off; what is frozen never has any, unless its method says so."""
        if self.objective.training != training:
            self.objective.train(training)
            for module in self.frozen:
                module.eval()

    @contextlib.contextmanager
    def _frees_memory(self) -> Iterator[None]:
        """Turns torch's errors of full memory into OutOfMemory, with the gradients of the attempt dropped."""
        reason = ""
        try:
            yield
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # Only outside the handler is the failed attempt's traceback gone, and with it the tensors that it holds.
        if reason:
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(reason)

    # --- state and files

    def save_state(self, folder: Path) -> None:
        """Writes state.safetensors: parameters/NAME, buffers/NAME, optimizer/NAME/MOMENT."""
        tensors = {name: value.detach().contiguous() for name, value in self.state().items()}
        save_file(tensors, folder / STATE)

    def load_state(self, folder: Path) -> None:
        """Takes up what save_state wrote. Raises KeyError when it was written for other parameters."""
        found = load_file(folder / STATE, device=str(self.device))
        with torch.no_grad():
            for name, value in self.state().items():
                value.copy_(found[name])

    def state(self) -> dict[str, Tensor]:
        """All that training changes, by its name in the file; the tensors themselves."""
        state: dict[str, Tensor] = {f"parameters/{name}": value for name, value in self.trained.items()}
        persistent = self.model.state_dict().keys()
        state |= {f"buffers/{name}": value for name, value in self.model.named_buffers() if name in persistent}
        for name, parameter in self.trained.items():
            moments = self.optimizer.state[parameter]
            state |= {f"optimizer/{name}/{moment}": value for moment, value in moments.items() if value is not None}
        return state

    def save_model(self, folder: Path) -> None:
        """Writes a transformers folder, or a PEFT folder for an adapter."""
        with folded(self.trained, self.last_layer, tasks.module_of(self.step.task).head(self.step.task)):
            save_pretrained(self.model, folder)

    @property
    def num_parameters(self) -> tuple[int, int]:
        """How many are trained, and how many there are."""
        total = sum(value.numel() for value in self.model.parameters())
        return sum(value.numel() for value in self.trained.values()), total

    @property
    def num_graphs(self) -> int:
        """None: the model runs as it is."""
        return 0

    @property
    def frozen_bytes(self) -> tuple[int, int]:
        """Bytes of the parameters that are not trained: as they are held, and as float32 would hold them."""
        frozen = [value for value in self.model.parameters() if not value.requires_grad]
        return sum(value.nbytes for value in frozen), 4 * sum(value.numel() for value in frozen)

    def peak_memory(self) -> int:
        """Bytes: the most that tensors held on CUDA, or the largest resident size of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def frozen_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """The largest modules without a trained parameter: they compute as in evaluation, without dropout."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return (model,)
    children = (child for child in model.children() if next(child.parameters(), None) is not None)
    return tuple(frozen for child in children for frozen in frozen_modules(child))


def new_optimizer(step: Train, trained: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The plan's optimizer; weight decay is for matrices, not for biases and the scales of norms."""
    matrices = [value for value in trained.values() if value.ndim > 1]
    vectors = [value for value in trained.values() if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": step.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = _optimizer(step, groups)
    _make_moments(optimizer)
    return optimizer


def _optimizer(step: Train, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    match step.optimizer:
        case AdamW(beta1=beta1, beta2=beta2, epsilon=epsilon):
            return torch.optim.AdamW(groups, lr=step.learning_rate, betas=(beta1, beta2), eps=epsilon, fused=True)
        case Adam(beta1=beta1, beta2=beta2, epsilon=epsilon):
            return torch.optim.Adam(groups, lr=step.learning_rate, betas=(beta1, beta2), eps=epsilon, fused=True)
        case SGD(momentum=momentum):
            return torch.optim.SGD(groups, lr=step.learning_rate, momentum=momentum, fused=True)
        case _:
            assert_never(step.optimizer)


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    """Zero moments before the first step: torch makes them inside it, where memory must not run out half-way."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(optimizer, torch.optim.Adam):
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            elif group["momentum"]:
                optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
