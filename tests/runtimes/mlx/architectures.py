"""Tiny random transformers models, each with its natural objective and rows for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from runtimes.mlx.graph import Input

VOCABULARY, LABELS, SIDE = 50, 3, 16
Rows = dict[str, np.ndarray[Any, Any]]


class Objective(nn.Module):
    """The sum of the losses over targets, their count, and the logits; -100 is no target."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def answer(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        flat = logits.float().reshape(-1, logits.shape[-1])
        loss = cross_entropy(flat, labels.reshape(-1), reduction="sum", ignore_index=-100)
        return {"loss_sum": loss, "count": (labels != -100).sum(), "logits": logits}


class Classification(Objective):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.answer(self.model(input_ids=input_ids, attention_mask=attention_mask).logits, labels)


class Language(Objective):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return self.answer(found.logits[:, :-1], labels[:, 1:])


class Translation(Objective):
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return self.answer(found.logits, labels)


class Images(Objective):
    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.answer(self.model(pixel_values=pixel_values).logits, labels)


TOKENS = Input(dtype="int64", axes=("batch", "length"))
TARGETS = Input(dtype="int64", axes=("batch", "target_length"))
INPUTS: Mapping[type[Objective], dict[str, Input]] = {
    Classification: {
        "input_ids": TOKENS,
        "attention_mask": TOKENS,
        "labels": Input(dtype="int64", axes=("batch",)),
    },
    Language: {"input_ids": TOKENS, "attention_mask": TOKENS, "labels": TOKENS},
    Translation: {
        "input_ids": TOKENS,
        "attention_mask": TOKENS,
        "decoder_input_ids": TARGETS,
        "labels": TARGETS,
    },
    Images: {
        "pixel_values": Input(dtype="float32", axes=("batch", 3, SIDE, SIDE)),
        "labels": Input(dtype="int64", axes=("batch",)),
    },
}


