"""Several rows in one sequence: positions restart at each, and no token sees another row's."""

# P = positions of a portion of sequences

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from compiler.packing import Packing, Piece, pack
from runtimes.rows.feature_writer import write_features
from runtimes.rows.features import TOKENS, Array, Column, Features, Portion
from runtimes.rows.tokens import chunks

SEGMENTS = "segments"
"""The column that numbers the pieces of a sequence from 1; padding has 0. Attention stays within a number."""
POSITIONS = "position_ids"
_SEQUENCES_AT_ONCE = 256
_ADDED = (
    Column(name=POSITIONS, dtype="int32", axis=TOKENS),
    Column(name=SEGMENTS, dtype="int32", axis=TOKENS),
)


def packed_columns(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns of packed rows: those along the tokens, positions and segments."""
    return (*(column for column in columns if column.axis == TOKENS), *_ADDED)


def write_packed(rows: Features, packing: Packing, capacity: int, folder: Path) -> None:
    """Writes the rows anew, several in a sequence of at most `capacity` tokens."""
    columns = packed_columns(rows.columns.values())
    sequences = pack(packing, rows.lengths.tolist(), capacity)
    write_features(
        (_portion(rows, portion) for portion in chunks(sequences, _SEQUENCES_AT_ONCE)),
        columns,
        folder,
        max_length=capacity,
        pad_token_id=rows.facts.pad_token_id,
        truncated=rows.facts.truncated,
    )


def _portion(rows: Features, sequences: list[tuple[Piece, ...]]) -> Portion:
    own = [column.name for column in rows.columns.values() if column.axis == TOKENS]
    ragged = {name: [_joined(rows, name, pieces) for pieces in sequences] for name in own}
    ragged[POSITIONS] = [np.concatenate(list(_positions(pieces))) for pieces in sequences]
    ragged[SEGMENTS] = [np.repeat(np.arange(1, len(p) + 1), [q.stop - q.start for q in p]) for p in sequences]
    return Portion(ragged=ragged, fixed={}, truncated=0)


def _joined(rows: Features, name: str, pieces: tuple[Piece, ...]) -> Array:
    values = rows.ragged(name)
    return np.concatenate([values.row(piece.row)[piece.start : piece.stop] for piece in pieces])


def _positions(pieces: tuple[Piece, ...]) -> Iterator[Array]:
    return (np.arange(piece.stop - piece.start) for piece in pieces)
