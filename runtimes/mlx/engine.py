"""The MLX engine: the graph of the torch objective, differentiated and compiled."""

# B = batch, T = positions of a row, C = outputs of a position

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from compiler.placement import Placement
from compiler.plan import Train
from runtimes import tasks
from runtimes.groups import groups_of, unfrozen
from runtimes.mlx.graph import Graph, Input
from runtimes.mlx.lower import Arrays, lower, value_and_grad
from runtimes.mlx.optimizers import Moments, clip, global_norm, moved_average, update, zero_moments
from runtimes.mlx.quantization import write_record
from runtimes.mlx.trace.training import Traced, save
from runtimes.mlx.weights import Weights, load_weights, weight_files
from runtimes.protocol import Batch, OutOfMemory, RowResults, StepResult
from runtimes.rows.features import TARGETS

STATE = "state.safetensors"
_STEP = "step"  # torch counts the steps of each parameter


@dataclass(frozen=True, slots=True)
class DoneStep:
    """Figures that are there: MLX tells that it has no room only when it computes."""

    figures: StepResult

    def result(self) -> StepResult:
        """The figures."""
        return self.figures


class MlxEngine:
    """A lowered objective, its trainable parameters and their optimizer. What a step changes is replaced as a whole."""

    fixed_shapes = True

    def __init__(
        self,
        step: Train,
        traced: Traced,
        weights: Weights,
        folder: Path,
        placement: Placement,
        own: Collection[str] = (),
    ) -> None:
        """`own`: the parameters whose steps are counted apart, as others train what is not among them too."""
        self.step, self.traced, self.folder, self.placement = step, traced, folder, placement
        new = {name: mx.array(value) for name, value in traced.values.items() if name in traced.train.parameters}
        parameters = {**weights.parameters, **new}
        self.trained = {name: parameters.pop(name) for name in traced.train.trainable}
        self.frozen, self.buffers = parameters, dict(weights.buffers)
        self.groups = groups_of(step, traced.places)
        self.average = dict(self.trained) if step.ema_decay else {}
        self.moments: Moments = zero_moments(step.optimizer, self._unfrozen(0))
        counted = ([name for name in self.trained if name not in own], [name for name in self.trained if name in own])
        self.counted = tuple(frozenset(names) for names in counted if names)
        self.counts = tuple(mx.array(0) for _ in self.counted)  # steps of each of these sets of parameters
        self.shapes: set[tuple[object, ...]] = set()  # each is a compiled graph
        self.memory_limit = None if placement.memory_gib is None else placement.memory_gib * 2**30  # bytes
        self._peak = 0
        self._differentiate = mx.compile(self._differentiated())
        self._update = mx.compile(self._updated)
        self._evaluate = mx.compile(lower(traced.evaluate))
        mx.eval(self.trained, self.frozen, self.buffers, self.moments)
        mx.reset_peak_memory()

    # --- computing

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        *,
        denominators: Mapping[str, float],
        learning_rates: Sequence[float],
        seed: int,
        number: int = 0,
    ) -> DoneStep:
        """One optimizer step. Raises OutOfMemory with parameters, buffers and moments unchanged.

        What is not unfrozen yet is given as the frozen parameters are, so that a graph is compiled each time that more
        is unfrozen, and no gradient is computed before.
        """
        [rate] = learning_rates
        trained = self._unfrozen(number)
        moments, average = self._moments_of(trained), {name: self.average[name] for name in trained if self.average}
        with self._within_memory():
            loss, gradients, buffers = self._accumulate(micro_batches, denominators["loss"], seed, trained)
            counts = tuple(count + 1 for count in self.counts)
            trained, moments, average, norm = self._update(
                trained, gradients, moments, average, counts, mx.array(rate, mx.float32)
            )
            mx.eval(loss, trained, moments, average, buffers, norm)
        self.moments, self.buffers, self.counts = moments, buffers, counts
        self.trained, self.average = {**self.trained, **trained}, {**self.average, **average}
        return DoneStep(StepResult(losses={"loss": _number(loss)}, grad_norm=_number(norm)))

    def _unfrozen(self, number: int) -> dict[str, mx.array]:
        """The parameters that the step with a number trains."""
        if not self.step.unfreeze_every:
            return self.trained
        names = unfrozen(self.groups, number)
        return {name: value for name, value in self.trained.items() if name in names}

    def _moments_of(self, trained: Arrays) -> Moments:
        """The moments of parameters, zero of those that are trained for the first time."""
        new = {name: value for name, value in trained.items() if name not in self.moments}
        known = {**self.moments, **zero_moments(self.step.optimizer, new)}
        return {name: known[name] for name in trained}

    def _accumulate(
        self, micro_batches: Sequence[Batch], denominator: float, seed: int, trained: Arrays
    ) -> tuple[mx.array, dict[str, mx.array], dict[str, mx.array]]:
        """The loss of a step, its gradients, and the buffers after it."""
        loss, buffers = mx.array(0.0), self.buffers
        gradients: dict[str, mx.array] = {}
        frozen = {**self.frozen, **{name: value for name, value in self.trained.items() if name not in trained}}
        keys = mx.random.split(mx.random.key(seed), len(micro_batches))
        for key, batch in zip(keys, micro_batches, strict=True):
            inputs, weights = self._inputs(batch, self.traced.train, "train"), mx.array(batch.weights) / denominator
            part, buffers, found = self._differentiate(trained, frozen, buffers, inputs, weights, key)
            loss = loss + part
            gradients = {name: gradients[name] + value for name, value in found.items()} if gradients else found
            if len(micro_batches) > 1:
                mx.eval(loss, buffers, gradients)  # one portion after another, so that no two are in memory
        return loss, gradients, buffers

    def _differentiated(self) -> Callable[..., tuple[mx.array, dict[str, mx.array], dict[str, mx.array]]]:
        """From parameters, buffers, inputs, row weights and a key to the loss, the new buffers and the gradients."""
        run = lower(self.traced.train, recompute_layers=self.placement.gradient_checkpointing)

        def step(
            trained: Arrays, frozen: Arrays, buffers: Arrays, inputs: Arrays, weights: mx.array, key: mx.array
        ) -> tuple[mx.array, dict[str, mx.array], dict[str, mx.array]]:
            differentiated = value_and_grad(run, lambda outputs: (outputs["losses"] * weights).sum())
            (outputs, after), gradients = differentiated(trained, frozen, buffers, inputs, key)
            return (outputs["losses"] * weights).sum(), after, gradients

        return step

    def _updated(
        self,
        trained: Arrays,
        gradients: Arrays,
        moments: Moments,
        average: Arrays,
        counts: Sequence[mx.array],
        rate: mx.array,
    ) -> tuple[dict[str, mx.array], Moments, dict[str, mx.array], mx.array]:
        norm = global_norm(gradients)
        if self.step.max_grad_norm is not None:
            gradients = clip(gradients, norm, self.step.max_grad_norm)
        found, after = dict[str, mx.array](), Moments()
        for names, count in zip(self.counted, counts, strict=True):
            some = {name: value for name, value in trained.items() if name in names}
            moved, remembered = update(
                self.step.optimizer, some, gradients, moments, groups=self.groups, step=count, learning_rate=rate
            )
            found, after = {**found, **moved}, {**after, **remembered}
        return found, after, moved_average(average, found, self.step.ema_decay) if average else {}, norm

    def _inputs(self, batch: Batch, graph: Graph, name: str) -> dict[str, mx.array]:
        """A graph's inputs, whose shapes are counted."""
        inputs = given_inputs(graph, batch)
        self.shapes.add((name, *(value.shape for value in inputs.values())))
        return inputs

    def evaluate(self, batch: Batch) -> RowResults:
        """Losses and outputs of a batch, dropout off."""
        with self._within_memory():
            outputs, _ = self._evaluate(
                {**self.frozen, **self.trained, **self.average},
                self.buffers,
                self._inputs(batch, self.traced.evaluate, "evaluate"),
                None,
            )
            return RowResults(losses=_numbers(outputs["losses"]), outputs=_numbers(outputs["outputs"]))

    @contextlib.contextmanager
    def _within_memory(self) -> Iterator[None]:
        """Raises OutOfMemory when there is no room, or when more was taken than the placement allows.

        The latter is seen when it is over: MLX takes its own limit for advice. So a step may exceed the limit once,
        is thrown away, and the next attempt has smaller portions.
        """
        self._peak = self.peak_memory()
        mx.reset_peak_memory()
        with _frees_memory():
            yield
        taken = int(mx.get_peak_memory())
        if self.memory_limit is not None and taken > self.memory_limit:
            mx.clear_cache()
            raise OutOfMemory(f"{taken / 2**30:.2f} GiB were taken, {self.memory_limit / 2**30:.2f} GiB are allowed")

    # --- state and files

    def save_state(self, folder: Path) -> None:
        """Writes state.safetensors under the names that the PyTorch engine gives it."""
        mx.save_safetensors(str(folder / STATE), self.state())

    def state(self) -> dict[str, mx.array]:
        """All that training changes, by its name in the file."""
        state = {f"parameters/{name}": value for name, value in self.trained.items()}
        state |= {f"buffers/{name}": value for name, value in self._persistent_buffers().items()}
        state |= {f"average/{name}": value for name, value in self.average.items()}
        for name, moments in self.moments.items():
            count = (self._count_of(name) - self.groups[name].opens).astype(mx.float32)
            counted = {**moments, _STEP: count} if self._counts else moments
            state |= {f"optimizer/{name}/{moment}": value for moment, value in counted.items()}
        return state

    def _count_of(self, name: str) -> mx.array:
        """How many steps there were of those that count for a parameter."""
        return next(count for names, count in zip(self.counted, self.counts, strict=True) if name in names)

    def load_state(self, folder: Path) -> None:
        """Takes up what save_state wrote, of this engine or another. Raises KeyError when it is of other parameters."""
        found = mx.load(str(folder / STATE))
        assert isinstance(found, dict)
        self.take_state(found)

    def take_state(self, found: Arrays) -> None:
        """Takes up what `state` gave. Raises KeyError when it is of other parameters."""
        self.trained = {name: found[f"parameters/{name}"] for name in self.trained}
        self.buffers |= {name: found[f"buffers/{name}"] for name in self._persistent_buffers()}
        self.average = {name: found[f"average/{name}"] for name in self.average}
        self.moments = {
            name: {moment: found[f"optimizer/{name}/{moment}"] for moment in moments}
            for name, moments in zero_moments(self.step.optimizer, self._remembered(found)).items()
        }
        if self._counts:
            self.counts = tuple(mx.array(self._counted(found, names)) for names in self.counted)
        mx.eval(self.trained, self.average, self.buffers, self.moments)

    def _counted(self, found: Arrays, names: Collection[str]) -> int:
        """How many steps a saved state has of some parameters."""
        steps = ((name, _number(found[f"optimizer/{name}/{_STEP}"])) for name in self.moments if name in names)
        return max((int(count) + self.groups[name].opens for name, count in steps), default=0)

    def _remembered(self, found: Arrays) -> dict[str, mx.array]:
        """The parameters that a saved state has moments of: those that were unfrozen."""
        if not self.step.unfreeze_every:
            return self.trained
        names = {name.split("/")[1] for name in found if name.startswith("optimizer/")}
        return {name: value for name, value in self.trained.items() if name in names}

    @property
    def _counts(self) -> bool:
        return self.step.optimizer.type != "sgd"

    def _persistent_buffers(self) -> dict[str, mx.array]:
        held = {name for name, buffer in self.traced.train.buffers.items() if buffer.persistent}
        return {name: value for name, value in self.buffers.items() if name in held}

    def save_model(self, folder: Path) -> None:
        """Writes a transformers folder, or a PEFT folder for an adapter. Frozen weights are read from their files."""
        files = weight_files(self.folder)
        whole = load_weights(self.traced.train, files, self.traced.names, frozen_dtype="float32")
        new = {name: mx.array(value) for name, value in self.traced.values.items()}
        values = {
            **whole.parameters,
            **whole.buffers,
            **new,
            **self.trained,
            **self.average,
            **self._persistent_buffers(),
        }
        head = tasks.module_of(self.step.task).head(self.step.task)
        save(self.traced, head, {name: _numbers(value) for name, value in values.items()}, folder)
        if self.traced.held is not None:
            write_record(folder, self.traced.held, self.step.model.id)

    @property
    def num_parameters(self) -> tuple[int, int]:
        """How many are trained, and how many there are."""
        total = sum(value.numel() for value in self.traced.model.parameters())
        return sum(value.size for value in self.trained.values()), total

    @property
    def num_graphs(self) -> int:
        """How many graphs were compiled, one for each shape of batches in training and in evaluation."""
        return len(self.shapes)

    @property
    def frozen_bytes(self) -> tuple[int, int]:
        """Bytes of the parameters that are not trained: as they are held, and as float32 would hold them."""
        trained, total = self.num_parameters
        return sum(value.nbytes for value in self.frozen.values()), 4 * (total - trained)

    def peak_memory(self) -> int:
        """The most bytes that arrays held."""
        return max(self._peak, int(mx.get_peak_memory()))