def sample(objective: type[Objective], batch: int, length: int, seed: int = 0) -> Rows:
    """Rows for an objective: the first fills its length, the others are shorter."""
    random = np.random.default_rng(seed)
    if objective is Images:
        pixels = random.standard_normal((batch, 3, SIDE, SIDE)).astype(np.float32)
        return {"pixel_values": pixels, "labels": random.integers(0, LABELS, batch)}
    lengths = np.concatenate([[length], random.integers(2, length + 1, batch - 1)])
    seen = np.arange(length) < lengths[:, None]
    ids = np.where(seen, random.integers(4, VOCABULARY, (batch, length)), 1)
    rows: Rows = {"input_ids": ids, "attention_mask": seen.astype(np.int64)}
    if objective is Classification:
        return {**rows, "labels": random.integers(0, LABELS, batch)}
    if objective is Language:
        return {**rows, "labels": np.where(seen, ids, -100)}
    target = random.integers(4, VOCABULARY, (batch, length + 2))
    kept = np.arange(length + 2) < (lengths + 1)[:, None]
    return {**rows, "decoder_input_ids": np.roll(target, 1, axis=1), "labels": np.where(kept, target, -100)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model class with a tiny configuration, and the names that it has for its dropout."""

    model: str
    config: Callable[[], Any]
    objective: type[Objective]
    dropouts: tuple[str, ...] = ()

    def build(self, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Objective:
        """The objective on a new model with random weights, in training mode."""
        config = self.config()
        for name in self.dropouts:
            assert hasattr(config, name), name
            setattr(config, name, dropout)
        torch.manual_seed(0)
        model = getattr(transformers, self.model)._from_config(config, dtype=dtype)
        return self.objective(model).train()

    @property
    def inputs(self) -> dict[str, Input]:
        return INPUTS[self.objective]


def configuration(name: str, **settings: Any) -> Any:
    """A configuration by its name; the types of the classes know only some of what they take."""
    return getattr(transformers, name)(**settings)


BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_labels": LABELS,
    "initializer_range": 0.1,
}
DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "pad_token_id": 1,
}
_BERT_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
NO_DROPOUT = dict.fromkeys(_BERT_DROPOUTS, 0.0)


def two_berts(settings: dict[str, Any]) -> Any:
    """The configuration of an encoder and a decoder that are alike, but for the attention of one to the other."""
    halves = (configuration("BertConfig", **settings) for _ in range(2))
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = 1, 2, 3
    return config


ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture(
        model="BertForSequenceClassification",
        config=lambda: configuration("BertConfig", **BERT),
        objective=Classification,
        dropouts=_BERT_DROPOUTS,
    ),
    "distilbert": Architecture(
        model="DistilBertForSequenceClassification",
        config=lambda: configuration(
            "DistilBertConfig",
            vocab_size=VOCABULARY,
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=48,
            num_labels=LABELS,
            initializer_range=0.1,
        ),
        objective=Classification,
        dropouts=("dropout", "attention_dropout", "seq_classif_dropout"),
    ),
    "roberta": Architecture(
        model="RobertaForSequenceClassification",
        config=lambda: configuration("RobertaConfig", **BERT, pad_token_id=1),
        objective=Classification,
        dropouts=_BERT_DROPOUTS,
    ),
    "albert": Architecture(
        model="AlbertForSequenceClassification",
        config=lambda: configuration("AlbertConfig", **BERT, embedding_size=16),
        objective=Classification,
        dropouts=(*_BERT_DROPOUTS, "classifier_dropout_prob"),
    ),
    "modernbert": Architecture(
        model="ModernBertForSequenceClassification",
        config=lambda: configuration(
            "ModernBertConfig",
            **{**BERT, "num_hidden_layers": 3},
            pad_token_id=1,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
            local_attention=8,
        ),
        objective=Classification,
        dropouts=("attention_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout"),
    ),
    "deberta": Architecture(
        model="DebertaV2ForSequenceClassification",
        config=lambda: configuration(
            "DebertaV2Config",
            **BERT,
            relative_attention=True,
            position_buckets=4,
            pos_att_type=["p2c", "c2p"],
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
            type_vocab_size=0,
        ),
        objective=Classification,
        dropouts=(*_BERT_DROPOUTS, "pooler_dropout"),
    ),
    "llama": Architecture(
        model="LlamaForCausalLM",
        config=lambda: configuration("LlamaConfig", **DECODER),
        objective=Language,
        dropouts=("attention_dropout",),
    ),
    "qwen3": Architecture(
        model="Qwen3ForCausalLM",
        config=lambda: configuration("Qwen3Config", **DECODER, head_dim=8, tie_word_embeddings=True),
        objective=Language,
        dropouts=("attention_dropout",),
    ),
    "gpt2": Architecture(
        model="GPT2LMHeadModel",
        config=lambda: configuration(
            "GPT2Config", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.1
        ),
        objective=Language,
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    "t5": Architecture(
        model="T5ForConditionalGeneration",
        config=lambda: configuration(
            "T5Config",
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=12,
        ),
        objective=Translation,
        dropouts=("dropout_rate",),
    ),
    "bart": Architecture(
        model="BartForConditionalGeneration",
        config=lambda: configuration(
            "BartConfig",
            vocab_size=VOCABULARY,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=64,
            init_std=0.1,
        ),
        objective=Translation,
        dropouts=("dropout", "attention_dropout", "activation_dropout"),
    ),
    "marian": Architecture(
        model="MarianMTModel",
        config=lambda: configuration(
            "MarianConfig",
            vocab_size=VOCABULARY,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=64,
            init_std=0.1,
            pad_token_id=1,
            eos_token_id=0,
            decoder_start_token_id=1,
        ),
        objective=Translation,
        dropouts=("dropout", "attention_dropout", "activation_dropout"),
    ),
    "encoder-decoder": Architecture(
        model="EncoderDecoderModel", config=lambda: two_berts({**BERT, **NO_DROPOUT}), objective=Translation
    ),
    "vit": Architecture(
        model="ViTForImageClassification",
        config=lambda: configuration(
            "ViTConfig",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=SIDE,
            patch_size=4,
            num_labels=LABELS,
            initializer_range=0.1,
        ),
        objective=Images,
        dropouts=_BERT_DROPOUTS,
    ),
    "resnet": Architecture(
        model="ResNetForImageClassification",
        config=lambda: configuration(
            "ResNetConfig", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=LABELS
        ),
        objective=Images,
    ),
}
