"""What tasks have in common whose rows are shown as a text and its answer."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.supervision import Segment


def read_and_answered(texts: Sequence[str], answer: object) -> tuple[Segment, ...]:
    """What is read, and what is learnt of it."""
    shown = ", ".join(map(str, answer)) if isinstance(answer, (list, tuple)) else str(answer)
    return (Segment(f"{' | '.join(texts)} ", supervised=False), Segment(shown, supervised=True))
