"""Tokens hidden from an encoder, which it is to tell from those on both sides of them: what is said of that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.typed import About

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from compiler.facts import ModelFacts

HEAD = "ForMaskedLM"
# Architectures in config.json whose weights have a head for hidden tokens, beside those that end in ForMaskedLM.
_WITH_HEAD = frozenset(
    ["AlbertForPreTraining", "BertForPreTraining", "MegatronBertForPreTraining", "MobileBertForPreTraining"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Which tokens are hidden: of ten, eight are the mask token, one a random token, one stays as it is."""

    probability: Annotated[
        float, About("Share of a text's tokens that are hidden, and learnt; one at least.", above=0, below=1)
    ] = 0.15
    mask_id: Annotated[
        int | Literal["auto"],
        About("The token that stands for a hidden one. auto: the tokenizer's mask_token.", minimum=0),
    ] = "auto"
    special_ids: Annotated[
        tuple[int, ...] | Literal["auto"],
        About("Tokens that are never hidden, nor drawn in place of others. auto: the tokenizer's special tokens."),
    ] = "auto"
    vocab_size: Annotated[
        int | Literal["auto"],
        About(
            "Random tokens are drawn below this number. auto: as many as the tokenizer has.", minimum=1, maximum=2**24
        ),
    ] = "auto"


def bound(masking: Masking, tokenizer_file: Path) -> Masking:
    """With what a tokenizer says where that was left open. Raises ValueError."""
    from compiler.templates import named_tokens

    tokenizer = _opened(tokenizer_file)
    named = named_tokens(tokenizer_file.parent)
    mask_id, special_ids, vocab_size = masking.mask_id, masking.special_ids, masking.vocab_size
    if mask_id == "auto":
        mask_id = _number(tokenizer, named.get("mask_token"))
    if special_ids == "auto":
        special_ids = tuple(sorted({mask_id, *_special(tokenizer, named.values())}))
    if vocab_size == "auto":
        vocab_size = tokenizer.get_vocab_size()
    check_drawn(vocab_size, special_ids)
    return replace(masking, mask_id=mask_id, special_ids=special_ids, vocab_size=vocab_size)


def check_drawn(vocab_size: int, special_ids: Iterable[int]) -> None:
    """Nothing where a token is left to be drawn. Raises ValueError."""
    if vocab_size <= sum(0 <= token < vocab_size for token in {*special_ids}):
        raise ValueError(f"none of {vocab_size} tokens is left to be drawn: all are in special_ids")


def _opened(tokenizer_file: Path) -> Tokenizer:
    """A tokenizer. Raises ValueError."""
    from tokenizers import Tokenizer

    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{tokenizer_file.name} is not a tokenizer: {error}") from error
    return tokenizer


def _number(tokenizer: Tokenizer, token: str | None) -> int:
    """The number of the token that stands for hidden ones. Raises ValueError."""
    if token is None:
        raise ValueError("the tokenizer's files name no mask_token, the token that stands for a hidden one")
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the mask_token {json.dumps(token, ensure_ascii=False)} is no token of tokenizer.json")
    return number


def _special(tokenizer: Tokenizer, named: Any) -> Iterator[int]:
    """The numbers of special tokens: those that are named, that are marked so, and that are put around a text."""
    yield from (number for token in named if (number := tokenizer.token_to_id(token)) is not None)
    yield from (number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    yield from tokenizer.encode("").ids


def has_head(model: ModelFacts) -> bool:
    """Whether a model's weights have a head for hidden tokens."""
    return any(name.endswith(HEAD) or name in _WITH_HEAD for name in model.architectures)
