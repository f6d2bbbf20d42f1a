"""The files of a model by which texts become tokens, and tokens texts."""

from __future__ import annotations

TOKENIZER = "tokenizer.json"
"""All that rows are read with."""
BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What is read beside it, or is by other readers of the transformers layout: of templates, special tokens, ends."""
VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""What there is instead of it in older models."""
CARRIED = (*BESIDE, "vocab.txt")
"""What is copied beside it wherever it is saved, where the model has it."""
