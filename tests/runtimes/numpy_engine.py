"""A linear classifier over bags of tokens, in NumPy: an Engine whose gradient is a closed form."""

# B = batch, T = tokens, V = vocabulary, C = classes

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from compiler.plan import Train
from compiler.recipe import SGD, AdamW
from runtimes import tasks
from runtimes.groups import Group, Place, groups_of, unfrozen
from runtimes.protocol import Batch, OutOfMemory, RowResults, StepResult
from runtimes.randomness import uniform

PLACES = {
    "weight": Place(depth=1, kinds=frozenset()),
    "bias": Place(depth=0, kinds=frozenset({"vectors", "biases", "head"})),
}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Done:
    """A step that was computed at once."""

    figures: StepResult

    def result(self) -> StepResult:
        return self.figures


@dataclass
class NumpyEngine:
    """Logits = dropped-out counts of tokens / length @ weight + bias. Float64, so that laws hold to 1e-12."""

    step: Train
    vocabulary: int
    dropout: float = 0.0
    room: int = 1_000_000  # rows that fit at once
    breaks_at: int = -1  # the call of train_step whose loss is not a number
    fixed_shapes: bool = False
    calls: int = 0
    seen: list[tuple[int, ...]] = field(default_factory=list)  # rows of each step
    shapes: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        classes = num_labels(self.step)
        start = uniform(self.vocabulary * classes, self.step.seed, "weight").reshape(self.vocabulary, classes)
        self.state: dict[str, Floats] = {"weight": start - 0.5, "bias": np.zeros(classes), "count": np.zeros(1)}
        if isinstance(self.step.optimizer, AdamW):
            for name in ("weight", "bias"):
                self.state |= {f"{name}.mean": np.zeros_like(self.state[name])}
                self.state |= {f"{name}.square": np.zeros_like(self.state[name])}
        if self.step.ema_decay:
            self.state |= {f"{name}.average": self.state[name].copy() for name in ("weight", "bias")}
        self.groups = groups_of(self.step, PLACES)

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        *,
        denominators: Mapping[str, float],
        learning_rates: Sequence[float],
        seed: int,
        number: int = 0,
    ) -> Done:
        loss, gradient = self.loss_and_gradient(micro_batches, denominators["loss"], seed)
        gradient = {name: value for name, value in gradient.items() if name in unfrozen(self.groups, number)}
        self.seen.append(tuple(int(row) for batch in micro_batches for row in batch.rows if row >= 0))
        norm = float(np.sqrt(sum((value**2).sum() for value in gradient.values())))
        limit = self.step.max_grad_norm
        if limit is not None and norm > limit:
            gradient = {name: value * limit / norm for name, value in gradient.items()}
        self._update(gradient, learning_rates[0])
        if self.calls == self.breaks_at:
            loss = float("nan")
            self.state["bias"][0] = loss
        self.calls += 1
        return Done(StepResult(losses={"loss": loss}, grad_norm=norm))

    def loss_and_gradient(
        self, micro_batches: Sequence[Batch], denominator: float, seed: int = 0
    ) -> tuple[float, dict[str, Floats]]:
        """The loss of a step and its gradient; changes nothing."""
        loss, gradient = 0.0, {name: np.zeros_like(self.state[name]) for name in ("weight", "bias")}
        for index, batch in enumerate(micro_batches):
            bags_BV = self._bags(batch) * self._kept(seed, index)
            probabilities_BC = softmax(bags_BV @ self.state["weight"] + self.state["bias"])
            targets_BC = self._smoothed(batch.targets)
            shares_B = batch.weights.astype(np.float64) / denominator
            loss += float((shares_B * -(targets_BC * np.log(probabilities_BC)).sum(axis=1)).sum())
            error_BC = shares_B[:, None] * (probabilities_BC - targets_BC)
            gradient["weight"] += bags_BV.T @ error_BC
            gradient["bias"] += error_BC.sum(axis=0)
        return loss, gradient

    def _bags(self, batch: Batch) -> Floats:
        ids_BT, mask_BT = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        self.shapes.add(ids_BT.shape)
        if len(ids_BT) > self.room:
            raise OutOfMemory(f"{len(ids_BT)} rows")
        bags_BV = np.zeros((len(ids_BT), self.vocabulary))
        rows_BT = np.broadcast_to(np.arange(len(ids_BT))[:, None], ids_BT.shape)
        np.add.at(bags_BV, (rows_BT, ids_BT), mask_BT)
        return np.asarray(bags_BV / mask_BT.sum(axis=1, keepdims=True))

    def _kept(self, seed: int, index: int) -> Floats:
        return np.asarray((uniform(self.vocabulary, seed, index) >= self.dropout) / (1.0 - self.dropout))

    def _smoothed(self, targets_B: npt.NDArray[np.int64]) -> Floats:
        classes, share = num_labels(self.step), self.step.label_smoothing
        return np.eye(classes)[targets_B] * (1.0 - share) + share / classes

    def _update(self, gradient: Mapping[str, Floats], rate: float) -> None:
        self.state["count"] += 1
        for name, value in gradient.items():
            group = self.groups[name]
            match self.step.optimizer:
                case SGD():
                    self.state[name] = self.state[name] - rate * group.rate * value
                case AdamW() as adam:
                    self.state[name] = self._adam(name, value, rate * group.rate, adam, group)
            if self.step.ema_decay:
                share, average = self.step.ema_decay, f"{name}.average"
                self.state[average] = share * self.state[average] + (1 - share) * self.state[name]

    def _adam(self, name: str, gradient: Floats, rate: float, adam: AdamW, group: Group) -> Floats:
        mean, square = self.state[f"{name}.mean"], self.state[f"{name}.square"]
        count = self.state["count"] - group.opens
        mean += (1 - adam.beta1) * (gradient - mean)
        square += (1 - adam.beta2) * (gradient**2 - square)
        size = np.sqrt(square / (1 - adam.beta2**count)) + adam.epsilon
        decayed = self.state[name] * (1 - rate * group.weight_decay)
        return np.asarray(decayed - rate * mean / (1 - adam.beta1**count) / size)

    def evaluate(self, batch: Batch) -> RowResults:
        weight, bias = (self.state.get(f"{name}.average", self.state[name]) for name in ("weight", "bias"))
        scores_BC = self._bags(batch) @ weight + bias
        chosen_B = np.log(softmax(scores_BC))[np.arange(len(scores_BC)), batch.targets]
        return RowResults(losses=(-chosen_B).astype(np.float32), outputs=scores_BC.astype(np.float32))

    def save_state(self, folder: Path) -> None:
        save_file(self.state, folder / "state.safetensors")

    def load_state(self, folder: Path) -> None:
        self.state = load_file(folder / "state.safetensors")

    def save_model(self, folder: Path) -> None:
        save_file(
            {name: self.state.get(f"{name}.average", self.state[name]) for name in ("weight", "bias")},
            folder / "model.safetensors",
        )

    @property
    def num_parameters(self) -> tuple[int, int]:
        count = self.state["weight"].size + self.state["bias"].size
        return count, count

    @property
    def num_graphs(self) -> int:
        return 0

    @property
    def frozen_bytes(self) -> tuple[int, int]:
        return 0, 0

    def peak_memory(self) -> int:
        return sum(value.nbytes for value in self.state.values())

    def bytes(self) -> bytes:
        """All of the state, to be compared to the bit."""
        return b"".join(self.state[name].tobytes() for name in sorted(self.state))


def num_labels(step: Train) -> int:
    """Classes of the classifier."""
    return tasks.module_of(step.task).head(step.task).num_outputs


def softmax(logits_BC: Floats) -> Floats:
    """Probabilities along the last axis."""
    shifted = np.exp(logits_BC - logits_BC.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
