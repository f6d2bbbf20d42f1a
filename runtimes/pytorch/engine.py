"""The PyTorch engine: transformers models and PEFT methods on CPU, CUDA or MPS."""

# B = batch, T = positions of a row, C = outputs of a position

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from compiler.plan import Train
from runtimes import tasks
from runtimes.groups import groups_of, unfrozen
from runtimes.protocol import Batch, OutOfMemory, RowResults, StepResult
from runtimes.pytorch.dropout import seed_dropout
from runtimes.pytorch.embedding_noise import embedding_noise
from runtimes.pytorch.heads import folded
from runtimes.pytorch.inputs import input_names
from runtimes.pytorch.low_rank import fuse
from runtimes.pytorch.methods import course_of
from runtimes.pytorch.models import Wrapped, save_pretrained, wrapped_model
from runtimes.pytorch.objective import Objective
from runtimes.pytorch.optimizers import hold_moments, moments_of, new_optimizer, take_moments
from runtimes.pytorch.places import places_of
from runtimes.pytorch.precision import exact_float32
from runtimes.pytorch.recomputing import recompute_layers
from runtimes.pytorch.resting import resting_modules
from runtimes.pytorch.virtual import require_no_prefix
from runtimes.rows.packing import SEGMENTS

STATE = "state.safetensors"


def load(
    step: Train,
    model_folder: Path,
    init_file: Path,
    device: str = "cpu",
    *,
    gradient_checkpointing: bool = False,
    adapter: Path | None = None,
) -> TorchEngine:
    """The engine of a train step. New parameters get their first values from `init_file`, which is written once."""
    wrapped = wrapped_model(step, model_folder, init_file, adapter)
    engine = TorchEngine(step, wrapped, torch.device(device))
    if gradient_checkpointing:
        require_no_prefix(wrapped.model)
        recompute_layers(engine.inner, engine.masks, engine.device)
    return engine


@dataclass(frozen=True, slots=True)
class PendingTorchStep:
    """Figures that may still be on the device."""

    loss: Tensor
    grad_norm: Tensor
    penalty: Tensor | None = None  # of the method

    def result(self) -> StepResult:
        """The figures; waits for the device."""
        penalty = {} if self.penalty is None else {"penalty": self.penalty.item()}
        return StepResult(losses={"loss": self.loss.item(), **penalty}, grad_norm=self.grad_norm.item())


