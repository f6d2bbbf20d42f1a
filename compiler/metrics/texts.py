"""Metrics of texts that were answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.scripts import Tokenization
from compiler.typed import About


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactMatch:
    """Share of answers that are the reference, but for spaces."""

    type: Annotated[Literal["exact-match"], About("Share of answers that are the reference, but for spaces.")] = (
        "exact-match"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerExact:
    """Share of answers that are the reference, but for case, punctuation and articles (SQuAD)."""

    type: Annotated[
        Literal["answer-exact"], About("Share of answers that are the reference, but for case, punctuation, articles.")
    ] = "answer-exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerF1:
    """F1 of the words that an answer shares with the reference (SQuAD); of characters in Chinese."""

    type: Annotated[
        Literal["answer-f1"],
        About("F1 of the words shared with the reference, as SQuAD counts; characters in Chinese."),
    ] = "answer-f1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BLEU:
    """Precision of n-grams up to 4 over all answers, from 0 to 100 (sacrebleu)."""

    type: Annotated[Literal["bleu"], About("Precision of n-grams up to 4 over all answers, 0 to 100.")] = "bleu"
    tokenization: Annotated[
        Tokenization | Literal["auto"],
        About("sacrebleu's: 13a for words, zh for Chinese, char where there are no spaces. auto: by the references."),
    ] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChrF:
    """F2 of character n-grams up to 6 over all answers, from 0 to 100 (sacrebleu)."""

    type: Annotated[Literal["chrf"], About("F2 of character n-grams up to 6 over all answers, 0 to 100.")] = "chrf"


@dataclass(frozen=True, slots=True, kw_only=True)
class ROUGE:
    """F1 of the words, pairs of words or longest common sequence that an answer shares with the reference."""

    type: Annotated[Literal["rouge"], About("F1 of what an answer shares with the reference; mean over rows.")] = (
        "rouge"
    )
    variant: Annotated[
        Literal["1", "2", "l"],
        About("1: words. 2: pairs of words. l: the longest common sequence. Characters in Chinese, Japanese, Thai."),
    ] = "l"


@dataclass(frozen=True, slots=True, kw_only=True)
class JSONValidity:
    """Share of answers that are one JSON value and nothing else."""

    type: Annotated[Literal["json-validity"], About("Share of answers that are one JSON value and nothing else.")] = (
        "json-validity"
    )
    keys: Annotated[
        tuple[str, ...],
        About("The answer is an object that has these, each equal to the reference's where the reference has it."),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct:
    """Share of the answers' n-grams that differ: low where a model repeats itself (Li 2016)."""

    type: Annotated[
        Literal["distinct"], About("Share of the answers' n-grams that differ; low where words repeat.")
    ] = "distinct"
    n: Annotated[int, About("Words in a row.", minimum=1, maximum=8)] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanLength:
    """Mean number of words of an answer. Chooses no checkpoint: neither more nor less is better."""

    type: Annotated[Literal["mean-length"], About("Mean number of words of an answer; characters in Chinese.")] = (
        "mean-length"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WER:
    """Words to insert, delete or replace for the references, per word of theirs."""

    type: Annotated[Literal["wer"], About("Words to insert, delete or replace, per word of the references.")] = "wer"


@dataclass(frozen=True, slots=True, kw_only=True)
class CER:
    """Characters to insert, delete or replace for the references, per character of theirs."""

    type: Annotated[
        Literal["cer"], About("Characters to insert, delete or replace, per character of the references.")
    ] = "cer"
