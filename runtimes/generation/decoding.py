"""Generation: one loop for every runtime. A runtime supplies a Decoder: logits of the last position, and its cache."""

# Axes: B = rows, T = tokens of the prompt, S = tokens so far, V = vocabulary, N = tokens of a continuation

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from compiler.generation import Generation
from runtimes.generation.beams import Beam, advanced
from runtimes.generation.decoded import Decoded, Detokenize, Ends, Floats, Ids, read
from runtimes.generation.sampling import drawn

Cache = TypeVar("Cache")
Prompts = Sequence[Sequence[int]]
BATCH_SIZE = 16
"""Rows that are computed at once, each beam a row."""
SCORED_BATCH_SIZE = 4
"""Rows whose logits at all positions are held at once: 300 tokens of a vocabulary of 150,000 are 180 MB a row."""


class Decoder(Protocol[Cache]):
    """A causal language model with a cache of keys and values. Rows are padded on the left; masks are 0 or 1.

    Or an encoder-decoder: prompts are what the encoder reads, and the answer starts with a token of the decoder's own.
    """

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads the prompts: they take none of the answer's positions."""
        ...

    @property
    def max_positions(self) -> int | None:
        """Tokens that a row may have, prompt and answer; the answer alone where an encoder reads. None: no bound."""
        ...

    def start(self, ids_BT: Ids, mask_BT: Ids) -> tuple[Floats, Cache]:
        """The logits [B, V] of the last position of prompts, and the cache."""
        ...

    def step(self, ids_B1: Ids, mask_BS: Ids, cache: Cache) -> tuple[Floats, Cache]:
        """The logits [B, V] of one token more for each row; the mask has its column too. The old cache is used up.

        Of decoders with a cache of keys and values also of several tokens, of which the first may be padding.
        """
        ...

    def reorder(self, cache: Cache, rows: Ids) -> Cache:
        """The cache of these rows of it, in this order; a row may be left out or repeated. The old cache is used up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """What a decoder says at each token of a given continuation, [N]."""

    log_probs: Floats
    """Of the given token, in nats."""
    best: Ids
    """The likeliest token."""
    margins: Floats
    """Largest less second largest logit."""


def generate(
    decoder: Decoder[Cache],
    prompts: Prompts,
    generation: Generation,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    detokenize: Detokenize | None = None,
    rows: Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
) -> list[Decoded]:
    """The answer to each prompt, in order.

    Prompts of like length are computed together, which changes no answer. `rows`: the number of each prompt, by which
    its draws are made; its place in `prompts` where there are none. Raises ValueError for a prompt without tokens,
    for one that leaves no room, for stop strings without `detokenize`, and for beams that are to be drawn.
    """
    if generation.stop and detokenize is None:
        raise ValueError("stop strings are looked for in text: give a detokenize function")
    if generation.samples and generation.num_beams > 1:
        raise ValueError("beams are searched, not drawn: set temperature to 0 or num_beams to 1")
    ends = Ends(eos_ids=frozenset(eos_ids), stop=generation.stop, detokenize=detokenize)
    limits = [limit_of(decoder, prompt, generation.max_new_tokens) for prompt in prompts]
    numbers = range(len(prompts)) if rows is None else rows
    found: dict[int, Decoded] = {}
    for places in by_length(prompts, max(1, batch_size // generation.num_beams)):
        prompted = _Prompted(*left_padded([prompts[place] for place in places], pad_id), [limits[p] for p in places])
        if generation.num_beams > 1:
            answers = _search(decoder, prompted, generation.num_beams, ends)
        else:
            answers = _write(decoder, prompted, generation, [numbers[place] for place in places], ends)
        found |= {places[at]: answer for at, answer in answers.items()}
    return [found[place] for place in range(len(prompts))]


def limit_of(decoder: Decoder[Cache], prompt: Sequence[int], max_new_tokens: int) -> int:
    """Tokens that the answer to a prompt may have."""
    if not prompt:
        raise ValueError("a prompt has no tokens: begin it with the model's first token")
    max_positions = decoder.max_positions
    if max_positions is None:
        return max_new_tokens
    if decoder.encodes:
        return min(max_new_tokens, max_positions)  # the first one is the start's, and the last token takes none
    if len(prompt) >= max_positions:
        raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room: the model has {max_positions} positions")
    return min(max_new_tokens, max_positions - len(prompt))


@dataclass(frozen=True, slots=True)
class _Prompted:
    """A batch of prompts: token ids and mask [B, T], and how many tokens each answer may have."""

    ids: Ids
    mask: Ids
    limits: Sequence[int]


def _write(
    decoder: Decoder[Cache], batch: _Prompted, generation: Generation, rows: Sequence[int], ends: Ends
) -> Mapping[int, Decoded]:
    """The answers to a batch, one token after another; a row that ended is not computed any more."""
    answers = dict.fromkeys(range(len(rows)), Decoded())
    live, mask_BS = list(answers), batch.mask
    logits_BV, cache = decoder.start(batch.ids, batch.mask)
    for position in range(max(batch.limits)):
        reading = read(logits_BV)
        chosen = drawn(logits_BV, generation, [rows[at] for at in live], position) if generation.samples else None
        ids_B = reading.best if chosen is None else chosen
        columns = (ids_B.tolist(), reading.log_probs(ids_B).tolist(), reading.margins.tolist())
        for at, token, log_prob, margin in zip(live, *columns, strict=True):
            answers[at] = ends.ending(answers[at].extended(token, log_prob, margin), batch.limits[at])
        kept = np.array([place for place, at in enumerate(live) if answers[at].ended is None], dtype=np.int64)
        if not len(kept):
            break
        if len(kept) < len(live):
            cache, mask_BS, live = decoder.reorder(cache, kept), mask_BS[kept], [live[place] for place in kept]
        mask_BS = _longer(mask_BS)
        logits_BV, cache = decoder.step(ids_B[kept, None], mask_BS, cache)
    return answers


def _search(decoder: Decoder[Cache], batch: _Prompted, num_beams: int, ends: Ends) -> Mapping[int, Decoded]:
    """The best answers to a batch by beam search; a row that is done is not computed any more."""
    beams = {at: Beam(size=num_beams, limit=limit) for at, limit in enumerate(batch.limits)}
    live, mask_BS = list(beams), batch.mask
    logits_BV, cache = decoder.start(batch.ids, batch.mask)
    while True:
        first, kept = 0, []
        for at in live:
            num_rows = len(beams[at].running)
            beams[at] = advanced(beams[at], logits_BV[first : first + num_rows], ends)
            kept += [] if beams[at].done else [first + parent for parent in beams[at].parents]
            first += num_rows
        live = [at for at in live if not beams[at].done]
        if not live:
            return {at: beam.finished[0] for at, beam in beams.items()}
        places = np.array(kept, dtype=np.int64)
        cache, mask_BS = decoder.reorder(cache, places), _longer(mask_BS[places])
        last = [[answer.ids[-1]] for at in live for answer in beams[at].running]
        logits_BV, cache = decoder.step(np.array(last, dtype=np.int64), mask_BS, cache)


def forced(
    decoder: Decoder[Cache], prompts: Prompts, continuations: Prompts, *, pad_id: int, batch_size: int = BATCH_SIZE
) -> list[Forced]:
    """What the decoder says at each token of the continuation of each prompt, one token after another by its cache."""
    found: dict[int, Forced] = {}
    for places in by_length(prompts, batch_size):
        prompted = left_padded([prompts[place] for place in places], pad_id)
        given = [continuations[place] for place in places]
        found |= {places[at]: reading for at, reading in enumerate(_forced(decoder, *prompted, given))}
    return [found[place] for place in range(len(prompts))]


def _forced(decoder: Decoder[Cache], ids_BT: Ids, mask_BT: Ids, given: Prompts) -> Iterator[Forced]:
    shape = (len(given), max(map(len, given)))
    log_probs_BN, margins_BN, best_BN = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
    tokens_BN = np.array([[*tokens, *[0] * (shape[1] - len(tokens))] for tokens in given], np.int64)
    lengths_B = np.array([len(tokens) for tokens in given])
    live, mask_BS = np.arange(len(given)), mask_BT
    logits_BV, cache = decoder.start(ids_BT, mask_BT)
    for position in range(shape[1]):
        kept = np.flatnonzero(lengths_B[live] > position)
        if position:
            if len(kept) < len(live):
                cache = decoder.reorder(cache, kept)
            live, mask_BS = live[kept], _longer(mask_BS[kept])
            logits_BV, cache = decoder.step(tokens_BN[live, position - 1, None], mask_BS, cache)
        reading = read(logits_BV)
        log_probs_BN[live, position] = reading.log_probs(tokens_BN[live, position])
        best_BN[live, position], margins_BN[live, position] = reading.best, reading.margins
    for log_probs, best, margins, length in zip(log_probs_BN, best_BN, margins_BN, lengths_B, strict=True):
        yield Forced(log_probs=log_probs[:length], best=best[:length], margins=margins[:length])


def scored(
    logits: Callable[[Ids, Ids], Floats],
    prompts: Prompts,
    continuations: Prompts,
    *,
    pad_id: int,
    batch_size: int = SCORED_BATCH_SIZE,
) -> list[Forced]:
    """As `forced`, in one pass over prompt and continuation without a cache.

    `logits`: [B, T, V] at every position of rows, from their token ids and mask [B, T].
    """
    wholes = [[*prompt, *tokens] for prompt, tokens in zip(prompts, continuations, strict=True)]
    found: dict[int, Forced] = {}
    for places in by_length(wholes, batch_size):
        logits_BTV = logits(*left_padded([wholes[place] for place in places], pad_id))
        for logits_TV, place in zip(logits_BTV, places, strict=True):
            tokens_N = np.array(continuations[place], dtype=np.int64)
            reading = read(logits_TV[len(logits_TV) - len(tokens_N) - 1 : -1])
            found[place] = Forced(log_probs=reading.log_probs(tokens_N), best=reading.best, margins=reading.margins)
    return [found[place] for place in range(len(prompts))]


def by_length(prompts: Prompts, size: int) -> Iterator[list[int]]:
    """The places of prompts in batches of at most `size`, those of like length together, the longest first."""
    places = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    return (places[first : first + size] for first in range(0, len(places), size))


def left_padded(prompts: Prompts, pad_id: int) -> tuple[Ids, Ids]:
    """Token ids and mask [B, T] of prompts, padded on the left to the longest."""
    num_tokens = max(map(len, prompts))
    ids_BT = np.full((len(prompts), num_tokens), pad_id, dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, num_tokens - len(prompt) :] = prompt
        mask_BT[row, num_tokens - len(prompt) :] = 1
    return ids_BT, mask_BT


def right_padded(ids_BT: Ids, mask_BT: Ids) -> tuple[Ids, Ids]:
    """Token ids and mask [B, T], padded on the right: encoders count positions from the left, padding or not."""
    places_BT = np.argsort(-mask_BT, axis=1, kind="stable")
    return np.take_along_axis(ids_BT, places_BT, axis=1), np.take_along_axis(mask_BT, places_BT, axis=1)


def positions(mask_BS: npt.NDArray[np.int64], count: int) -> Ids:
    """[B, count] the position of each of the last tokens in its row: padding before it is not counted."""
    found: Ids = np.maximum(mask_BS.cumsum(axis=1) - 1, 0)[:, -count:]
    return found


def _longer(mask_BS: Ids) -> Ids:
    return np.pad(mask_BS, ((0, 0), (0, 1)), constant_values=1)
