"""A decoder that can be stopped: it writes as the one inside, until it is asked."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.generation import Generation
from runtimes.errors import Interrupted
from runtimes.export import Stage
from runtimes.generation.decoded import Floats, Ids
from runtimes.generation.decoding import generate
from runtimes.verification.stopping import Stopping

VOCABULARY = 7


class Counting:
    """Writes the number after the last one; its cache is nothing."""

    encodes = False
    max_positions = None

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, None]:
        return self.step(ids_BT[:, -1:], mask_BT, None)

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: None) -> tuple[Floats, None]:
        return np.eye(VOCABULARY)[(ids_B1[:, 0] + 1) % VOCABULARY], None

    def reorder(self, cache: None, rows: Ids) -> None:
        return None


class Counted:
    """Asks to stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self) -> bool:
        self.times -= 1
        return self.times < 0


def written(times: int) -> tuple[int, ...]:
    """Five tokens after the token 1, by a decoder that is stopped when it has been asked so many times."""
    stopping = Stopping(Counted(times), "verify")
    stage = stopping.stage(Stage("source", lambda: lambda batch: np.zeros((1, 1)), decoder=Counting))
    assert stage.decoder is not None
    [found] = generate(stage.decoder(), [[1]], Generation(max_new_tokens=5), eos_ids=(), pad_id=0)
    return tuple(found.ids)


def test_a_decoder_that_may_go_on_writes_as_it_does_by_itself() -> None:
    [alone] = generate(Counting(), [[1]], Generation(max_new_tokens=5), eos_ids=(), pad_id=0)
    assert written(100) == tuple(alone.ids) == (2, 3, 4, 5, 6)


def test_a_decoder_stops_between_two_tokens() -> None:
    assert len(written(5)) == 5
    for times in range(5):
        with pytest.raises(Interrupted, match="stopped within the step verify"):
            written(times)


def test_a_stage_without_a_decoder_has_none_afterwards() -> None:
    stage = Stopping(Counted(0), "verify").stage(Stage("source", lambda: lambda batch: np.zeros((1, 1))))
    assert (stage.decoder, stage.localise) == (None, None)
