"""Hidden tokens: which of a text's, what an encoder sees in their place, and what it is to answer.

Of the tokens that are no special ones a share is hidden, one at least; eight of ten are then the mask token, one is a
random token and one stays as it is (Devlin et al. 2018, arXiv:1810.04805, section 3.1).
"""

# B = rows, T = tokens of a row

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.data.splits import scramble
from compiler.tasks.masking import Masking
from runtimes.protocol import Batch
from runtimes.randomness import number, uniform
from runtimes.rows.encoding import encode_texts, text_columns
from runtimes.rows.features import IGNORED, TARGETS, TOKENS, Column, Portion
from runtimes.rows.readings import NUM_FIGURES
from runtimes.rows.tokens import Encoder, Texts
from runtimes.tasks.interface import Array, Head

IDS = "input_ids"
SHOWN_AS_MASK, SHOWN_AS_RANDOM = 0.8, 0.1
HEAD = Head(
    auto_class="AutoModelForMaskedLM",
    peft_task="",  # peft has none for it
    config={},
    num_outputs=NUM_FIGURES,
    reading="tokens",
    pretrained=True,
)
"""The head that an encoder was pretrained with: a logit for each token of the vocabulary."""
Draw = Callable[[str], npt.NDArray[np.float64]]
"""[B, T] numbers evenly spread over [0, 1), for what they decide."""


def hide(masking: Masking, ids_BT: Array, present_BT: npt.NDArray[np.bool_], draw: Draw) -> tuple[Array, Array]:
    """[B, T] what is seen of rows, and the tokens that are hidden in them, IGNORED elsewhere. `present`: no padding."""
    possible_BT = present_BT & ~np.isin(ids_BT, masking.special_ids)
    places_BT = np.argsort(np.argsort(np.where(possible_BT, draw("hidden"), 1.0), axis=1, kind="stable"), axis=1)
    counts_B = np.maximum(1, np.rint(masking.probability * possible_BT.sum(axis=1)))
    hidden_BT = possible_BT & (places_BT < counts_B[:, None])
    shown_BT = draw("shown")
    ordinary = _ordinary(masking)
    random_BT = ordinary[(draw("random") * len(ordinary)).astype(np.int64)]
    instead_BT = np.where(shown_BT < SHOWN_AS_MASK + SHOWN_AS_RANDOM, random_BT, ids_BT)
    instead_BT = np.where(shown_BT < SHOWN_AS_MASK, masking.mask_id, instead_BT)
    return np.where(hidden_BT, instead_BT, ids_BT), np.where(hidden_BT, ids_BT, IGNORED)


@lru_cache(maxsize=1)
def _ordinary(masking: Masking) -> npt.NDArray[np.int64]:
    """The tokens that may take another one's place."""
    assert masking.vocab_size != "auto" and masking.special_ids != "auto", "a plan's numbers are resolved"
    return np.setdiff1d(np.arange(masking.vocab_size), masking.special_ids)


def columns(pad_token_id: int) -> tuple[Column, ...]:
    """What is seen of a text, and the tokens that are hidden in it."""
    return (*text_columns(pad_token_id), Column(name=TARGETS, dtype="int32", axis=TOKENS, padding=IGNORED))


def always_hidden(masking: Masking, texts: Sequence[Texts], encoder: Encoder) -> Portion:
    """The columns of some rows, which tokens are hidden being a function of a row's own tokens."""
    whole = encode_texts(texts, encoder, {})
    pairs = [hide(masking, row[None], np.ones((1, len(row)), bool), _drawn_by(row)) for row in whole.ragged[IDS]]
    seen, hidden = ([both[part][0].astype(np.int32) for both in pairs] for part in range(2))
    return replace(whole, ragged={**whole.ragged, IDS: seen, TARGETS: hidden})


def _drawn_by(ids: Array) -> Draw:
    key = ids.astype("<i4").tobytes().hex()
    return lambda what: uniform(len(ids), "masking", what, key)[None]


def hidden_anew(masking: Masking, batch: Batch, *, seed: int, epoch: int) -> Batch:
    """The batch with other tokens hidden than in what is stored: a function of (seed, epoch, row)."""
    whole_BT = np.where(batch.targets != IGNORED, batch.targets, batch.inputs[IDS])
    places_BT = (batch.rows[:, None] << np.int64(32)) + np.arange(whole_BT.shape[1])

    def draw(what: str) -> npt.NDArray[np.float64]:
        bits_BT = scramble(number(seed, epoch, "masking", what), places_BT)
        return (bits_BT >> np.uint64(11)).astype(np.float64) * 2.0**-53

    seen_BT, hidden_BT = hide(masking, whole_BT, batch.positions, draw)
    inputs: dict[str, Any] = {**batch.inputs, IDS: seen_BT}
    return replace(batch, inputs=inputs, targets=hidden_BT)
