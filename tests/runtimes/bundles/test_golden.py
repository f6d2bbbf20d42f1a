# Axes: N = texts, C = classes

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runtimes.bundles.golden import (
    Golden,
    alternate,
    choose_rows,
    make_probes,
    outputs_of,
    read_golden,
    spread,
    write_golden,
)

LENGTHS = arrays(np.int64, st.integers(1, 400), elements=st.integers(0, 99))


@given(LENGTHS, st.integers(2, 250))
def test_chosen_rows_are_distinct_and_have_the_shortest_and_the_longest(lengths: np.ndarray, count: int) -> None:
    chosen = choose_rows(lengths, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(lengths))
    assert {lengths.min(), lengths.max()} <= set(lengths[chosen])
    assert choose_rows(lengths.copy(), count).tolist() == chosen.tolist()


def test_short_and_long_rows_alternate_so_that_neighbours_need_padding() -> None:
    assert choose_rows(np.array([5, 1, 4, 2, 3])).tolist() == [1, 0, 3, 2, 4]
    assert alternate(np.arange(6)).tolist() == [0, 5, 1, 4, 2, 3]


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_spread_takes_everything_when_there_is_little(total: int, count: int) -> None:
    found = spread(total, count)
    assert len(found) == min(total, count)
    assert all(0 <= number < total for number in found)


def test_probes_vary_case_accents_spaces_and_length_and_are_no_real_text() -> None:
    texts = ["a fine film", "un café, très bon", "so so"]
    probes = make_probes(texts, lambda text: len(text) > 100)
    found = {probe.name: probe.text for probe in reversed(probes)}
    assert found["upper case"] == "A FINE FILM"
    assert found["title case"] == "A Fine Film"
    assert found["accents put on"] == "á fîñè fîlm"
    assert found["double spaces"] == "a  fine  film"
    assert found["empty"] == ""
    assert 100 < len(found["too long"]) < 300
    assert "un cafe, tres bon" in {probe.text for probe in probes if probe.name == "accents taken off"}
    all_texts = [*texts, *(probe.text for probe in probes)]
    assert len(set(all_texts)) == len(all_texts)


def test_a_tokenizer_that_cuts_nothing_does_not_hang_the_long_probe() -> None:
    assert make_probes([""], lambda text: len(text) > 10)
    assert make_probes([], lambda _: False) == ()


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.builds(
    Golden,
    row=st.fixed_dictionaries(
        {"text": st.text(st.characters(exclude_categories=["Cs"]))}, optional={"label": st.just("good")}
    ),
    probe=st.none() | st.just("upper case"),
    ids=st.lists(st.integers(0, 2**31)).map(tuple),
    outputs=st.lists(st.tuples(FLOATS, FLOATS), max_size=3).map(tuple),
    decision=st.none() | st.just("good"),
)


@given(st.lists(ROWS))
def test_golden_rows_come_back_as_they_were_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Golden]
) -> None:
    path = tmp_path_factory.mktemp("golden") / "golden.jsonl"
    write_golden(path, rows)
    found = read_golden(path)
    assert [(row.row, row.probe, row.ids, row.decision) for row in found] == [
        (row.row, row.probe, row.ids, row.decision) for row in rows
    ]
    one, other = outputs_of(found, 2), outputs_of(rows, 2)
    assert one.values.tobytes() == other.values.tobytes()
    assert one.offsets.tolist() == other.offsets.tolist()


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 2"), ('{"row": {"text": "a"}}', "line 2.*needs"), ("[]", "line 2.*is a list, expected an object")],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    row = Golden(row={"text": "a"}, probe="empty", ids=(1,), outputs=((0.5, 1.0),), decision="x")
    write_golden(tmp_path / "golden.jsonl", [row])
    with (tmp_path / "golden.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=said):
        read_golden(tmp_path / "golden.jsonl")
