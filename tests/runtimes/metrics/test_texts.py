from __future__ import annotations

import math
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.metrics import (
    BLEU,
    CER,
    LOWER_IS_BETTER,
    ROUGE,
    WER,
    Accuracy,
    AnswerExact,
    AnswerF1,
    ChrF,
    Distinct,
    ExactMatch,
    JSONValidity,
    MeanLength,
    name_of,
)
from runtimes.errors import RunError
from runtimes.metrics.overlap import rouge
from runtimes.metrics.texts import require_packages, score_accepted, score_texts

OVERLAP = (ROUGE(variant="1"), ROUGE(variant="2"), ROUGE(), BLEU(), ChrF())
ALL = (*OVERLAP, ExactMatch(), AnswerExact(), AnswerF1(), JSONValidity(), Distinct(), MeanLength(), WER(), CER())
PERFECT = {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0, "bleu": 100.0, "chrf": 100.0}
texts = st.text(alphabet="ab 你の.c1", max_size=12)
rows = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


# By hand. Words: the cat sat on the mat; the cat lay on a mat. Shared: the, cat, on, mat; pairs: the cat.
@pytest.mark.parametrize(("variant", "expected"), [("1", 8 / 12), ("2", 2 / 10), ("l", 8 / 12)])
def test_rouge_is_what_it_is_by_hand(variant, expected: float) -> None:
    found = rouge("The cat sat on the mat.", "the cat lay on a mat", variant)
    assert found == pytest.approx(expected, abs=1e-12)


# Lin 2004, section 3.1: "police killed the gunman" against "police kill the gunman" and "the gunman kill police".
@pytest.mark.parametrize(("answer", "expected"), [("police kill the gunman", 3 / 4), ("the gunman kill police", 2 / 4)])
def test_rouge_l_of_lins_example(answer: str, expected: float) -> None:
    assert rouge("police killed the gunman", answer, "l") == expected


def test_chinese_is_compared_by_characters() -> None:
    # 我爱北京 and 我爱南京: 3 of 4 characters are shared, and of 3 pairs 1.
    assert rouge("我爱北京", "我爱南京。", "1") == rouge("我爱北京", "我爱南京", "l") == 3 / 4
    assert rouge("我爱北京", "我爱南京", "2") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog.",
        "今天天气很好。我们去公园吧。",
        "今日は天気がいいです。",
        "สวัสดีครับ",
        "你好吗",
    ],
)
def test_identical_texts_are_perfect_in_every_script(text: str) -> None:
    assert score_texts(OVERLAP, [text, text], [text, text]) == pytest.approx(PERFECT)


def test_bleu_of_one_sentence_is_the_mean_of_its_precisions() -> None:
    # 6 words each, one replaced at the end: 5 of 6 words, 4 of 5 pairs, 3 of 4, 2 of 3.
    found = score_texts((BLEU(),), ["the cat sat on the mat"], ["the cat sat on the rug"])
    assert found["bleu"] == pytest.approx(100 * math.prod((5 / 6, 4 / 5, 3 / 4, 2 / 3)) ** (1 / 4))


def test_a_short_answer_pays_bleus_brevity_penalty() -> None:
    found = score_texts((BLEU(),), ["one two three four five six"], ["one two three four"])
    assert found["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_bleu_parts_chinese_by_characters_unless_told_otherwise() -> None:
    references, answers = ["我们今天去公园"], ["我们今天去公司"]
    characters = 100 * math.prod((6 / 7, 5 / 6, 4 / 5, 3 / 4)) ** (1 / 4)
    assert score_texts((BLEU(),), references, answers) == {"bleu": pytest.approx(characters)}
    assert score_texts((BLEU(tokenization="13a"),), references, answers) == {"bleu": 0.0}


def test_the_references_alone_choose_how_bleu_parts_texts() -> None:
    references, answers = ["我们今天去公园", "你好"], ["park park park park", "hello"]
    assert score_texts((BLEU(),), references, answers) == score_texts((BLEU(tokenization="zh"),), references, answers)


# By hand. "a" for "ab": precision 1, recall 1/2 of single characters, and no pair is answered.
# "abd" for "abc": 2/3 of the characters, 1/2 of the pairs, no triple.
@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [("ab", "a", 5 * 1 * (1 / 2) / (4 * 1 + 1 / 2)), ("abc", "abd", (2 / 3 + 1 / 2 + 0) / 3)],
)
def test_chrf_is_the_f2_of_mean_precision_and_recall(reference: str, answer: str, expected: float) -> None:
    assert score_texts((ChrF(),), [reference], [answer]) == {"chrf": pytest.approx(100 * expected)}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Distinct(n=1), 4 / 6),  # go now stop, of go go now stop here now
        (Distinct(), 4 / 4),
        (MeanLength(), 6 / 2),
    ],
)
def test_metrics_of_answers_alone_are_what_they_are_by_hand(metric, expected: float) -> None:
    found = score_texts((metric,), ["", ""], ["Go, go now!", "stop here now"])
    assert list(found.values()) == [pytest.approx(expected)]


