"""Numbers that look random and are functions of a key: equal on every machine and with every version of numpy."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from compiler.data.splits import scramble


def number(*key: int | str) -> int:
    """64 bits of a key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def bits(count: int, *key: int | str) -> npt.NDArray[np.uint64]:
    """[count] 64 bits of (key, position) each; no two are equal."""
    return scramble(number(*key), np.arange(count))


def order(count: int, *key: int | str) -> npt.NDArray[np.int64]:
    """[count] the numbers below `count`, shuffled."""
    return np.argsort(bits(count, *key), kind="stable")


def uniform(count: int, *key: int | str) -> npt.NDArray[np.float64]:
    """[count] numbers evenly spread over [0, 1)."""
    return (bits(count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(count: int, *key: int | str) -> npt.NDArray[np.float64]:
    """[count] numbers of mean 0 and deviation 1 (Box and Muller 1958, doi:10.1214/aoms/1177706645)."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(count, *key, "radius")))
    return radius * np.cos(2.0 * np.pi * uniform(count, *key, "angle"))
