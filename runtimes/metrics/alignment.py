"""How two sequences align: by bits, a machine word of the one sequence at a time, so that long texts cost little."""

# m = items of the first sequence: bit i of a mask is its item i

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def common_length(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence (Hyyrö 2004, Bit-parallel LCS-length computation revisited)."""
    masks, full = _masks(one), (1 << len(one)) - 1
    rises = full  # bit i is 0 where the length grows at item i
    for item in other:
        matches = rises & masks.get(item, 0)
        rises = ((rises + matches) | (rises - matches)) & full
    return len(one) - rises.bit_count()


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Least number of items to insert, delete or replace (Myers 1999, as in Hyyrö 2003)."""
    if not one:
        return len(other)
    masks, full, last = _masks(one), (1 << len(one)) - 1, 1 << (len(one) - 1)
    distance, up, down = len(one), full, 0  # bit i: the column rises, or falls, by 1 at item i
    for item in other:
        matches = masks.get(item, 0)
        diagonal = (((matches & up) + up) ^ up) | matches | down
        right_up, right_down = down | (full & ~(diagonal | up)), up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = (right_up << 1) | 1, right_down << 1
        up, down = (right_down | ~(diagonal | right_up)) & full, right_up & diagonal & full
    return distance


def _masks(items: Sequence[Hashable]) -> dict[Hashable, int]:
    """Where each item stands, as bits."""
    masks: dict[Hashable, int] = defaultdict(int)
    for place, item in enumerate(items):
        masks[item] |= 1 << place
    return masks
