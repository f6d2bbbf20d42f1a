"""Entities. Where seqeval is named, the figures are those of seqeval 1.2.2's own documentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.metrics import Accuracy, EntityF1, EntityPrecision, EntityRecall
from runtimes.metrics.entities import Span, count_spans, details_of, score_entities, score_spans, spans

# From the README of seqeval.
TRUE = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
GIVEN = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
KINDS = ("PER", "LOC")
iob2_tags = st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in KINDS)])
iob2_rows = st.lists(st.lists(st.tuples(iob2_tags, iob2_tags), max_size=8), min_size=1, max_size=6)
span_rows = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 3), st.integers(0, 2)), max_size=6)


def written(pieces: list[tuple[str, int, int]], scheme: str) -> tuple[list[str], tuple[Span, ...]]:
    """Tags of entities of some lengths with some tokens between them, and those entities."""
    tags: list[str] = []
    found = []
    for kind, length, gap in pieces:
        found.append(Span(kind, len(tags), len(tags) + length))
        match scheme:
            case "iob2":
                prefixes = "B" + "I" * (length - 1)
            case "iobes":
                prefixes = "S" if length == 1 else "B" + "I" * (length - 2) + "E"
            case _:
                prefixes = "U" if length == 1 else "B" + "I" * (length - 2) + "L"
        tags += [*(f"{prefix}-{kind}" for prefix in prefixes), *["O"] * gap]
    return tags, tuple(found)


def test_entities_are_read_as_seqeval_documents_it() -> None:
    assert spans(["B-PER", "I-PER", "O", "B-LOC"]) == (Span("PER", 0, 2), Span("LOC", 3, 4))


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_seqevals_example_has_its_figures(average) -> None:
    metrics = (EntityPrecision(average=average), EntityRecall(average=average), EntityF1(average=average))
    found = score_entities(metrics, TRUE, GIVEN)
    names = (f"entity-precision_{average}", f"entity-recall_{average}", f"entity-f1_{average}")
    assert found == dict.fromkeys(names, 0.5)


def test_seqevals_report_has_a_line_for_each_kind() -> None:
    counts = count_spans([spans(row) for row in TRUE], [spans(row) for row in GIVEN])
    assert details_of(counts) == {
        "MISC": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 1, "answered": 1},
        "PER": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "entities": 1, "answered": 1},
    }


def test_strict_reading_is_as_seqeval_documents_it() -> None:
    """The README's example: an entity that begins with an inside tag is one by default, and none in strict mode."""
    true, given_tags = [["B-NP", "I-NP", "O"]], [["I-NP", "I-NP", "O"]]
    assert score_entities((EntityF1(),), true, given_tags) == {"entity-f1_micro": 1.0}
    assert score_entities((EntityF1(),), true, given_tags, "iob2") == {"entity-f1_micro": 0.0}


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("I-PER I-PER O", [("PER", 0, 2)], []),
        ("B-PER I-LOC O", [("PER", 0, 1), ("LOC", 1, 2)], [("PER", 0, 1)]),
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)], [("PER", 0, 1), ("PER", 1, 3)]),
        ("O I-PER B-PER", [("PER", 1, 2), ("PER", 2, 3)], [("PER", 2, 3)]),
        ("B I O", [("_", 0, 2)], [("_", 0, 2)]),
        ("B-PER-NAME", [("PER-NAME", 0, 1)], [("PER-NAME", 0, 1)]),
    ],
)
def test_only_leniency_lets_an_inside_tag_begin_an_entity(tags: str, lenient, strict) -> None:
    assert spans(tags.split()) == tuple(Span(*span) for span in lenient)
    assert spans(tags.split(), "iob2") == tuple(Span(*span) for span in strict)


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("B-PER I-PER O", [("PER", 0, 2)], []),
        ("B-PER E-LOC", [("PER", 0, 1), ("LOC", 1, 2)], []),
        ("S-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)], [("PER", 0, 1)]),
        ("B-PER E-PER I-PER", [("PER", 0, 2), ("PER", 2, 3)], [("PER", 0, 2)]),
        ("E-PER", [("PER", 0, 1)], []),
        ("B-PER B-PER E-PER", [("PER", 0, 1), ("PER", 1, 3)], [("PER", 1, 3)]),
    ],
)
def test_an_entity_of_iobes_has_its_end(tags: str, lenient, strict) -> None:
    assert spans(tags.split()) == tuple(Span(*span) for span in lenient)
    assert spans(tags.split(), "iobes") == tuple(Span(*span) for span in strict)


@given(span_rows)
def test_every_scheme_gives_back_the_entities_that_were_written(pieces) -> None:
    for scheme in ("iob2", "iobes", "bilou"):
        tags, expected = written(pieces, scheme)
        assert spans(tags) == expected
        assert spans(tags, "iob2" if scheme == "iob2" else "iobes") == expected


@pytest.mark.parametrize(
    ("tag", "scheme"), [("PER", "lenient"), ("", "lenient"), ("E-PER", "iob2"), ("X-PER", "iobes")]
)
def test_what_is_no_tag_of_the_scheme_is_refused(tag: str, scheme) -> None:
    with pytest.raises(ValueError, match=f'"{tag}" is no tag: expected O, or one of B-, I-'):
        spans([tag], scheme)


# By hand. PER: 1 of 2 answered is right, of 3 there. LOC: 1 of 1, of 1. ORG: 0 of 1, of none.
THERE = [[Span("PER", 0, 1), Span("PER", 2, 4)], [Span("PER", 0, 2), Span("LOC", 5, 6)]]
ANSWERED = [[Span("PER", 0, 1), Span("PER", 2, 3)], [Span("LOC", 5, 6), Span("ORG", 0, 2)]]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (EntityPrecision(), 2 / 4),
        (EntityRecall(), 2 / 4),
        (EntityF1(), 4 / 8),
        (EntityPrecision(average="macro"), (1 / 2 + 1 + 0) / 3),
        (EntityRecall(average="macro"), (1 / 3 + 1 + 0) / 3),
        (EntityF1(average="macro"), (2 / 5 + 1 + 0) / 3),
        (EntityF1(average="weighted"), (3 * 2 / 5 + 1) / 4),
    ],
)
def test_metrics_of_entities_are_what_they_are_by_hand(metric, expected: float) -> None:
    assert list(score_spans((metric,), THERE, ANSWERED).values()) == [pytest.approx(expected, abs=1e-12)]


@given(iob2_rows)
def test_f1_is_between_precision_and_recall_and_rows_have_no_order(rows) -> None:
    true, answered = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    metrics = (EntityPrecision(), EntityRecall(), EntityF1())
    found = score_entities(metrics, true, answered)
    precision, recall, f1 = found.values()
    assert min(precision, recall) - 1e-12 <= f1 <= max(precision, recall) + 1e-12
    assert score_entities(metrics, true[::-1], answered[::-1]) == found
    swapped = list(score_entities(metrics, answered, true).values())
    assert swapped == [recall, precision, f1]


def test_the_same_entity_in_another_row_is_another_one() -> None:
    assert score_spans((EntityF1(),), [[Span("PER", 0, 1)], []], [[], [Span("PER", 0, 1)]]) == {"entity-f1_micro": 0.0}


def test_rows_without_entities_divide_nothing() -> None:
    assert score_entities((EntityF1(), EntityRecall(average="macro")), [["O"]], [["O"]]) == {
        "entity-f1_micro": 0.0,
        "entity-recall_macro": 0.0,
    }


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is no metric of entities"):
        score_entities((Accuracy(),), [["O"]], [["O"]])
