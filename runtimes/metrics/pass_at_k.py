"""pass@k: how likely one of k drawn answers passes a test."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(passed: int, drawn: int, k: int) -> float:
    """The chance that of k answers, taken from the drawn ones without putting back, at least one passes.

    1 - C(n - c, k) / C(n, k), unbiased for answers that were drawn independently (Chen et al. 2021, arXiv:2107.03374,
    section 2.1). Raises ValueError for more answers than were drawn.
    """
    if not 0 < k <= drawn or not 0 <= passed <= drawn:
        raise ValueError(f"{k} of {drawn} drawn answers, of which {passed} passed")
    return 1 - math.comb(drawn - passed, k) / math.comb(drawn, k)


def mean_pass_at_k(passed: Sequence[int], drawn: int, k: int) -> float:
    """The mean over rows. `passed`: of each row the answers that passed."""
    return sum(pass_at_k(count, drawn, k) for count in passed) / len(passed)
