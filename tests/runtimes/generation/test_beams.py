from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from compiler.generation import Generation
from runtimes.generation.decoding import generate
from tests.runtimes.tables import Tables, log_softmax, random_prompts, random_tables

VOCABULARY, LENGTH, EOS = 4, 4, 2


def every_answer() -> Iterator[tuple[int, ...]]:
    """All answers of at most LENGTH tokens: they end with EOS, or are as long as they may be."""
    for length in range(1, LENGTH + 1):
        for ids in itertools.product(range(VOCABULARY), repeat=length):
            if EOS not in ids[:-1] and (ids[-1] == EOS or length == LENGTH):
                yield ids


def score(decoder: Tables, prompt: list[int], ids: tuple[int, ...]) -> float:
    """Log-probability a token, from the table."""
    total = sum(log_softmax(decoder.logits([*prompt, *ids[:at]]))[token] for at, token in enumerate(ids))
    return float(total) / len(ids)


@pytest.mark.parametrize("seed", range(4))
def test_beams_enough_for_every_answer_find_the_likeliest_one(seed: int) -> None:
    decoder = random_tables(VOCABULARY, seed=seed)
    prompts = random_prompts(5, VOCABULARY)
    generation = Generation(max_new_tokens=LENGTH, num_beams=VOCABULARY**LENGTH)
    found = generate(decoder, prompts, generation, eos_ids=[EOS], pad_id=0)
    for prompt, answer in zip(prompts, found, strict=True):
        best = max(every_answer(), key=lambda ids: score(decoder, prompt, ids))
        assert answer.ids == best
        assert answer.log_prob / len(best) == pytest.approx(score(decoder, prompt, best), abs=1e-6)


def test_more_beams_find_answers_that_greedy_misses() -> None:
    decoder, prompts = random_tables(), random_prompts(30)

    def totals(num_beams: int) -> list[float]:
        generation = Generation(max_new_tokens=8, num_beams=num_beams)
        return [answer.log_prob for answer in generate(decoder, prompts, generation, eos_ids=[], pad_id=0)]

    greedy, few, many = totals(1), totals(2), totals(12)
    assert sum(greedy) < sum(few) < sum(many)


def test_rows_that_are_done_are_not_computed_any_more() -> None:
    decoder, prompts = random_tables(), random_prompts(6)
    generate(decoder, prompts, Generation(max_new_tokens=40, num_beams=3), eos_ids=[3, 5, 7], pad_id=0, batch_size=99)
    assert decoder.batches[:2] == [6, 18]
    assert decoder.batches == [6, *sorted(decoder.batches[1:], reverse=True)]
    assert decoder.batches[-1] < 18
