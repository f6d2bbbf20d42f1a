"""What a bundle says of how its model came about: the sender's word, which nothing in the bundle can prove."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from compiler.diagnostics import counted
from compiler.methods import Method
from compiler.origin import NO_ORIGIN, Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUsed:
    """Rows of a split: how many, and the sha256 of each file that they were taken from."""

    stage: str = ""
    split: str
    rows: int
    files: tuple[str, ...]
    images: tuple[str, ...] = ()  # over those that the rows of each file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How one training went."""

    stage: str = ""
    method: Method
    rows: int  # to learn from
    steps: int
    batch_size: int
    learning_rate: float
    precision: str
    seed: int
    trained: int  # parameters
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The trained model's figures on held-out rows, those of written texts among them."""

    split: str = ""
    rows: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a model is from."""

    origin: Origin = NO_ORIGIN
    base_files: Mapping[str, str] = field(default_factory=dict)  # sha256 by name, of the base model's
    reads_base: bool = True  # whether training began with the base model's weights
    data: tuple[DataUsed, ...] = ()
    trainings: tuple[Training, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)  # sha256 by name, of what training and merging left
    evaluated: Evaluated = field(default_factory=Evaluated)

    @property
    def is_tuned(self) -> bool:
        """Whether the model is another one than its base."""
        return bool(self.trainings) or self.origin.tuned


NOTHING_TOLD = Provenance()


def told_lines(provenance: Provenance) -> Iterator[str]:
    """The sender's word for a terminal; nothing where there is none."""
    origin = provenance.origin
    if origin.base_model:
        yield f"base model {origin.base_model}, licence {origin.licence.name or origin.licence.id}"
    for training in provenance.trainings:
        stage = f"{training.stage}: " if training.stage else ""
        yield f"{stage}{training.method.type}, {training.rows:,} rows, {training.steps:,} steps"
    if provenance.data or provenance.weights:
        files = counted(len({name for used in provenance.data for name in used.files}), "file")
        yield f"sha256 of {files} of rows, {counted(len(provenance.weights), 'file')} of tuned weights"
    if provenance.evaluated.metrics:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in provenance.evaluated.metrics.items())
        rows = f"{provenance.evaluated.rows:,} {provenance.evaluated.split} rows"
        yield f"the trained model on {rows}: {shown} (not measured here: the rows are not in the bundle)"
