import pytest

from compiler.generation import Generation
from runtimes.verification.settings import answer_fault, check_caches, check_starts


@pytest.mark.parametrize(
    ("ids", "ends", "fault"),
    [
        ((8, 3), (3,), None),
        ((8, 3), (2, 3), None),
        ((8, 9, 9, 9), (3,), None),  # as long as it may be: it need not end
        ((8, 3), (2,), "eos_token_id is 2, answers end with 3"),
        ((8, 3), (), "eos_token_id is not named, answers end with 3"),
        ((8, 2, 3), (2, 3), "eos_token_id is 2, 3, which stands inside of answers"),
        ((8, 9, 9, 9, 3), (3,), "an answer has 5 tokens, 4 are allowed"),
    ],
)
def test_an_answer_ends_where_the_files_say(ids: tuple[int, ...], ends: tuple[int, ...], fault: str | None) -> None:
    assert answer_fault(ends, Generation(max_new_tokens=4), ids, limit=4) == fault


def test_a_short_answer_may_end_at_a_text_instead() -> None:
    stops = Generation(max_new_tokens=4, stop=("\n",))
    assert answer_fault((3,), stops, (8, 9), limit=4) is None


def test_an_answer_that_was_cut_for_the_gate_need_not_end() -> None:
    longer = Generation(max_new_tokens=9)
    assert answer_fault((3,), longer, (8, 9), limit=9, cut=True) is None
    assert answer_fault((3,), longer, (8, 9), limit=9) == "eos_token_id is 3, answers end with 9"


def test_a_cache_that_is_switched_off_is_named_with_its_file() -> None:
    found = [*check_caches({"config.json": {"use_cache": False}, "generation_config.json": {"use_cache": True}})]
    assert found == ["use_cache is false in config.json, and the graph keeps a cache", None]


def test_a_start_is_compared_where_a_file_names_one() -> None:
    configs = {"config.json": {"decoder_start_token_id": 0}, "generation_config.json": {}}
    [found] = check_starts(configs, {"decoder_start_token_id": 2})
    assert found == "decoder_start_token_id is 0 in config.json, answers start with 2"
    assert not [*check_starts(configs, {})]
