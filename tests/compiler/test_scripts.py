from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.scripts import tokenization_of, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's mat, 3.5!", ["the", "cat", "s", "mat", "3", "5"]),
        ("Ein schöner Tag", ["ein", "schöner", "tag"]),
        ("scho\u0308n", ["schön"]),
        ("今天天气很好。", ["今", "天", "天", "气", "很", "好"]),
        ("我用GPT-4写代码", ["我", "用", "gpt", "4", "写", "代", "码"]),
        ("ｶﾀｶﾅとＡＢＣ", ["カ", "タ", "カ", "ナ", "と", "abc"]),
        ("สวัสดี", ["ส", "ว", "ั", "ส", "ด", "ี"]),
        ("나는 학교에 간다", ["나는", "학교에", "간다"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("soft\u00adhyphen", ["softhyphen"]),
        ("... -- !", []),
        ("", []),
    ],
)
def test_words_stand_between_spaces_and_marks_or_are_characters(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("texts", "tokenization"),
    [
        (["A plain sentence.", "And another one."], "13a"),
        (["今天天气很好。", "我们去公园吧。"], "zh"),
        (["我在 Google Cloud 上部署了 Kubernetes 集群"], "zh"),
        (["今日は天気がいいです。"], "char"),
        (["公園の中で日本酒を飲む会"], "char"),
        (["สวัสดีครับ"], "char"),
        (["나는 학교에 간다"], "13a"),
        (["The word 你好 means hello in Chinese"], "13a"),
        (["", "..."], "13a"),
        ([], "13a"),
    ],
)
def test_the_tokenization_follows_what_most_words_are(texts: list[str], tokenization: str) -> None:
    assert tokenization_of(texts) == tokenization


@given(st.text(st.characters(exclude_categories=["Cf", "Cs"])))  # a mark can stand behind a joiner
def test_words_are_read_alike_a_second_time(text: str) -> None:
    """What is a word once is one again: metrics may be taken of texts that were words before."""
    words = words_of(text)
    assert all(word and not word.isspace() for word in words)
    assert words_of(" ".join(words)) == words


@given(st.lists(st.text(alphabet="ab 你好のか. "), max_size=6))
def test_the_order_of_texts_does_not_matter(texts: list[str]) -> None:
    assert tokenization_of(texts) == tokenization_of(texts[::-1])
