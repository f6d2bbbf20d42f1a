"""A gate that is asked to stop does so before its next batch, or its next token. The next run asks it anew.

What the gate compares is wrapped, and the comparisons know nothing of it.
"""

# Axes: B = rows, T = tokens of the prompt, S = tokens so far, V = vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from runtimes.errors import Interrupted
from runtimes.export import LocaliseFunction, Stage
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import Decoder
from runtimes.localisation.finding import Localised
from runtimes.protocol import Batch
from runtimes.verification.edges import Writer
from runtimes.verification.gate import ScoreFunction, Scores

Cache = TypeVar("Cache")


@dataclass(frozen=True, slots=True)
class Stopping:
    """What asks, between two batches of a step, whether its run is to stop."""

    asked: Callable[[], bool]
    step: str

    def check(self) -> None:
        """Nothing where the run goes on. Raises Interrupted."""
        if self.asked():
            message = f"stopped within the step {self.step}; what was done before it is kept"
            raise Interrupted("E130", message, "the same command goes on, and begins that step anew")

    def stage(self, stage: Stage) -> Stage:
        """A stage that can be stopped in whatever it computes."""
        decoder, localise = stage.decoder, stage.localise
        return replace(
            stage,
            open=lambda: self._scores(stage.open()),
            decoder=decoder and self._decoder(decoder),
            localise=localise and self._localise(localise),
        )

    def writer(self, writer: Writer) -> Writer:
        """Likewise, of the source that writes."""
        return replace(writer, source=self._decoder(writer.source))

    def _scores(self, scores: ScoreFunction) -> ScoreFunction:
        def checked(batch: Batch) -> Scores:
            self.check()
            return scores(batch)

        return checked

    def _localise(self, localise: LocaliseFunction) -> LocaliseFunction:
        def checked(batch: Batch, files: Sequence[Path]) -> Localised:
            self.check()
            return localise(batch, files)

        return checked

    def _decoder(self, opened: Callable[[], Decoder[Any]]) -> Callable[[], Decoder[Any]]:
        return lambda: StoppableDecoder(opened(), self)


@dataclass(frozen=True, slots=True)
class StoppableDecoder(Decoder[Cache]):
    """A decoder that can be stopped before every token."""

    inner: Decoder[Cache]
    stopping: Stopping

    @property
    def encodes(self) -> bool:
        """As of the decoder itself."""
        return self.inner.encodes

    @property
    def max_positions(self) -> int | None:
        """As of the decoder itself."""
        return self.inner.max_positions

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Cache]:
        """As of the decoder itself. Raises Interrupted."""
        self.stopping.check()
        return self.inner.start(ids_BT, mask_BT)

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Cache) -> tuple[Floats, Cache]:
        """As of the decoder itself. Raises Interrupted."""
        self.stopping.check()
        return self.inner.step(ids_B1, mask_BS, cache)

    def reorder(self, cache: Cache, rows: Ids) -> Cache:
        """As of the decoder itself."""
        return self.inner.reorder(cache, rows)