def test_lengths_and_repetitions_in_chinese_are_of_characters() -> None:
    found = score_texts((MeanLength(), Distinct(n=1)), ["", ""], ["今天天气很好。", "好。"])
    assert found == {"mean-length": 7 / 2, "distinct_1": 5 / 7}  # 今 天 天 气 很 好 好


def test_a_model_that_repeats_itself_has_few_distinct_pairs() -> None:
    assert score_texts((Distinct(),), ["", ""], ["ha " * 10, "ha " * 5]) == {"distinct_2": 1 / 13}


# By hand: "b" replaced, "d" missing, of 5 words; of 8 characters with spaces, 1 replaced and 2 missing.
def test_error_rates_are_edits_over_all_rows_per_word_of_the_references() -> None:
    references, answers = ["a b c d", "e"], ["a x c", " e "]
    found = score_texts((WER(), CER()), references, answers)
    assert found == {"wer": pytest.approx(2 / 5), "cer": pytest.approx(3 / 8)}


def test_an_error_rate_can_be_over_one_and_is_finite_without_references() -> None:
    assert score_texts((WER(),), ["a"], ["b c d"]) == {"wer": 3.0}
    assert score_texts((WER(), CER()), ["", ""], ["", "b c"]) == {"wer": 2.0, "cer": 3.0}
    assert {"wer", "cer", "perplexity"} <= LOWER_IS_BETTER


def test_any_accepted_answer_will_do() -> None:
    references = [("Paris", "the city of Paris"), (), ()]
    found = score_accepted((AnswerExact(), AnswerF1()), references, ["City of Paris", "", "Bern"])
    assert found == {"answer-exact": pytest.approx(2 / 3), "answer-f1": pytest.approx(2 / 3)}
    found = score_accepted((AnswerF1(), ROUGE(variant="1")), references[:1], ["in Paris"])
    assert found == {"answer-f1": pytest.approx(2 / 3), "rouge_1": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="bleu is no mean over rows"):
        score_accepted((BLEU(),), references, ["", "", ""])


@given(rows)
def test_every_metric_stays_in_its_range_and_rows_have_no_order(pairs) -> None:
    references, answers = ([pair[side] for pair in pairs] for side in (0, 1))
    found = score_texts(ALL, references, answers)
    for name, value in found.items():
        most = 100.0 if name in ("bleu", "chrf") else math.inf if name in ("mean-length", "wer", "cer") else 1.0
        assert 0.0 <= value <= most + 1e-9
    mixed = pairs.copy()
    random.Random(0).shuffle(mixed)
    again = score_texts(ALL, [pair[0] for pair in mixed], [pair[1] for pair in mixed])
    assert again == pytest.approx(found, abs=1e-9)


@given(st.lists(texts, min_size=1, max_size=5))
def test_answers_that_are_the_references_are_perfect(same) -> None:
    found = score_texts((*OVERLAP[:3], ExactMatch(), AnswerExact(), AnswerF1(), WER(), CER()), same, same)
    assert found == {name: 0.0 if name in LOWER_IS_BETTER else 1.0 for name in found}


@given(texts, texts)
def test_rouge_is_symmetric_and_a_sequence_shares_no_more_than_its_words(one: str, other: str) -> None:
    for variant in ("1", "2", "l"):
        assert rouge(one, other, variant) == rouge(other, one, variant)
    assert rouge(one, other, "l") <= rouge(one, other, "1")


def test_without_rows_every_metric_is_zero() -> None:
    assert score_texts(ALL, [], []) == {name_of(metric): 0.0 for metric in ALL}


def test_every_reference_has_an_answer() -> None:
    for metric in (ExactMatch(), WER(), BLEU(), MeanLength()):
        with pytest.raises(ValueError, match="1 answers for 2 references"):
            score_texts((metric,), ["a", "b"], ["a"])


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is no metric of texts"):
        score_texts((Accuracy(),), ["a"], ["a"])


def test_a_missing_sacrebleu_is_named_before_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    require_packages((ROUGE(), WER()))
    for metric in (BLEU(), ChrF()):
        with pytest.raises(RunError, match="sacrebleu counts BLEU and chrF: ") as caught:
            require_packages((ROUGE(), metric))
        assert (caught.value.code, caught.value.hint) == ("E402", 'install it: pip install "recipec[text]"')
        with pytest.raises(RunError):
            score_texts((metric,), ["a"], ["a"])