def given_inputs(graph: Graph, batch: Batch) -> dict[str, mx.array]:
    """A graph's inputs; what a batch leaves out is zero everywhere."""
    given = {**batch.inputs, TARGETS: batch.targets}
    known = {name: values.shape for name, values in given.items() if name in graph.inputs}
    sizes = {
        axis: size for name, shape in known.items() for axis, size in zip(graph.inputs[name].axes, shape, strict=True)
    }

    def values(name: str, described: Input) -> mx.array:
        if name in given:
            return mx.array(given[name])
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in described.axes]
        return mx.array(np.zeros(shape, described.dtype))

    return {name: values(name, described) for name, described in graph.inputs.items()}


def _number(value: mx.array) -> float:
    """The one number of an array."""
    return float(np.array(value))


def _numbers(value: mx.array) -> npt.NDArray[np.float32]:
    """An array of MLX as numpy; bfloat16, which numpy lacks, as float32."""
    return np.array(value.astype(mx.float32) if value.dtype == mx.bfloat16 else value)


@contextlib.contextmanager
def _frees_memory() -> Iterator[None]:
    """Turns MLX's errors of full memory into OutOfMemory."""
    reason = ""
    try:
        yield
    except RuntimeError as error:
        if not any(
            word in str(error).lower() for word in ("unable to allocate", "out of memory", "insufficient memory")
        ):
            raise
        reason = str(error).partition("\n")[0]
    if reason:
        mx.clear_cache()
        raise OutOfMemory(reason)
