"""The PyTorch engine of several tasks: one engine for each, whose models have the same modules below their heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compiler.adapter_names import is_of_head
from compiler.plan import Train, TrainTogether
from runtimes.groups import Group, groups_of
from runtimes.protocol import LOSS, Batch, PendingStep, RowResults, StepResult
from runtimes.pytorch.engine import STATE, TorchEngine
from runtimes.pytorch.models import Wrapped, wrapped_model
from runtimes.pytorch.optimizers import new_optimizer
from runtimes.pytorch.places import places_of
from runtimes.pytorch.recomputing import recompute_layers
from runtimes.together import assert_trainable, entry_name, folders_of, part_folder, state_name, store_once


@dataclass(frozen=True, slots=True)
class PendingPart:
    """A step of one of the tasks, whose loss has the task's name."""

    name: str
    pending: PendingStep

    def result(self) -> StepResult:
        """The figures; waits for the device."""
        found = self.pending.result()
        assert found.losses.keys() == {LOSS}, "the methods of several tasks add no term to the loss"
        return StepResult(losses={self.name: found.losses[LOSS]}, grad_norm=found.grad_norm)


class TogetherEngine:
    """Engines of one task each, with one trunk, one optimizer and one source of dropout masks.

    What a step's task does not have gets no gradient, so the optimizer leaves it and its moments as they are.
    """

    fixed_shapes = False

    def __init__(self, step: TrainTogether, wrapped: Mapping[str, Wrapped], device: torch.device) -> None:
        share_trunk([*wrapped.values()])
        self.heads = {name: each.head for name, each in wrapped.items()}
        self.trained, groups = dict[str, nn.Parameter](), dict[str, Group]()
        for part, each in wrapped.items():
            parameters = dict(each.model.to(device).named_parameters())
            for name, group in groups_of(step.parts[part], places_of(each)).items():
                named = state_name(part, name, each.head)
                self.trained[named], groups[named] = parameters[name], group
        optimizer = new_optimizer(step.first, self.trained, groups)
        self.parts = {name: TorchEngine(step.parts[name], each, device, optimizer) for name, each in wrapped.items()}
        self._share_masks()

    def _share_masks(self) -> None:
        """Lets all models draw from the masks of the first: a module of the trunk is in each of them."""
        masks = next(iter(self.parts.values())).masks
        for engine in self.parts.values() if masks else ():
            engine.masks = masks
            for module in engine.model.modules():
                module.masks = masks  # type: ignore[assignment]

    # --- computing

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        *,
        denominators: Mapping[str, float],
        learning_rates: Sequence[float],
        seed: int,
        number: int = 0,
    ) -> PendingPart:
        """One optimizer step of the task whose rows these are. Raises OutOfMemory with nothing changed."""
        [(name, denominator)] = denominators.items()
        engine = self.parts[name]
        pending = engine.train_step(
            micro_batches, denominators={LOSS: denominator}, learning_rates=learning_rates, seed=seed, number=number
        )
        engine.mode(training=False)  # the trunk is that of all
        return PendingPart(name, pending)

    def evaluate(self, batch: Batch) -> RowResults:
        """Losses and outputs of a batch by its task's head, dropout off."""
        return self.parts[batch.term].evaluate(batch)

    # --- state and files

    def save_state(self, folder: Path) -> None:
        """Writes state.safetensors: parameters/NAME, buffers/NAME, optimizer/NAME/MOMENT; NAME as state_name has it."""
        state = {
            renamed: value
            for part, engine in self.parts.items()
            for entry, value in {**engine.state(), **engine.moments()}.items()
            for renamed in [entry_name(part, entry, self.heads[part])]
        }
        save_file({name: value.detach().contiguous() for name, value in state.items()}, folder / STATE)

    def load_state(self, folder: Path) -> None:
        """Takes up what save_state wrote. Raises KeyError when it was written for other parameters."""
        found = load_file(folder / STATE, device=str(next(iter(self.parts.values())).device))
        for part, engine in self.parts.items():
            entries = {**engine.state(), **engine.moments()}
            engine.take_state({entry: found[entry_name(part, entry, self.heads[part])] for entry in entries})

    def save_model(self, folder: Path) -> None:
        """Writes a transformers or PEFT folder for each task; what is equal in all of the former is stored once."""
        saved = [(self.parts[name], each) for name, each in folders_of(folder, self.parts)]
        for engine, each in saved:
            engine.save_model(each)
        store_once([each for _, each in saved])

    # --- figures

    @property
    def num_parameters(self) -> tuple[int, int]:
        """How many are trained, and how many there are, shared ones once."""
        every = {id(value): value for engine in self.parts.values() for value in engine.model.parameters()}
        return sum(value.numel() for value in self.trained.values()), sum(value.numel() for value in every.values())

    @property
    def num_graphs(self) -> int:
        """None: the model runs as it is."""
        return 0

    @property
    def frozen_bytes(self) -> tuple[int, int]:
        """Bytes of the parameters that are not trained: as they are held, and as float32 would hold them."""
        every = {id(value): value for engine in self.parts.values() for value in engine.model.parameters()}
        frozen = [value for value in every.values() if not value.requires_grad]
        return sum(value.nbytes for value in frozen), 4 * sum(value.numel() for value in frozen)

    def peak_memory(self) -> int:
        """Bytes: the most that tensors held on CUDA, or the largest resident size of this process."""
        return next(iter(self.parts.values())).peak_memory()


def load_together(
    step: TrainTogether, model_folder: Path, folder: Path, device: str = "cpu", *, gradient_checkpointing: bool = False
) -> TogetherEngine:
    """The engine of several tasks. A head's first values are kept in `folder`, where its task's own are."""
    assert_trainable(step)
    wrapped = {name: _wrapped(part, model_folder, part_folder(folder, name)) for name, part in step.parts.items()}
    engine = TogetherEngine(step, wrapped, torch.device(device))
    if gradient_checkpointing:
        for part in engine.parts.values():
            recompute_layers(part.inner, part.masks, part.device)
    return engine


def _wrapped(part: Train, model_folder: Path, folder: Path) -> Wrapped:
    folder.mkdir(parents=True, exist_ok=True)
    return wrapped_model(part, model_folder, folder / "init.safetensors")


def share_trunk(models: Sequence[Wrapped]) -> None:
    """Lets models have the same modules below their heads: those of the first, which each has loaded alike."""
    first, *others = models
    shared = dict(_trunk(first))
    for other in others:
        for name, _ in list(_trunk(other)):
            if name in shared:
                setattr(other.inner.base_model, name, shared[name])


def _trunk(wrapped: Wrapped) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """The modules and parameters of a model's base that are not its task's, by their names there."""
    base, prefix = wrapped.inner.base_model, wrapped.inner.base_model_prefix
    found: list[tuple[str, nn.Module | nn.Parameter]] = [*base.named_children(), *base.named_parameters(recurse=False)]
    yield from ((name, each) for name, each in found if not is_of_head(f"{prefix}.{name}", wrapped.head))
