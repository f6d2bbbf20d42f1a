"""The loop's laws, on a decoder whose answers can be worked out by hand."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.generation import Generation
from runtimes.generation.decoded import Decoded, Floats, Ids, before_stop, eos_ids, read
from runtimes.generation.decoding import by_length, forced, generate, left_padded, positions, scored
from runtimes.generation.sampling import candidates
from tests.runtimes.tables import Tables, log_softmax, random_prompts, random_tables

PROMPTS = random_prompts(12)
GREEDY = Generation(max_new_tokens=10)
DRAWN = Generation(max_new_tokens=10, temperature=1.3, top_k=8, top_p=0.95, seed=5)
BEAMS = Generation(max_new_tokens=10, num_beams=3)


def letters(ids: Sequence[int]) -> str:
    return "".join(string.ascii_lowercase[token] for token in ids)


def write(decoder: Tables, generation: Generation = GREEDY, prompts: Sequence[Sequence[int]] = PROMPTS, **more):
    return generate(decoder, prompts, generation, **{"eos_ids": [3], "pad_id": 0, "detokenize": letters, **more})


def test_greedy_takes_the_likeliest_token_and_says_how_sure_it_was() -> None:
    decoder = random_tables()
    for prompt, answer in zip(PROMPTS, write(decoder), strict=True):
        for place, token in enumerate(answer.ids):
            logits = decoder.logits([*prompt, *answer.ids[:place]])
            second, first = np.sort(logits)[-2:]
            assert token == logits.argmax()
            assert answer.margins[place] == pytest.approx(first - second, abs=1e-6)
            assert answer.log_probs[place] == pytest.approx(log_softmax(logits)[token], abs=1e-6)
        assert answer.log_prob == pytest.approx(sum(answer.log_probs))


def test_an_answer_ends_with_its_end_token_or_at_its_length() -> None:
    answers = write(random_tables())
    assert {answer.ended for answer in answers} == {"eos", "length"}
    for answer in answers:
        assert 3 not in answer.ids[:-1]
        assert (answer.ended == "eos") == (answer.ids[-1] == 3)
        assert answer.ended == "eos" or len(answer.ids) == 10


@pytest.mark.parametrize("generation", [GREEDY, DRAWN, BEAMS], ids=["greedy", "drawn", "beams"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_what_a_row_is_computed_with_does_not_change_its_answer(generation: Generation, batch_size: int) -> None:
    decoder = random_tables()
    alone = [
        answer
        for row, prompt in enumerate(PROMPTS)
        for answer in write(decoder, generation, [prompt], rows=[row], batch_size=1)
    ]
    assert write(decoder, generation, batch_size=batch_size) == alone


def test_rows_that_ended_are_not_computed_any_more() -> None:
    decoder = random_tables()
    answers = write(decoder)
    assert max(decoder.batches) == len(PROMPTS)
    assert sum(decoder.batches) == sum(len(answer.ids) for answer in answers)


def test_tokens_are_drawn_as_often_as_their_shares_say() -> None:
    logits = np.array([[2.0, 1.0, 0.0, -1.0, 0.5]], np.float32)
    generation = Generation(max_new_tokens=100, temperature=0.8)
    answers = write(Tables(logits), generation, [[1]] * 200, batch_size=200, eos_ids=[])
    tokens = np.array([answer.ids for answer in answers])
    count = tokens.size
    drawn = np.bincount(tokens.ravel(), minlength=5) / count
    shares = np.exp(log_softmax(logits[0] / 0.8))
    assert np.abs(drawn - shares).max() < 5 * np.sqrt(0.25 / count)  # five deviations of the widest share
    same_row, same_place = (
        np.mean(one == other) for one, other in ((tokens[:, 1:], tokens[:, :-1]), (tokens[1:], tokens[:-1]))
    )
    assert abs(same_row - (shares**2).sum()) < 5 * np.sqrt(0.25 / count)
    assert abs(same_place - (shares**2).sum()) < 5 * np.sqrt(0.25 / count)
    assert answers[0].log_probs[0] == pytest.approx(log_softmax(logits[0])[answers[0].ids[0]], abs=1e-6)


def test_only_the_likeliest_tokens_are_drawn() -> None:
    table = Tables(np.log(np.array([[0.4, 0.3, 0.2, 0.06, 0.04]], np.float32)))
    for generation, expected in (
        (Generation(max_new_tokens=1, temperature=1, top_k=2), {0, 1}),
        (Generation(max_new_tokens=1, temperature=1, top_p=0.65), {0, 1}),
        (Generation(max_new_tokens=1, temperature=1, top_p=0.75), {0, 1, 2}),
        (Generation(max_new_tokens=1, temperature=1, top_k=3, top_p=0.75), {0, 1}),  # 0.7 of 0.9 is 0.78
        (Generation(max_new_tokens=1, temperature=0.01), {0}),
    ):
        assert {answer.ids[0] for answer in write(table, generation, [[1]] * 300)} == expected


def test_the_seed_and_the_rows_number_decide_what_is_drawn() -> None:
    decoder, prompts = random_tables(), [PROMPTS[0]] * 8
    answers = write(decoder, DRAWN, prompts)
    assert answers == write(decoder, DRAWN, prompts)
    assert len({answer.ids for answer in answers}) > 4
    assert write(decoder, DRAWN, prompts[:3], rows=[6, 1, 4]) == [answers[6], answers[1], answers[4]]
    assert answers != write(decoder, Generation(max_new_tokens=10, temperature=1.3, top_k=8, seed=6), prompts)


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30), st.floats(0.01, 1), st.integers(1, 30))
def test_what_may_be_drawn_is_the_fewest_tokens_with_the_share(logits: list[float], top_p: float, top_k: int) -> None:
    scaled = np.array(logits)
    ids = candidates(scaled, top_k, top_p)
    kept = np.exp(scaled[np.argsort(-scaled)[:top_k]])
    assert 1 <= len(ids) <= min(top_k, len(logits))
    assert np.exp(scaled[ids]).sum() >= top_p * kept.sum() * (1 - 1e-9)
    assert np.exp(scaled[ids[:-1]]).sum() < top_p * kept.sum() * (1 + 1e-9)


@pytest.mark.parametrize("generation", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_an_answer_ends_where_a_stop_string_is_complete(generation: Generation) -> None:
    decoder = random_tables()
    whole = write(decoder, generation, eos_ids=[])
    stop = letters(whole[0].ids[3:5])
    stopping = Generation(max_new_tokens=10, num_beams=generation.num_beams, stop=(stop, "never"))
    answers = write(decoder, stopping, eos_ids=[])
    assert any(answer.ended == "stop" for answer in answers)
    for answer in answers:
        text = letters(answer.ids)
        assert (answer.ended == "stop") == (stop in text)
        assert stop not in letters(answer.ids[:-1])
        assert stop not in before_stop(text, [stop, "never"])


def test_the_text_before_the_first_stop_string_is_kept() -> None:
    assert before_stop("one two three", ["three", "two"]) == "one "
    assert before_stop("one two three", ["four"]) == "one two three"


def test_end_tokens_are_those_of_the_first_configuration_that_names_any() -> None:
    assert eos_ids({"eos_token_id": [5, 7]}, {"eos_token_id": 3}) == (5, 7)
    assert eos_ids(None, {"eos_token_id": None}, {"eos_token_id": 0}) == (0,)
    assert eos_ids({}, "no object") == ()


def test_a_row_ends_where_the_model_has_no_further_position() -> None:
    decoder = random_tables(limit=12)
    for generation in (Generation(), Generation(num_beams=2)):
        answers = write(decoder, generation, eos_ids=[])
        assert [len(prompt) + len(answer.ids) for prompt, answer in zip(PROMPTS, answers, strict=True)] == [12] * 12
        assert {answer.ended for answer in answers} == {"length"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [[1], []]}, "has no tokens"),
        ({"prompts": [[1] * 12]}, "leaves no room"),
        ({"generation": Generation(stop=("a",)), "detokenize": None}, "detokenize"),
        ({"generation": Generation(temperature=1.0, num_beams=2)}, "not drawn"),
    ],
)
def test_what_can_not_be_written_is_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(random_tables(limit=12), **changes)


def test_no_prompts_have_no_answers() -> None:
    assert write(random_tables(), prompts=[]) == []
    assert forced(random_tables(), [], [], pad_id=0) == []


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_forced_readings_are_the_logits_after_each_prefix(batch_size: int) -> None:
    decoder, random = random_tables(), np.random.default_rng(3)
    continuations = [random.integers(1, 12, length).tolist() for length in (3, 0, 7, 1, 4, 4, 0, 2, 9, 1, 5, 2)]
    found = forced(decoder, PROMPTS, continuations, pad_id=0, batch_size=batch_size)
    for prompt, given_, reading in zip(PROMPTS, continuations, found, strict=True):
        logits = np.array([decoder.logits([*prompt, *given_[:at]]) for at in range(len(given_))]).reshape(-1, 12)
        ordered = np.sort(logits, axis=1)
        assert reading.best.tolist() == logits.argmax(axis=1).tolist()
        assert np.allclose(reading.margins, ordered[:, -1] - ordered[:, -2], atol=1e-6)
        assert np.allclose(reading.log_probs, log_softmax(logits)[np.arange(len(given_)), given_], atol=1e-6)


def test_one_pass_without_a_cache_reads_what_forcing_does() -> None:
    decoder, random = random_tables(), np.random.default_rng(4)
    continuations = [random.integers(1, 12, length).tolist() for length in (3, 0, 7, 1, 4, 4, 0, 2, 9, 1, 5, 2)]

    def logits(ids: Ids, mask: Ids) -> Floats:
        rows = [
            [decoder.logits(row[seen == 1][: at + 1]) for at in range(sum(seen))]
            for row, seen in zip(ids, mask, strict=True)
        ]
        return np.array([[np.zeros(12)] * (ids.shape[1] - len(row)) + row for row in rows])

    found = scored(logits, PROMPTS, continuations, pad_id=0, batch_size=5)
    for one, other in zip(found, forced(decoder, PROMPTS, continuations, pad_id=0), strict=True):
        assert one.best.tolist() == other.best.tolist()
        assert np.allclose(one.log_probs, other.log_probs, atol=1e-6)
        assert np.allclose(one.margins, other.margins, atol=1e-6)


def test_what_was_written_reads_the_same_when_it_is_forced() -> None:
    answers = write(random_tables())
    for answer, reading in zip(
        answers, forced(random_tables(), PROMPTS, [answer.ids for answer in answers], pad_id=0), strict=True
    ):
        assert answer == Decoded(
            ids=tuple(reading.best.tolist()),
            log_probs=tuple(reading.log_probs.tolist()),
            margins=tuple(reading.margins.tolist()),
            ended=answer.ended,
        )


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=9), st.integers(1, 4))
def test_batches_hold_every_prompt_once_and_padding_moves_no_position(prompts: list[list[int]], size: int) -> None:
    batches = list(by_length(prompts, size))
    assert sorted(place for places in batches for place in places) == list(range(len(prompts)))
    assert max(map(len, batches)) <= size
    ids, mask = left_padded(prompts, 0)
    for row, prompt in enumerate(prompts):
        assert ids[row][mask[row] == 1].tolist() == prompt
        assert positions(mask, ids.shape[1])[row, -len(prompt) :].tolist() == list(range(len(prompt)))


def test_of_equal_logits_the_first_is_best_and_the_margin_is_zero() -> None:
    reading = read(np.array([[1, 3, 3, 0]], np.float32))
    assert (reading.best.tolist(), reading.margins.tolist()) == ([1], [0])
