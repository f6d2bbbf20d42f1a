"""Beam search: several answers of a row are written side by side, and the likeliest for its length is kept.

As transformers does it by default: an answer's score is its log-probability over its number of tokens, and a row is
done when its best running answer, at its length, is behind the worst of `num_beams` finished ones.
"""

# Axes: H = running answers of a row, V = vocabulary

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtimes.generation.decoded import Decoded, Ends, Floats, largest, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """The answers of a row: those that go on, the best first, and the best `size` of those that ended."""

    size: int
    limit: int
    """Tokens of an answer at most."""
    running: tuple[Decoded, ...] = (Decoded(),)
    parents: tuple[int, ...] = (0,)
    """Which running answer before the last step each running one goes on from."""
    finished: tuple[Decoded, ...] = ()

    @property
    def done(self) -> bool:
        """Whether no running answer can get among the finished ones any more."""
        if not self.running:
            return True
        return len(self.finished) == self.size and score(self.running[0]) <= score(self.finished[-1])


def score(answer: Decoded) -> float:
    """Log-probability a token, in nats."""
    return answer.log_prob / len(answer.ids)


def advanced(beam: Beam, logits_HV: Floats, ends: Ends) -> Beam:
    """The beam after one token more.

    Only an answer among the `size` best candidates may end; further candidates fill the places of those that do.
    """
    reading = read(logits_HV)
    log_probs_HV = logits_HV - reading.totals[:, None]
    totals_HV = log_probs_HV + np.array([[answer.log_prob] for answer in beam.running])
    count = max(2, 1 + len(ends.eos_ids)) * beam.size
    running: list[Decoded] = []
    parents: list[int] = []
    finished = list(beam.finished)
    for rank, place in enumerate(largest(totals_HV.ravel(), count).tolist()):
        parent, token = divmod(place, logits_HV.shape[1])
        longer = beam.running[parent].extended(
            token, float(log_probs_HV[parent, token]), float(reading.margins[parent])
        )
        answer = ends.ending(longer, beam.limit)
        if answer.ended is None and len(running) < beam.size:
            running.append(answer)
            parents.append(parent)
        elif answer.ended is not None and rank < beam.size:
            finished.append(answer)
    finished.sort(key=score, reverse=True)
    return Beam(
        size=beam.size,
        limit=beam.limit,
        running=tuple(running),
        parents=tuple(parents),
        finished=tuple(finished[: beam.size]),
    )
