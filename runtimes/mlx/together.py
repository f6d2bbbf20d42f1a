"""The MLX engine of several tasks: one engine for each, with a graph of its own, and the same arrays below the heads.

Arrays are values: what a step of one task made of the shared ones is handed to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mlx.core as mx

from compiler.adapter_names import is_of_head
from runtimes.mlx.engine import STATE, DoneStep, MlxEngine
from runtimes.protocol import LOSS, Batch, RowResults, StepResult
from runtimes.together import entry_name, folders_of, state_name, store_once


class TogetherEngine:
    """Engines of one task each, whose parameters below their heads are the same."""

    fixed_shapes = True

    def __init__(self, parts: Mapping[str, MlxEngine]) -> None:
        self.parts = parts
        first = next(iter(parts.values()))
        for other in parts.values():
            other.frozen |= {name: first.frozen[name] for name in self._shared(first.frozen, other, other.frozen)}
        self._hand_on(first)

    def _shared(self, ours: Mapping[str, mx.array], other: MlxEngine, theirs: Mapping[str, mx.array]) -> Iterator[str]:
        """The names of the arrays that two parts share."""
        return (name for name in ours if name in theirs and not is_of_head(name, other.traced.head))

    def _hand_on(self, source: MlxEngine) -> None:
        """Gives the shared parameters of a part, their moments and their count to the others."""
        for other in self.parts.values():
            if other is source:
                continue
            names = tuple(self._shared(source.trained, other, other.trained))
            other.trained |= {name: source.trained[name] for name in names}
            other.moments |= {name: source.moments[name] for name in names}
            if names:  # the first set is of what is shared, where anything is
                other.counts = (source.counts[0], *other.counts[1:])

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
        """One optimizer step of the task whose rows these are. Raises OutOfMemory with nothing changed."""
        [(name, denominator)] = denominators.items()
        engine = self.parts[name]
        figures = engine.train_step(
            micro_batches, denominators={LOSS: denominator}, learning_rates=learning_rates, seed=seed, number=number
        ).result()
        self._hand_on(engine)
        return DoneStep(StepResult(losses={name: figures.losses[LOSS]}, grad_norm=figures.grad_norm))

    def evaluate(self, batch: Batch) -> RowResults:
        """Losses and outputs of a batch by its task's head, dropout off."""
        return self.parts[batch.term].evaluate(batch)

    # --- state and files

    def save_state(self, folder: Path) -> None:
        """Writes state.safetensors under the names that the PyTorch engine of several tasks gives it."""
        state = {
            renamed: value
            for part, engine in self.parts.items()
            for (_, renamed), value in zip(_names(part, engine), engine.state().values(), strict=True)
        }
        mx.save_safetensors(str(folder / STATE), state)

    def load_state(self, folder: Path) -> None:
        """Takes up what save_state wrote, of this engine or another. Raises KeyError when it is of other parameters."""
        found = mx.load(str(folder / STATE))
        assert isinstance(found, dict)
        for part, engine in self.parts.items():
            engine.take_state({name: found[renamed] for name, renamed in _names(part, engine)})

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
        trained: dict[str, int] = {}
        every: dict[str, int] = {}
        for part, engine in self.parts.items():
            head = engine.traced.head
            trained |= {state_name(part, name, head): value.size for name, value in engine.trained.items()}
            named = engine.traced.model.named_parameters()
            every |= {state_name(part, name, head): value.numel() for name, value in named}
        return sum(trained.values()), sum(every.values())

    @property
    def num_graphs(self) -> int:
        """How many graphs were compiled, for each task one for each shape of batches."""
        return sum(engine.num_graphs for engine in self.parts.values())

    @property
    def frozen_bytes(self) -> tuple[int, int]:
        """Bytes of the parameters that are not trained: as they are held, and as float32 would hold them."""
        frozen = {
            state_name(part, name, engine.traced.head): value
            for part, engine in self.parts.items()
            for name, value in engine.frozen.items()
        }
        trained, total = self.num_parameters
        return sum(value.nbytes for value in frozen.values()), 4 * (total - trained)

    def peak_memory(self) -> int:
        """The most bytes that arrays held."""
        return max(engine.peak_memory() for engine in self.parts.values())


def _names(part: str, engine: MlxEngine) -> Iterator[tuple[str, str]]:
    """The names in a part's state, each with that among those of all."""
    return ((entry, entry_name(part, entry, engine.traced.head)) for entry in engine.state())
