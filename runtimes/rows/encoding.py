"""Texts -> the columns of tokens that encoders read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtimes.rows.features import Column, Portion
from runtimes.rows.tokens import Encoder


def text_columns(pad_token_id: int) -> tuple[Column, ...]:
    """Token ids, and which of two texts each belongs to."""
    return (
        Column(name="input_ids", dtype="int32", axis="tokens", padding=pad_token_id),
        Column(name="token_type_ids", dtype="int8", axis="tokens", optional=True),
    )


def encode_texts(
    texts: Sequence[tuple[str, ...]], encoder: Encoder, others: Mapping[str, npt.NDArray[np.generic]]
) -> Portion:
    """The columns of some rows: their texts' tokens, and `others` [N], one value a row."""
    encodings = encoder.encodings(texts)
    return Portion(
        ragged={
            "input_ids": [np.asarray(encoding.ids, np.int32) for encoding in encodings],
            "token_type_ids": [np.asarray(encoding.type_ids, np.int8) for encoding in encodings],
        },
        fixed=others,
        truncated=sum(bool(encoding.overflowing) for encoding in encodings),
    )