class TorchEngine:
    """A torch model, its trainable parameters and their optimizer."""

    fixed_shapes = False

    def __init__(
        self, step: Train, wrapped: Wrapped, device: torch.device, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        inner = wrapped.inner
        self.step, self.device, self.inner, self.last_layer = step, device, inner, wrapped.last_layer
        self.model = wrapped.model.to(device)
        self.objective = Objective(step, self.model, embedding_noise(step, inner))
        fuse(self.model)
        self.masks = seed_dropout(self.model, inner) if device.type == "cpu" else None
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.places = places_of(wrapped)
        self.groups = groups_of(step, self.places)
        self.unfrozen = frozenset(self.trained)
        self.resting = resting_modules(inner, step.method)
        self.course = course_of(step.method, self.model, step.num_steps)
        self.optimizer = new_optimizer(step, self.trained, self.groups) if optimizer is None else optimizer
        self.average = {name: value.detach().clone() for name, value in self.trained.items() if step.ema_decay}
        self._unfreeze(0)
        self.objective.eval()

    # --- computing

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        *,
        denominators: Mapping[str, float],
        learning_rates: Sequence[float],
        seed: int,
        number: int = 0,
    ) -> PendingTorchStep:
        """One optimizer step. Raises OutOfMemory with parameters and moments unchanged."""
        if self.step.unfreeze_every:
            with self._frees_memory():
                self._unfreeze(number)
        torch.manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
        if self.masks:
            self.masks.seed(seed)
        self.mode(training=True)
        with self._frees_memory(), exact_float32():
            loss = self._accumulate(micro_batches, denominators["loss"])
            penalty = self._penalize()
            grad_norm = self._clip()
        [rate] = learning_rates
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.step()
        if self.course is not None:
            self.course.after_step()
        self.optimizer.zero_grad(set_to_none=True)
        self._follow()
        return PendingTorchStep(loss, grad_norm, penalty)

    def _unfreeze(self, number: int) -> None:
        """Gradients and moments for the parameters that a step trains, and for no others."""
        self.unfrozen = unfrozen(self.groups, number)
        for name, value in self.trained.items():
            value.requires_grad_(name in self.unfrozen)
        self._hold_moments(self.unfrozen)

    def _hold_moments(self, names: Collection[str]) -> None:
        """Zero moments where there were none: torch makes them inside a step, where memory must not run out."""
        for name, value in self.trained.items():
            if name not in names:
                self.optimizer.state.pop(value, None)
            elif value not in self.optimizer.state:
                hold_moments(self.optimizer, value, exactly="embeddings" in self.places[name].kinds)

    def _follow(self) -> None:
        """Moves the average of the weights towards what they are after a step."""
        if self.average:
            move = get_ema_multi_avg_fn(self.step.ema_decay)  # type: ignore[no-untyped-call]
            names = [name for name in self.average if name in self.unfrozen]
            move([self.average[name] for name in names], [self.trained[name] for name in names], None)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Inside, the weights are those that are saved: their average, where one is kept."""
        self._exchange()
        try:
            with contextlib.nullcontext() if self.course is None else self.course.answering():
                yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, average in self.average.items():
            value = self.trained[name]
            self.average[name], value.data = value.data, average

    def _accumulate(self, micro_batches: Sequence[Batch], denominator: float) -> Tensor:
        """Adds the gradients of the loss to the parameters; returns the loss."""
        total = torch.zeros((), device=self.device)
        for batch in micro_batches:
            losses, _ = self._forward(batch)
            loss = (losses * self._tensor(batch.weights)).sum() / denominator
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _penalize(self) -> Tensor | None:
        """Adds the gradients of the method's own term of the loss, once a step; returns it."""
        if self.course is None:
            return None
        penalty = self.course.penalty()
        penalty.backward()  # type: ignore[no-untyped-call]
        return penalty.detach()

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
        with self._frees_memory(), self._answering(), torch.inference_mode(), exact_float32():
            losses, outputs = self._forward(batch)
            return RowResults(losses=losses.cpu().numpy(), outputs=outputs.cpu().numpy())

    def mode(self, *, training: bool) -> None:
        """Dropout on or off; what is at rest computes as in evaluation in both."""
        if self.objective.training != training:
            self.objective.train(training)
            for module in self.resting:
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
        """Writes state.safetensors: parameters/NAME, buffers/NAME, average/NAME, method/NAME, optimizer/NAME/MOMENT."""
        tensors = {**self.state(), **self.moments()}
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, folder / STATE)

    def load_state(self, folder: Path) -> None:
        """Takes up what save_state wrote. Raises KeyError when it was written for other parameters."""
        self.take_state(load_file(folder / STATE, device=str(self.device)))

    def take_state(self, found: Mapping[str, Tensor]) -> None:
        """Takes up what `state` and `moments` gave. Raises KeyError when they are of other parameters."""
        if self.step.unfreeze_every:
            self._hold_moments({name.split("/")[1] for name in found if name.startswith("optimizer/")})
        with torch.no_grad():
            for name, value in self._weights().items():
                value.copy_(found[name])
            if self.course is not None:
                self.course.take_state({name: found[f"method/{name}"] for name in self.course.state()})
        for name, parameter in self.trained.items():
            take_moments(self.optimizer, parameter, found, f"optimizer/{name}/")

    def state(self) -> dict[str, Tensor]:
        """All that training changes but moments, by its name in the file."""
        course = {} if self.course is None else self.course.state()
        return {**self._weights(), **{f"method/{name}": value for name, value in course.items()}}

    def _weights(self) -> dict[str, Tensor]:
        """Parameters, buffers and averages by their names in the file; the tensors themselves."""
        state: dict[str, Tensor] = {f"parameters/{name}": value for name, value in self.trained.items()}
        persistent = self.model.state_dict().keys()
        state |= {f"buffers/{name}": value for name, value in self.model.named_buffers() if name in persistent}
        return state | {f"average/{name}": value for name, value in self.average.items()}

    def moments(self) -> dict[str, Tensor]:
        """The moments of what is trained, by their names in the file."""
        return {
            f"optimizer/{name}/{moment}": value
            for name, parameter in self.trained.items()
            for moment, value in moments_of(self.optimizer, parameter).items()
        }

    def save_model(self, folder: Path) -> None:
        """Writes a transformers folder, or a PEFT folder for an adapter."""
        head = tasks.module_of(self.step.task).head(self.step.task)
        with self._answering(), folded(self.trained, self.last_layer, head):
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
        trained = {id(value) for value in self.trained.values()}
        frozen = [value for value in self.model.parameters() if id(value) not in trained]
        return sum(value.nbytes for value in frozen), 4 * sum(value.numel() for value in frozen)

    def peak_memory(self) -> int:
        """Bytes: the most that tensors held on CUDA, or the largest resident size of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
