"""recipe tokenizer: a model's tokenizer, trained anew, and a training from scratch that begins with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from compiler.new_tokenizer import TokenizerError, texts_in, train_tokenizer
from tests.cli.conftest import Recipe
from tests.tiny import rows, write_project

TEXTS = ["the plot is long and very dull", "a bright film with a fine end", "übermäßig großes Kino"] * 30
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def number(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None
    return found


def made(kind: str) -> Tokenizer:
    """A tokenizer of other texts, whose special tokens are its last ones in half of the kinds."""
    texts = ["zebras quietly jump over foxes", "quick brown quartz"] * 10
    told: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}
    trainer: Any
    if kind == "WordPiece":
        tokenizer, trainer = Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer(**told)
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE())
        told["special_tokens"] = []
        trainer = trainers.BpeTrainer(**told, vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(**told, unk_token="[UNK]")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    numbers = [(token, number(tokenizer, token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=numbers)
    return tokenizer


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_special_tokens_keep_their_places_and_texts_come_back(kind: str) -> None:
    old = made(kind)
    found = train_tokenizer(old.to_str(), TEXTS, 400)
    new = Tokenizer.from_str(found.content)
    assert new.get_vocab_size() == found.vocab_size <= 400
    encoded = new.encode(TEXTS[1])
    assert (encoded.tokens[0], encoded.tokens[-1]) == ("[CLS]", "[SEP]")
    assert new.decode(encoded.ids) == TEXTS[1]
    assert len(encoded.ids) < len(old.encode(TEXTS[1]).ids)
    for token in SPECIAL:
        assert found.ids[number(old, token)] == new.token_to_id(token)
    assert new.token_to_id("[UNK]") not in encoded.ids


def test_the_same_texts_give_the_same_tokenizer() -> None:
    content = made("BPE").to_str()
    assert train_tokenizer(content, TEXTS, 320) == train_tokenizer(content, TEXTS, 320)


def test_fewer_tokens_than_there_are_characters_are_refused() -> None:
    with pytest.raises(TokenizerError, match="260 tokens, more than 100"):
        train_tokenizer(made("BPE").to_str(), TEXTS, 100)


def test_configurations_follow_the_numbers() -> None:
    old = made("BPE")
    found = train_tokenizer(old.to_str(), TEXTS, 400)
    pad, sep = (number(old, token) for token in ("[PAD]", "[SEP]"))
    gone = number(old, "qu")
    config = {"vocab_size": 304, "pad_token_id": pad, "eos_token_id": [sep], "bos_token_id": gone, "hidden_size": pad}
    new = found.renumbered({"text_config": config, "model_type": "llama"})["text_config"]
    assert new == {
        "vocab_size": found.vocab_size,
        "pad_token_id": found.ids[pad],
        "eos_token_id": [found.ids[sep]],
        "bos_token_id": None,
        "hidden_size": pad,
    }


def test_texts_are_found_wherever_they_stand_in_a_row() -> None:
    row = {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}], "n": 3}
    assert list(texts_in(row)) == ["user", "one", "assistant", "two"]


def test_a_training_from_scratch_begins_with_the_new_tokenizer(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    project = write_project(tmp_path / "project", method="scratch", model="./own", export=[])
    done = recipe(
        "tokenizer",
        project / "model",
        project / "rows.jsonl",
        "--column",
        "snippet",
        "--vocab-size",
        "60",
        "-o",
        project / "own",
    )
    assert done.exit_code == 0, done.output
    config = json.loads((project / "own" / "config.json").read_text())
    assert config["vocab_size"] == Tokenizer.from_file(str(project / "own" / "tokenizer.json")).get_vocab_size() <= 60
    assert not list((project / "own").glob("*.safetensors"))
    run = recipe("run", project / "recipe.json", "--runs", project / "runs", "--target", "cpu", "--runtime", "pytorch")
    assert run.exit_code == 0, run.output
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(project / "runs" / "tiny" / "model")
    model = AutoModelForSequenceClassification.from_pretrained(project / "runs" / "tiny" / "model")
    text = rows(1)[0]["snippet"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert model.get_input_embeddings().num_embeddings == config["vocab_size"]


def test_what_can_not_be_is_said(recipe: Recipe, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    model, data, out = project / "model", project / "rows.jsonl", tmp_path / "own"
    column = recipe("tokenizer", model, data, "--column", "snipet", "-o", out)
    assert (column.exit_code, "R304" in column.output, 'did you mean "snippet"?' in column.output) == (1, True, True)
    few = recipe("tokenizer", model, data, "--vocab-size", "5", "-o", out)
    assert (few.exit_code, "more than 5" in few.output) == (2, True)
    assert not out.exists()
    out.mkdir()
    there = recipe("tokenizer", model, data, "-o", out)
    assert (there.exit_code, "is there already" in there.output) == (2, True)
    nothing = recipe("tokenizer", tmp_path / "none", data, "-o", tmp_path / "two")
    assert nothing.exit_code in (1, 4) and "error[R" in nothing.output
