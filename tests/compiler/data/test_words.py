"""Words of texts, tags and spans."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import BertPreTokenizer

from compiler.data.texts import BadValueError, UnknownLabelError, spans_of, tags_of, tokens_of
from compiler.data.words import (
    Range,
    bio_tags,
    covered,
    in_order,
    joined,
    kind_of,
    shared_word,
    tagged,
    tags_of_spans,
    words_of,
)

TEXT = "Mail bob@x.org by 4 May, please."
WORDS = ["Mail", "bob", "@", "x", ".", "org", "by", "4", "May", ",", "please", "."]


def span(start: int, end: int, label: str = "DATE") -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def test_words_end_at_spaces_and_punctuation_marks_are_words() -> None:
    assert [TEXT[start:end] for start, end in words_of(TEXT)] == WORDS
    assert [*words_of(""), *words_of(" \t\n")] == []


def test_ideographs_are_words() -> None:
    text = "电影 a很b"
    assert [text[start:end] for start, end in words_of(text)] == ["电", "影", "a", "很", "b"]


@given(st.text(st.sampled_from(string.ascii_letters + string.digits + string.punctuation + " \n\t£é—«»…“”¿")))
def test_a_text_has_the_words_that_bert_splits_it_into(text: str) -> None:
    assert [*words_of(text)] == [offsets for _, offsets in BertPreTokenizer().pre_tokenize_str(text)]


@given(st.lists(st.text(min_size=1), min_size=1))
def test_joined_tokens_are_found_again(tokens: list[str]) -> None:
    text, words = joined(tokens)
    assert [text[start:end] for start, end in words] == tokens


def test_a_span_tags_its_words() -> None:
    tags = tags_of_spans(words_of(TEXT), [span(5, 14, "EMAIL"), span(18, 23)])
    named = dict(enumerate(tags))
    assert [named.pop(number) for number in (1, 2, 5)] == ["B-EMAIL", "I-EMAIL", "I-EMAIL"]
    assert [tags[7], tags[8]] == ["B-DATE", "I-DATE"]
    assert tags[0] == tags[6] == tags[9] == "O"


def test_a_span_that_ends_inside_a_word_has_the_whole_word() -> None:
    words = words_of("within reach")
    assert tags_of_spans(words, [span(2, 9)]) == ("B-DATE", "I-DATE")
    assert [*covered(words, 6, 7)] == []


def test_two_spans_with_a_part_of_one_word_are_found() -> None:
    words = words_of("on 10kg of")
    assert shared_word(words, [span(3, 5), span(5, 7)]) == Range(3, 7)
    assert shared_word(words, [span(0, 2), span(3, 7), span(8, 10)]) is None


def test_both_kinds_of_rows_have_the_same_words_and_tags() -> None:
    tags = tags_of_spans(words_of(TEXT), [span(18, 23)])
    from_text = tagged({"text": TEXT, "spans": [span(18, 23)]})
    from_tokens = tagged({"tokens": WORDS, "tags": [*tags]})
    assert from_text.tags == from_tokens.tags == tags
    assert [from_tokens.text[start:end] for start, end in from_tokens.words] == WORDS
    assert tagged({"text": TEXT}).tags == tagged({"tokens": WORDS}).tags == ()


def test_tags_stand_by_kind_outside_first() -> None:
    assert in_order(["I-b", "B-a", "O", "B-b", "I-a"]) == ("O", "B-a", "I-a", "B-b", "I-b")
    assert in_order(["verb", "noun", "O", "10", "9"]) == ("O", "9", "10", "noun", "verb")
    assert bio_tags(["x", "y", "x"]) == ("O", "B-x", "I-x", "B-y", "I-y")
    assert [kind_of(tag) for tag in ("B-x", "U-x-y", "O", "noun", "B-")] == ["x", "x-y", "O", "noun", "B-"]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("a b", 'expected a list of tokens, found the text "a b"'),
        ([], "expected a list of tokens, found an empty one"),
        (["a", ""], "token 1: expected text, found an empty string"),
        (["a", 3], "token 1: expected text, found the number 3"),
        (["a\ud800"], "token 0: expected text, found a lone surrogate, which is no character"),
    ],
)
def test_what_is_no_list_of_tokens_is_refused(tokens: object, message: str) -> None:
    with pytest.raises(BadValueError) as caught:
        tokens_of({"words": tokens}, "words")
    assert str(caught.value) == f'the column "words": {message}'


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (None, "expected a list of tags, found null"),
        (["O"], "expected a tag for each of 2 tokens, found 1 tags"),
        (["O", ""], "tag 1: expected a label, found an empty string"),
        ([0, 1], "tag 0 is the number 0, and /task/labels does not name the tags"),
    ],
)
def test_what_are_no_tags_is_refused(tags: object, message: str) -> None:
    with pytest.raises(BadValueError) as caught:
        tags_of({"ner": tags}, "ner", 2, None)
    assert str(caught.value) == f'the column "ner": {message}'


def test_numbers_count_into_declared_tags() -> None:
    assert tags_of({"ner": [0, "B-x", "1"]}, "ner", 3, ("O", "B-x")) == ["O", "B-x", "B-x"]
    with pytest.raises(UnknownLabelError, match='"B-y" is none of the labels'):
        tags_of({"ner": ["B-y"]}, "ner", 1, ("O", "B-x"))


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("", "expected a list of spans, found an empty string"),
        ([[0, 1, "x"]], 'span 0: expected {"start": 0, "end": 4, "label": "..."}'),
        ([span(0, 2), {"start": 0, "end": 2}], 'span 1: expected {"start": 0, "end": 4, "label": "..."}'),
        ([span(True, 2)], 'span 0: expected {"start": 0, "end": 4, "label": "..."}'),
        ([span(0, 2, "")], 'span 0: expected {"start": 0, "end": 4, "label": "..."}'),
        ([span(3, 11)], "a span goes from 3 to 11, and the text has 10 characters"),
        ([span(-1, 2)], "a span goes from -1 to 2, and the text has 10 characters"),
        ([span(4, 4)], "a span goes from 4 to 4, and the text has 10 characters"),
        ([span(5, 8), span(2, 6)], "two spans overlap: 2 to 6, and 5 to 8"),
    ],
)
def test_what_are_no_spans_is_refused(spans: object, message: str) -> None:
    with pytest.raises(BadValueError) as caught:
        spans_of({"spans": spans}, "spans", 10)
    assert str(caught.value) == f'the column "spans": {message}'


def test_spans_come_in_order_without_what_else_they_say() -> None:
    found = spans_of({"spans": [{**span(4, 6), "score": 0.5}, span(0, 2)]}, "spans", 10)
    assert found == [span(0, 2), span(4, 6)]
