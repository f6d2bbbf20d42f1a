"""A tiny project: a random BERT, rows that it can learn, and a recipe. Small, and whole enough for a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GOOD = ("good", "great", "fine", "bright")
BAD = ("bad", "awful", "dull", "weak")
COMMON = ("the", "a", "movie", "film", "plot", "actor", "was", "is", "very", "and", "long", "short", "end")
RECIPE: dict[str, Any] = {
    "recipe": 1,
    "name": "tiny",
    "task": "text-classification",
    "dataset": {
        "train": "rows.jsonl",
        "validation": {"fraction": 0.1},
        "test": {"fraction": 0.2},
        "columns": {"text": "snippet", "label": "sentiment"},
    },
    "model": "./model",
    "training": {"epochs": 4, "learning_rate": 3e-3, "batch_size": 16},
    "metrics": ["accuracy", "f1"],
    "export": ["onnx"],
}


def write_project(folder: Path, *, num_rows: int = 300, **changes: Any) -> Path:
    """The folder, with model/, rows.jsonl and recipe.json in it; `changes` replace top-level keys of the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(num_rows)), encoding="utf-8")
    (folder / "recipe.json").write_text(json.dumps({**RECIPE, **changes}, indent=2), encoding="utf-8")
    return folder


def rows(count: int) -> list[dict[str, str]]:
    """Distinct texts of 3 to 20 words; the label is which of two kinds of words stand in them."""
    random = np.random.default_rng(0)
    found: dict[str, str] = {}
    while len(found) < count:
        label = ("negative", "positive")[len(found) % 2]
        words = [*random.choice(COMMON, random.integers(2, 18)), random.choice(GOOD if label == "positive" else BAD)]
        random.shuffle(words)
        found.setdefault(" ".join(words), label)
    return [{"snippet": text, "sentiment": label} for text, label in found.items()]


def save_encoder(folder: Path) -> None:
    """A random BERT without a head, with the WordPiece tokenizer of its words."""
    import torch
    from transformers import BertConfig, BertModel

    from runtimes.pytorch.quiet import quiet

    vocabulary = save_tokenizer(folder, (*COMMON, *GOOD, *BAD))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=0,
    )
    with quiet():
        BertModel(config).save_pretrained(folder)


def save_masked_encoder(folder: Path) -> None:
    """A random BERT without dropout, with its head for hidden words, and the tokenizer of the rows' words."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from runtimes.pytorch.quiet import quiet

    vocabulary = save_tokenizer(folder, (*COMMON, *GOOD, *BAD))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
        pad_token_id=0,
    )
    with quiet():
        BertForMaskedLM(config).save_pretrained(folder)


def save_tokenizer(folder: Path, words: tuple[str, ...], pad_token_id: int = 0) -> int:
    """Size of the vocabulary of the WordPiece tokenizer.json that is written: whole words and single letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(pad_token_id, "[PAD]")
    vocabulary = [*special, *(word for word in words if word not in letters), *letters, *(f"##{c}" for c in letters)]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(vocabulary)


def save_decoder(folder: Path, *, head_dim: int = 8) -> None:
    """A random Llama with tied embeddings, and the tokenizer of the rows' words, in which [SEP] ends a text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from runtimes.pytorch.quiet import quiet

    vocabulary = save_causal_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        head_dim=head_dim,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)


def save_image_processor(folder: Path, config: Any, side: int) -> None:
    """Writes the preprocessor_config.json of a model that reads square images."""
    folder.mkdir(parents=True, exist_ok=True)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": side, "width": side},
        "resample": 2,
        "image_mean": [0.5] * config.num_channels,
        "image_std": [0.25] * config.num_channels,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def save_causal_tokenizer(folder: Path) -> int:
    """Size of the vocabulary of a tokenizer that puts nothing around a text."""
    size = save_tokenizer(folder, (*COMMON, *GOOD, *BAD))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kinds = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer["added_tokens"] = [{"id": number, "content": word, **kinds} for number, word in enumerate(special)]
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return size


def write_language_project(
    folder: Path, lines: list[dict[str, Any]], *, save: Callable[[Path], None] = save_decoder, **changes: Any
) -> Path:
    """The folder, with model/ (a decoder), rows.jsonl and recipe.json in it; `changes` are top-level keys."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    recipe = {"recipe": 1, "name": "tiny", "dataset": {"train": "rows.jsonl"}, "model": "./model", **changes}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    return folder


def prompts(count: int) -> list[dict[str, Any]]:
    """Texts with what they are: the word that decides it, and the kind."""
    return [{"prompt": f"{row['snippet']} ", "completion": f"very {row['sentiment'][:1]}"} for row in rows(count)]
