"""A model's tokenizer, trained anew: the same rules, special tokens and templates, with a vocabulary of other texts.

What is known by the number of a token elsewhere (config.json, post-processors) is numbered anew with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, trainers

from compiler.diagnostics import counted

_BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
_ID = "_token_id"


class TokenizerError(ValueError):
    """A tokenizer can't be trained anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokenizer:
    """The text of a tokenizer.json, and what became of the old one's numbers."""

    content: str
    vocab_size: int
    ids: Mapping[int, int]
    """By the old number of a token its new one, where the new vocabulary has it."""

    def renumbered(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json or generation_config.json with its tokens and size as they are now; what is gone is null."""
        return {name: self._value(name, value) for name, value in config.items()}

    def _value(self, name: str, value: Any) -> Any:
        match value:
            case dict():
                return self.renumbered(value)
            case int() if name == "vocab_size":
                return self.vocab_size
            case int() if name.endswith(_ID):
                return self.ids.get(value)
            case list() if name.endswith(_ID):
                return [self.ids[token] for token in value if token in self.ids]
            case _:
                return value

    def decoders(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A tokenizer_config.json, whose added tokens are named by number."""
        added = config.get("added_tokens_decoder")
        if not isinstance(added, Mapping):
            return dict(config)
        numbered = {str(self.ids[int(key)]): token for key, token in added.items() if int(key) in self.ids}
        return {**config, "added_tokens_decoder": numbered}


def train_tokenizer(content: str, texts: Iterable[str], vocab_size: int) -> NewTokenizer:
    """The tokenizer of a tokenizer.json with at most `vocab_size` tokens of these texts. Raises TokenizerError."""
    old = Tokenizer.from_str(content)
    value = json.loads(content)
    added = sorted(value["added_tokens"], key=lambda token: int(token["id"]))
    bytewise = _BYTES if value["model"].get("byte_fallback") else ()
    special = list(dict.fromkeys([*(str(token["content"]) for token in added), *_named(value), *bytewise]))
    trainer = _trainer(value, special, vocab_size)
    empty = {**value, "model": _empty(value["model"], special), "added_tokens": []}
    fresh = Tokenizer.from_str(json.dumps({**empty, "post_processor": None, "padding": None, "truncation": None}))
    fresh.train_from_iterator(texts, trainer)
    vocabulary = fresh.get_vocab()
    if len(vocabulary) > vocab_size:
        least = counted(len(vocabulary), "token")
        raise TokenizerError(f"the special tokens and characters alone are {least}, more than {vocab_size:,}")
    ids = {number: vocabulary[token] for token, number in old.get_vocab().items() if token in vocabulary}
    known = {token: vocabulary[token] for token in special}
    return NewTokenizer(content=_joined(value, fresh, added, known), vocab_size=len(vocabulary), ids=ids)


def texts_in(value: object) -> Iterator[str]:
    """Every text in a value of a row: itself, or those in its lists and objects."""
    match value:
        case str():
            yield value
        case Mapping():
            yield from (text for inside in value.values() for text in texts_in(inside))
        case list() | tuple():
            yield from (text for inside in value for text in texts_in(inside))


def _trainer(value: Mapping[str, Any], special: list[str], vocab_size: int) -> Any:
    model = value["model"]
    told: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": special, "show_progress": False}
    match model.get("type"):
        case "BPE":
            marks = ("continuing_subword_prefix", "end_of_word_suffix")
            told |= {name: model[name] for name in marks if model.get(name)}
            if '"ByteLevel"' in json.dumps([value.get("pre_tokenizer"), value.get("decoder")]):
                told["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
            return trainers.BpeTrainer(**told)
        case "WordPiece":
            return trainers.WordPieceTrainer(
                **told, continuing_subword_prefix=model.get("continuing_subword_prefix", "##")
            )
        case "Unigram":
            return trainers.UnigramTrainer(**told, unk_token=_unknown(model))
        case "WordLevel":
            return trainers.WordLevelTrainer(**told)
        case kind:
            raise TokenizerError(f"tokenizers of the kind {kind} are not trained")


def _unknown(model: Mapping[str, Any]) -> str | None:
    """The token of a Unigram model for what it does not know."""
    place = model.get("unk_id")
    return None if place is None else str(model["vocab"][place][0])


def _empty(model: Mapping[str, Any], special: list[str]) -> dict[str, Any]:
    """A model that knows nothing yet."""
    match model.get("type"):
        case "BPE":
            return {**model, "vocab": {}, "merges": []}
        case "Unigram":
            unknown = _unknown(model)
            return {**model, "vocab": [[unknown, 0.0]] if unknown else [], "unk_id": 0 if unknown else None}
        case "WordPiece" | "WordLevel":
            return {**model, "vocab": {token: at for at, token in enumerate(special)}}
        case kind:
            raise TokenizerError(f"tokenizers of the kind {kind} are not trained")


def _joined(value: Mapping[str, Any], fresh: Tokenizer, added: list[dict[str, Any]], ids: Mapping[str, int]) -> str:
    """The old tokenizer.json with the new vocabulary; it is read once, so that it is one."""
    joined = {
        **value,
        "model": json.loads(fresh.to_str())["model"],
        "added_tokens": [{**token, "id": ids[token["content"]]} for token in added],
        "post_processor": _numbered(value.get("post_processor"), ids),
        "padding": _padded(value.get("padding"), ids),
    }
    return Tokenizer.from_str(json.dumps(joined)).to_str(pretty=True)


def _numbered(processor: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor with the new numbers of the tokens that it adds."""
    match processor:
        case {"type": "TemplateProcessing", "special_tokens": dict(tokens)}:
            renumbered = {
                name: {**token, "ids": [ids[each] for each in token["tokens"]]} for name, token in tokens.items()
            }
            return {**processor, "special_tokens": renumbered}
        case {"type": "BertProcessing" | "RobertaProcessing", "sep": [str(sep), _], "cls": [str(cls), _]}:
            return {**processor, "sep": [sep, ids[sep]], "cls": [cls, ids[cls]]}
        case {"type": "Sequence", "processors": list(inside)}:
            return {**processor, "processors": [_numbered(each, ids) for each in inside]}
        case _:
            return processor


def _padded(padding: Any, ids: Mapping[str, int]) -> Any:
    return padding and {**padding, "pad_id": ids[padding["pad_token"]]}


def _named(value: Mapping[str, Any]) -> Iterator[str]:
    """The tokens that a tokenizer.json speaks of elsewhere: they stay, whether they are called special or not."""
    unknown = value["model"].get("unk_token")
    yield from [unknown] if unknown else []
    yield from [value["padding"]["pad_token"]] if value.get("padding") else []
    yield from _added_by(value.get("post_processor"))


def _added_by(processor: Any) -> Iterator[str]:
    """The tokens that a post-processor puts beside those of a text."""
    match processor:
        case {"type": "TemplateProcessing", "special_tokens": dict(tokens)}:
            yield from (str(each) for token in tokens.values() for each in token["tokens"])
        case {"type": "BertProcessing" | "RobertaProcessing", "sep": [str(sep), _], "cls": [str(cls), _]}:
            yield from (sep, cls)
        case {"type": "Sequence", "processors": list(inside)}:
            yield from (token for each in inside for token in _added_by(each))
