"""Facts are read from real files, and everything that is wrong with them is said in one go."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import TemplateProcessing

from compiler.data.checks import check_split_kinds
from compiler.data.survey import digest
from compiler.data.texts import BadValueError, UnknownLabelError, label_names, label_of, text_of
from compiler.diagnostics import Diagnostic, RecipeError, errors
from compiler.facts import Facts, LocalFacts
from compiler.hashes import sha256_of
from compiler.lengths import auto_length
from compiler.loading import load
from compiler.recipe import Recipe
from compiler.validate import validate

MODEL = "tiny/bert"
BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 4,
    "vocab_size": 6,
    "max_position_embeddings": 64,
}
WORDS = ["good", "bad", "film", "dull", "fine"]


def bert_tensors(**head: tuple[int, ...]) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (6, 4),
        "embeddings.LayerNorm.weight": (4,),
        "pooler.dense.weight": (4, 4),
        **{name.replace("__", "."): shape for name, shape in head.items()},
    }
    for layer in range(2):
        shapes[f"encoder.layer.{layer}.attention.self.query.weight"] = (4, 4)
        shapes[f"encoder.layer.{layer}.attention.self.query.bias"] = (4,)
        shapes[f"encoder.layer.{layer}.output.dense.weight"] = (4, 8)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return {**tensors, "embeddings.position_ids": np.zeros((1, 64), np.int64)}


def write_tokenizer(folder: Path) -> None:
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, **{word: 3 + n for n, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_truncation(4)  # as many files have; it must not hide long rows
    tokenizer.save(str(folder / "tokenizer.json"))


def write_model(
    folder: Path,
    config: dict[str, Any] = BERT,
    tensors: dict[str, np.ndarray] | None = None,
    *,
    tokenizer: bool = True,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(bert_tensors() if tensors is None else tensors, folder / "model.safetensors")
    if tokenizer:
        write_tokenizer(folder)
    return folder


ROWS = [
    (f"{word} film {number}", "pos" if word in ("good", "fine") else "neg") for number in range(8) for word in WORDS
]


def write_rows(path: Path, rows: list[tuple[Any, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


class Project:
    """A folder with a model in a mirror, rows, and a recipe to change."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.mirror = root / "mirror"
        (self.root / ".git").mkdir(parents=True)
        write_model(self.mirror / MODEL)
        write_rows(self.root / "data" / "rows.jsonl")

    def recipe(self, *, data: str | None = None, **changes: Any) -> Recipe:
        value = {"recipe": 1, "name": "r", "task": "text-classification", "model": MODEL, **changes}
        value.setdefault("dataset", {"train": data or "data/rows.jsonl"})
        path = self.root / "recipe.json"
        path.write_text(json.dumps(value, indent=1))
        return validate(load(path))

    def gather(self, *, allowed: tuple[Path, ...] = (), **changes: Any) -> Facts:
        source = LocalFacts(mirror=self.mirror, cache=None, allowed=allowed, offline=True)
        return source.gather(self.recipe(**changes))

    def findings(self, **changes: Any) -> tuple[Diagnostic, ...]:
        with pytest.raises(RecipeError) as caught:
            self.gather(**changes)
        return caught.value.diagnostics


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path)
    monkeypatch.chdir(made.root)
    return made


def only_error(found: tuple[Diagnostic, ...]) -> Diagnostic:
    [error] = errors(found)
    return error


# --- the model ------------------------------------------------------------------------------------


def test_a_model_is_described_from_its_config_and_header(project):
    model = project.gather().model
    assert (model.id, model.revision, model.model_type) == (MODEL, None, "bert")
    assert (model.num_layers, model.hidden_size, model.vocab_size, model.max_positions) == (2, 4, 6, 64)
    assert model.num_parameters == 24 + 4 + 16 + 2 * (16 + 4 + 32)
    assert model.dtype == "float32"
    assert model.labels is None
    assert model.has_tokenizer


def test_norms_over_batches_are_told_by_their_running_means_which_are_no_parameters(project):
    shapes = ("weight", "bias", "running_mean", "running_var")
    norm = {f"normalization__{name}": (4,) for name in shapes}
    write_model(project.mirror / MODEL, tensors=bert_tensors(**norm))
    model = project.gather().model
    assert model.batch_norms == ("normalization",)
    assert model.norm_modules == ("embeddings.LayerNorm",)
    assert {"normalization.weight", "normalization.bias"} <= model.shapes.keys()
    assert not {"normalization.running_mean", "normalization.running_var"} & model.shapes.keys()


def test_linear_modules_are_the_matrices_but_for_embeddings_and_heads(project):
    write_model(project.mirror / MODEL, tensors=bert_tensors(classifier__weight=(2, 4), lm_head__weight=(6, 4)))
    assert project.gather().model.linear_modules == (
        "encoder.layer.0.attention.self.query",
        "encoder.layer.0.output.dense",
        "encoder.layer.1.attention.self.query",
        "encoder.layer.1.output.dense",
        "pooler.dense",
    )


def test_every_file_that_is_read_has_its_hash(project):
    files = project.gather().model.files
    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer.json"]
    content = (project.mirror / MODEL / "config.json").read_bytes()
    assert files["config.json"] == hashlib.sha256(content).hexdigest()


def test_sharded_weights_are_one_model(project):
    folder = write_model(project.mirror / MODEL)
    tensors = bert_tensors()
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / part)
    places = {name: part for part, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    model = project.gather().model
    assert model.num_parameters == 24 + 4 + 16 + 2 * (16 + 4 + 32)
    assert set(parts) | {"model.safetensors.index.json"} < set(model.files)


@pytest.mark.parametrize(
    ("config", "layers", "hidden", "positions"),
    [
        ({"model_type": "distilbert", "n_layers": 3, "dim": 8, "max_position_embeddings": 512}, 3, 8, 512),
        ({"model_type": "gpt2", "n_layer": 3, "n_embd": 8, "n_positions": 1024, "pad_token_id": 0}, 3, 8, 1024),
        ({"model_type": "t5", "num_layers": 3, "d_model": 8}, 3, 8, None),
        (
            {
                "model_type": "roberta",
                "num_hidden_layers": 3,
                "hidden_size": 8,
                "max_position_embeddings": 514,
                "pad_token_id": 1,
            },
            3,
            8,
            512,
        ),
        (
            {"model_type": "electra", "num_hidden_layers": 3, "hidden_size": 8, "max_position_embeddings": 512},
            3,
            8,
            512,
        ),
        ({"model_type": "mystery", "hidden_size": 8}, 2, 8, None),
    ],
)
def test_the_words_of_every_family_are_understood(project, config, layers, hidden, positions):
    tensors = {f"encoder.layer.{number}.output.dense.weight": np.zeros((8, 8), np.float32) for number in range(layers)}
    write_model(project.mirror / MODEL, config, tensors)
    model = project.gather().model
    assert (model.num_layers, model.hidden_size, model.max_positions) == (layers, hidden, positions)


def test_the_tokenizer_limits_a_model_without_position_embeddings(project):
    folder = write_model(project.mirror / MODEL, {"model_type": "mystery", "n_layer": 2, "d_model": 4})
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 48}))
    assert project.gather().model.max_positions == 48


def test_relative_positions_have_no_limit_whatever_the_tokenizer_says(project):
    t5 = {"model_type": "t5", "num_layers": 2, "d_model": 4, "n_positions": 512}
    folder = write_model(project.mirror / MODEL, t5)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    model = project.gather(training={"max_length": 2048}).model
    assert (model.max_positions, model.max_target_positions) == (None, None)


HEAD = {**BERT, "architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "tensors", "labels"),
    [
        ({**HEAD, "id2label": {"1": "pos", "0": "neg"}}, {"classifier__weight": (2, 4)}, ("neg", "pos")),
        (HEAD, {"classifier__weight": (3, 4)}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        (HEAD, {"classifier__dense__weight": (4, 4), "classifier__out_proj__weight": (2, 4)}, ("LABEL_0", "LABEL_1")),
        ({**HEAD, "id2label": {"0": "neg", "1": "pos"}}, {}, None),
        ({**BERT, "architectures": ["BertForTokenClassification"]}, {"classifier__weight": (2, 4)}, None),
    ],
)
def test_labels_are_known_only_where_the_weights_have_a_head(project, config, tensors, labels):
    write_model(project.mirror / MODEL, config, bert_tensors(**tensors))
    assert project.gather().model.labels == labels


def test_pickled_weights_are_refused(project):
    folder = write_model(project.mirror / MODEL)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = only_error(project.findings())
    assert (found.code, found.pointer) == ("R404", "/model/id")


def test_a_model_with_code_of_its_own_is_refused_unless_its_type_is_known(project):
    code = {"auto_map": {"AutoModel": "modeling.MyModel"}}
    write_model(project.mirror / MODEL, {**BERT, **code, "model_type": "my-model"})
    assert only_error(project.findings()).code == "R405"
    write_model(project.mirror / MODEL, {**BERT, **code})
    assert project.gather().model.model_type == "bert"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": []}', '{"model_type": "\\ud800"}'])
def test_a_broken_config_is_named(project, text):
    (project.mirror / MODEL / "config.json").write_text(text)
    assert only_error(project.findings()).code == "R406"


def test_weights_cut_short_are_named(project):
    weights = project.mirror / MODEL / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    found = only_error(project.findings())
    assert found.code == "R406"
    assert "shorter" in found.message


def header(value: Any) -> bytes:
    data = json.dumps(value).encode()
    return len(data).to_bytes(8, "little") + data


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"w": []},
        {"w": {"dtype": "F32", "shape": [0], "data_offsets": []}},
        {"w": {"dtype": "F32", "shape": [0], "data_offsets": ["0", "0"]}},
        {"w": {"dtype": [], "shape": [0], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": 3, "data_offsets": [0, 0]}},
    ],
    ids=json.dumps,
)
def test_a_header_of_another_shape_is_named(project, value):
    (project.mirror / MODEL / "model.safetensors").write_bytes(header(value))
    assert only_error(project.findings()).code == "R406"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_hidden_layers": 3}, "says 3 layers, and its weights have 2"),
        ({"hidden_size": 8}, "says hidden_size 8, and its weights have 4"),
        ({"vocab_size": 7}, "says vocab_size 7, and its weights have 6"),
    ],
)
def test_a_configuration_of_another_model_than_the_weights_is_named(project, config, said):
    write_model(project.mirror / MODEL, {**BERT, **config})
    found = only_error(project.findings())
    assert (found.code, found.pointer) == ("R406", "/model/id")
    assert said in found.message


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 1},  # the rest is left out
        {"hidden_size": 8, "embedding_size": 4},  # it is projected
        {"hidden_size": 8, "input_embedding_size": 4},  # as RemBERT calls it
        {"num_hidden_layers": 12, "num_hidden_groups": 1},  # layers share their weights
    ],
)
def test_weights_that_fit_otherwise_are_taken(project, config):
    write_model(project.mirror / MODEL, {**BERT, **config})
    project.gather()


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        (BERT, True),
        ({**BERT, "num_hidden_layers": 1}, False),  # a pretrained model leaves the rest out
        ({**BERT, "intermediate_size": 16}, False),
        ({**BERT, "num_hidden_layers": 12, "num_hidden_groups": 2}, True),  # layers share their weights
        ({**BERT, "depths": [1, 1]}, False),  # its layers are counted in another way
        ({"model_type": "bert"}, False),  # it says nothing
    ],
)
def test_weights_beside_a_model_that_is_drawn_anew_say_its_shapes_where_they_fit(project, config, fits):
    write_model(project.mirror / MODEL, config)
    model = project.gather(method="scratch").model
    assert (model.has_shapes, bool(model.shapes), bool(model.linear_modules)) == (fits, fits, fits)
    assert (model.labels, model.architectures, set(model.files)) == (None, (), {"config.json", "tokenizer.json"})


@pytest.mark.parametrize(
    ("changes", "fits"), [({}, True), ({"num_key_value_heads": 1}, False), ({"head_dim": 4}, False)]
)
def test_weights_beside_a_model_that_is_drawn_anew_have_its_heads(project, changes, fits):
    tensors = {f"model.layers.0.self_attn.{name}_proj.weight": np.zeros((4, 8), np.float32) for name in "kv"}
    write_model(project.mirror / MODEL, {**LLAMA, **changes}, tensors)
    assert project.gather(method="scratch").model.has_shapes is fits


def test_each_half_of_an_encoder_decoder_has_its_layers(project):
    halves = {"is_encoder_decoder": True, "encoder_layers": 2, "decoder_layers": 3, "d_model": 4, "vocab_size": 6}
    names = [f"model.encoder.layers.{n}.fc1.weight" for n in range(2)]
    names += [f"model.decoder.layers.{n}.encoder_attn.k_proj.weight" for n in range(2)]
    tensors = {name: np.zeros((4, 4), np.float32) for name in names}
    write_model(project.mirror / MODEL, {"model_type": "bart", **halves}, tensors)
    found = [finding.message for finding in project.findings() if finding.code == "R406"]
    assert found == [f"config.json of the model {MODEL} says 3 decoder layers, and its weights have 2"]


@pytest.mark.parametrize("padding", [-1, 6, [], "0", True, 0.0])
def test_a_padding_token_that_is_none_of_the_model_is_named(project, padding):
    write_model(project.mirror / MODEL, {**BERT, "pad_token_id": padding})
    found = only_error(project.findings())
    assert (found.code, "pad_token_id" in found.message) == ("R406", True)


@pytest.mark.parametrize("padding", [None, 0, 5])
def test_a_padding_token_of_the_model_or_none_is_taken(project, padding):
    write_model(project.mirror / MODEL, {**BERT, "pad_token_id": padding})
    assert project.gather().model.vocab_size == 6


ENCODER_DECODERS = {
    "t5": ({"model_type": "t5", "num_layers": 2, "d_model": 4, "n_positions": 512, "vocab_size": 6}, (4, None, None)),
    "t5-uneven": ({"model_type": "t5", "num_layers": 2, "num_decoder_layers": 5, "d_model": 4}, (7, None, None)),
    "bart": (
        {"model_type": "bart", "encoder_layers": 3, "decoder_layers": 1, "d_model": 4, "max_position_embeddings": 64},
        (4, 64, 64),
    ),
    "two-encoders": (
        {
            "model_type": "encoder-decoder",
            "encoder": {"model_type": "bert", "num_hidden_layers": 2, "max_position_embeddings": 128},
            "decoder": {
                "model_type": "roberta",
                "num_hidden_layers": 3,
                "max_position_embeddings": 66,
                "vocab_size": 6,
            },
        },
        (5, 128, 64),
    ),
}


@pytest.mark.parametrize(("config", "expected"), ENCODER_DECODERS.values(), ids=ENCODER_DECODERS)
def test_both_halves_of_an_encoder_decoder_are_read(project, config, expected):
    tensors = {"shared.weight": np.zeros((6, 4), np.float32)}
    write_model(project.mirror / MODEL, {**config, "is_encoder_decoder": True}, tensors)
    model = project.gather().model
    assert model.architecture == "encoder-decoder"
    assert (model.num_layers, model.max_positions, model.max_target_positions) == expected


PAIRS = {"train": "data/pairs.jsonl", "validation": None, "test": None}


@pytest.mark.parametrize(("start", "counts"), [(1, (0, 1, 1, 0, 1)), (5, (0, 0, 1, 1, 0, 1))])
def test_the_tokens_of_texts_to_write_are_counted_with_one_end_and_without_the_start(project, start, counts):
    config = {"model_type": "bart", "is_encoder_decoder": True, "decoder_start_token_id": start, "eos_token_id": 2}
    write_model(project.mirror / MODEL, config)
    rows = [{"source": "good film", "target": text} for text in ("good", "good film dull", "")]
    (project.root / "data" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = project.gather(task="translation", dataset=PAIRS).data
    [train] = data.splits
    assert train.target_lengths == counts
    assert (data.longest_target, train.num_target_tokens) == (len(counts) - 1, sum(n * c for n, c in enumerate(counts)))
    assert train.lengths == (0, 0, 0, 0, 3)


CHINESE = [
    {"prompt": "你好吗。", "completion": "今天天气很好。"},
    {"prompt": "我们去哪儿。", "completion": "去公园吧。"},
]
ENGLISH = [{"prompt": "How are you? ", "completion": "The weather is fine today."}]
JAPANESE = [{"prompt": "元気。", "completion": "今日は天気がいいです。"}]


def write_chats(project, rows: list[Any], name: str = "chats") -> str:
    """The path of the rows; the model is a decoder whose tokens are bytes, and [END] ends a text."""
    write_model(project.mirror / MODEL, {**BERT, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.save(str(project.mirror / MODEL / "tokenizer.json"))
    (project.mirror / MODEL / "tokenizer_config.json").write_text(json.dumps({"eos_token": "[END]"}))
    path = project.root / "data" / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return f"data/{name}.jsonl"


def test_the_tokens_of_chinese_rows_are_counted_as_the_tokenizer_makes_them(project):
    """Three bytes a character, and the end."""
    path = write_chats(project, CHINESE)
    dataset = {"train": path, "validation": None, "test": None}
    [train] = project.gather(task="text-generation", dataset=dataset).data.splits
    lengths = [3 * len(row["prompt"] + row["completion"]) + 1 for row in CHINESE]
    assert [length for length, count in enumerate(train.lengths) for _ in range(count)] == sorted(lengths)
    assert train.num_tokens == sum(lengths)


@pytest.mark.parametrize(("rows", "parts"), [(CHINESE, "zh"), (ENGLISH, "13a"), (JAPANESE, "char")])
def test_the_references_of_held_out_rows_tell_how_texts_are_measured(project, rows, parts):
    path = write_chats(project, rows * 5)
    drawn = {"train": path, "validation": None, "test": {"fraction": 0.2}}
    changes = {"task": "text-generation", "metrics": ["bleu"]}
    assert project.gather(**changes, dataset=drawn).data.references == parts
    other = write_chats(project, CHINESE if parts == "13a" else ENGLISH, "other")
    apart = {"train": other, "validation": None, "test": path}
    assert project.gather(**changes, dataset=apart).data.references == parts
    assert project.gather(task="text-generation", dataset=drawn).data.references is None, "no text is measured"


def test_the_first_thousand_texts_tell(project, monkeypatch):
    monkeypatch.setattr("compiler.data.survey.REFERENCES", 5)
    path = write_chats(project, [*CHINESE * 3, *ENGLISH * 50])
    dataset = {"train": path, "validation": None, "test": {"fraction": 0.2}}
    assert project.gather(task="text-generation", metrics=["chrf"], dataset=dataset).data.references == "zh"


def test_targets_of_a_translation_are_references_too(project):
    config = {"model_type": "bart", "is_encoder_decoder": True, "decoder_start_token_id": 1, "eos_token_id": 2}
    write_model(project.mirror / MODEL, config)
    rows = [{"source": "good film", "target": "好电影"}, {"source": "bad film", "target": "坏电影"}]
    (project.root / "data" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = {**PAIRS, "test": "data/pairs.jsonl"}
    assert project.gather(task="translation", metrics=["bleu"], dataset=dataset).data.references == "zh"


def test_targets_that_are_cut_are_named(project):
    config = {"model_type": "bart", "is_encoder_decoder": True, "decoder_start_token_id": 1, "eos_token_id": 2}
    write_model(project.mirror / MODEL, config)
    rows = [{"source": "good film", "target": text} for text in ("good", "good film dull")]
    (project.root / "data" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = project.gather(task={"type": "translation", "max_target_length": 3}, dataset=PAIRS).findings
    [cut] = [finding for finding in found if finding.code == "R309"]
    assert (cut.pointer, cut.severity) == ("/task/max_target_length", "warning")
    assert cut.message == "1 of 2 targets (50.0%) are cut at 3 tokens; the longest has 4"


def test_a_model_that_does_not_say_what_its_decoder_reads_first_is_named(project):
    write_model(project.mirror / MODEL, {"model_type": "bart", "is_encoder_decoder": True, "eos_token_id": 2})
    (project.root / "data" / "pairs.jsonl").write_text(json.dumps({"source": "good", "target": "bad"}) + "\n")
    found = only_error(project.findings(task="summarization", dataset=PAIRS))
    assert (found.code, "decoder_start_token_id" in found.message) == ("R411", True)
    assert project.gather(task={"type": "summarization", "start_id": 1}, dataset=PAIRS).task.start_id == 1


@pytest.mark.parametrize("padding", [None, 5])
def test_a_decoder_is_told_from_an_encoder_and_its_padding_token_is_known(project, padding):
    decoder = {**BERT, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "pad_token_id": padding}
    write_model(project.mirror / MODEL, decoder)
    model = project.gather().model
    assert (model.model_type, model.architecture, model.padding) == ("gpt2", "decoder", padding)


def test_a_broken_tokenizer_is_named(project):
    (project.mirror / MODEL / "tokenizer.json").write_text("{}")
    assert only_error(project.findings()).code == "R406"


# --- the rows -------------------------------------------------------------------------------------


def test_rows_are_counted_by_split_label_and_length(project):
    data = project.gather().data
    assert data.labels == ("neg", "pos")
    assert {split.rows.split: split.rows.num_rows for split in data.splits} == {"train": 32, "validation": 4, "test": 4}
    assert data.label_counts("train") == {"neg": 20, "pos": 12}
    train = data.split("train")
    assert train is not None
    assert (train.longest_row, train.num_tokens, train.rows_over(4), train.rows_over(5)) == (5, 32 * 5, 32, 0)


def test_the_plan_gets_paths_from_the_recipes_folder_with_hashes(project):
    split = project.gather().data.split_rows[0]
    [file] = split.files
    content = (project.root / "data" / "rows.jsonl").read_bytes()
    assert (file.path, file.format, file.sha256) == ("data/rows.jsonl", "jsonl", hashlib.sha256(content).hexdigest())


def test_a_path_starts_from_the_file_that_wrote_it(project):
    write_rows(project.root / "base" / "data" / "own.jsonl")
    base = {"recipe": 1, "dataset": {"train": "data/own.jsonl"}}
    (project.root / "base" / "base.json").write_text(json.dumps(base))
    value = {"extends": "base/base.json", "recipe": 1, "name": "r", "task": "text-classification", "model": MODEL}
    (project.root / "recipe.json").write_text(json.dumps(value))
    recipe = validate(load(project.root / "recipe.json"))
    data = LocalFacts(mirror=project.mirror, offline=True).gather(recipe).data
    assert data.split_rows[0].files[0].path == "base/data/own.jsonl"


def test_a_models_path_starts_from_the_recipe_wherever_it_was_written(project):
    write_model(project.root / "base" / "mine")
    base = {"recipe": 1, "model": "./mine", "dataset": {"train": "../data/rows.jsonl"}}
    (project.root / "base" / "base.json").write_text(json.dumps(base))
    value = {"extends": "base/base.json", "recipe": 1, "name": "r", "task": "text-classification"}
    (project.root / "recipe.json").write_text(json.dumps(value))
    recipe = validate(load(project.root / "recipe.json"))
    facts = LocalFacts(offline=True).gather(recipe)
    assert (facts.model.id, facts.data.split_rows[0].files[0].path) == ("./base/mine", "data/rows.jsonl")


def test_a_fraction_has_the_files_of_train(project):
    train, validation, test = project.gather().data.split_rows
    assert train.files == validation.files == test.files
    assert (validation.fraction, validation.stratify, train.stratify) == (0.1, True, False)


def test_findings_about_model_and_rows_come_together(project):
    found = project.findings(model="tiny/brt", data="data/row.jsonl")
    assert {d.code: (d.pointer, d.hint) for d in found} == {
        "R301": ("/dataset/train/path", 'did you mean "rows.jsonl"?'),
        "R403": ("/model/id", 'did you mean "tiny/bert", which the mirror has?'),
    }


def test_a_missing_file_is_the_only_finding_about_it(project):
    found = only_error(project.findings(data="data/rows.json"))
    assert (found.code, found.at.line > 1) == ("R301", True)


def test_a_folder_is_no_file(project):
    found = only_error(project.findings(data="data"))
    assert (found.code, "rows.jsonl" in found.hint) == ("R301", True)


def test_a_path_out_of_the_project_is_refused_unless_its_folder_is_allowed(project):
    outside = write_rows(project.root.parent / "elsewhere" / "rows.jsonl")
    assert only_error(project.findings(data="../elsewhere/rows.jsonl")).code == "R302"
    assert only_error(project.findings(data=str(outside))).code == "R302"
    (project.root / "link.jsonl").symlink_to(outside)
    assert only_error(project.findings(data="link.jsonl")).code == "R302"
    assert project.gather(data="../elsewhere/rows.jsonl", allowed=(outside.parent,)).data.num_rows("train") == 32


@pytest.mark.parametrize("path", ["\0", "data\0/rows.jsonl", "x" * 300 + ".jsonl", "x/" * 2500, "/" + "x" * 5000])
def test_what_can_not_be_a_path_is_a_finding(project, path):
    found = only_error(project.findings(data=path))
    assert (found.code in ("R301", "R302"), found.pointer) == (True, "/dataset/train/path")
    found = only_error(project.findings(model=path))
    assert (found.code in ("R302", "R402", "R403"), found.pointer) == (True, "/model/id")


def test_a_split_of_a_hub_dataset_with_an_impossible_id_is_a_finding(project):
    for dataset_id in ("\0", "x" * 5000, "org/" + "x" * 5000):
        found = only_error(project.findings(dataset={"id": dataset_id, "train": {"name": "train"}}))
        assert found.code in ("R402", "R403")


def test_a_circle_of_links_is_a_finding(project):
    (project.root / "loop").symlink_to("loop")
    (project.root / "loop.jsonl").symlink_to("loop.jsonl")
    assert only_error(project.findings(data="loop.jsonl")).code == "R301"
    assert only_error(project.findings(model="./loop")).code == "R402"


def test_a_models_folder_may_not_leave_the_project_either(project):
    write_model(project.root / "models" / "mine")
    assert project.gather(model="./models/mine").model.id == "./models/mine"
    assert only_error(project.findings(model="../mirror/tiny/bert")).code == "R302"


def test_an_unknown_suffix_is_named(project):
    (project.root / "rows.xlsx").write_text("")
    assert only_error(project.findings(data="rows.xlsx")).code == "R303"


def test_a_misspelt_column_is_named_with_the_nearest(project):
    (project.root / "data" / "rows.jsonl").write_text('{"snippet": "x", "label": "a"}\n')
    dataset = {"train": "data/rows.jsonl", "columns": {"text": "snipet"}}
    found = only_error(project.findings(dataset=dataset))
    assert (found.code, found.pointer, found.hint) == ("R304", "/dataset/columns/text", 'did you mean "snippet"?')


def test_a_missing_default_column_says_how_to_name_it(project):
    (project.root / "data" / "rows.jsonl").write_text('{"snippet": "x", "label": "a"}\n')
    found = only_error(project.findings())
    assert (found.code, found.pointer) == ("R304", "/dataset")
    assert '"columns": {"text": ...}' in found.hint


def test_a_second_text_is_read_only_where_it_is_named(project):
    rows = [{"text": f"film {n}", "text_pair": f"good film {n}", "label": "ab"[n % 2]} for n in range(20)]
    (project.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert project.gather().data.longest_row == 4
    columns = {"text_pair": "text_pair"}
    assert project.gather(dataset={"train": "data/rows.jsonl", "columns": columns}).data.longest_row == 5


def test_a_second_text_that_is_named_stands_in_every_row(project):
    dataset = {"train": "data/rows.jsonl", "columns": {"text_pair": "claim"}}
    found = only_error(project.findings(dataset=dataset))
    assert (found.code, found.pointer) == ("R304", "/dataset/columns/text_pair")
    rows = [{"text": "film", "claim": f"good {n}" if n != 3 else None, "label": "ab"[n % 2]} for n in range(20)]
    (project.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = only_error(project.findings(dataset=dataset))
    assert (found.code, found.at.line) == ("R313", 4)
    assert found.message == 'the column "claim": expected text, found null'


def test_labels_that_are_very_unequal_are_a_warning_unless_the_recipe_makes_up_for_it(project):
    rows = [(f"good film {number}", "spam" if number % 20 == 0 else "ham") for number in range(400)]
    write_rows(project.root / "data" / "rows.jsonl", rows)
    [found] = project.gather().findings
    assert (found.code, found.severity, found.pointer) == ("R318", "warning", "/dataset/train")
    assert found.message == 'train has 304 rows of "ham" and 16 of "spam", 19 times fewer'
    for training in (
        {"balance": "oversample"},
        {"loss": "focal"},
        {"loss": {"type": "cross-entropy", "class_weights": "balanced"}},
    ):
        assert project.gather(training=training).findings == ()


SETS = {"type": "text-classification", "multi_label": True}


def write_sets(project, values: list[Any]) -> None:
    rows = [{"text": f"good film {number}", "label": value} for number, value in enumerate(values)]
    (project.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_row_may_have_several_labels_or_none(project):
    write_sets(project, [["b", "a"], {"a": True, "b": 0, "c": 1}, [], ["a"]] * 10)
    facts = project.gather(task=SETS, dataset={"train": "data/rows.jsonl", "validation": None, "test": None})
    assert facts.data.labels == ("a", "b", "c")
    assert facts.data.label_counts("train") == {"a": 30, "b": 10, "c": 10}


def test_a_split_keeps_the_share_of_a_rare_label(project):
    write_sets(project, [["common", "rare"] if number % 20 == 0 else ["common"] for number in range(200)])
    facts = project.gather(task={**SETS, "labels": ["common", "rare"]})
    assert facts.data.label_counts("test") == {"common": 20, "rare": 1}


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ("a", "R313", 'expected a list of labels, found the text "a"'),
        (["a", None], "R313", "expected a label, found null"),
        ({"a": 2}, "R313", "expected 0 or 1 for each label, found the number 2"),
        (["d"], "R312", 'the label "d" is not declared'),
    ],
)
def test_what_is_no_list_of_labels_is_named(project, value, code, said):
    write_sets(project, [*[["a", "b"], ["c"]] * 10, value])
    found = only_error(project.findings(task={**SETS, "labels": ["a", "b", "c"]}))
    assert found.code == code
    assert said in found.message


def test_an_unreadable_row_is_named_by_file_and_line(project):
    with (project.root / "data" / "rows.jsonl").open("a") as file:
        file.write("{oops\n")
    found = only_error(project.findings())
    assert (found.code, str(found.at)) == ("R305", "data/rows.jsonl:41:1")


def test_values_that_are_no_text_or_label_are_listed_up_to_five(project):
    write_rows(project.root / "data" / "rows.jsonl", [*ROWS, *[(None, "pos")] * 7, ("film", 1.5)])
    found = errors(project.findings())
    assert [(d.code, d.at.line) for d in found] == [("R313", line) for line in (41, 42, 43, 44, 45, 48)]
    assert "2 more rows" in found[4].message
    assert "the number 1.5" in found[5].message


# What stands in the columns of 40 rows, which columns the recipe names, the pointer, what is said, the hint.
WRONG_COLUMNS = {
    "numbers-as-text": (
        {"id": range(40), "review": [text for text, _ in ROWS], "label": [label for _, label in ROWS]},
        {"text": "id"},
        "/dataset/columns/text",
        '40 of 40 rows have no text in the column "id": expected text, found the number 0, first data/rows.jsonl:1',
        'the column "review" looks like the text',
    ),
    "lists-as-label": (
        {"text": [text for text, _ in ROWS], "label": [["a"]] * 40, "mood": [label for _, label in ROWS]},
        {},
        "/dataset",
        '40 of 40 rows have no label in the column "label": expected a label, found a list, first data/rows.jsonl:1',
        'the column "mood" looks like the label; say which it is: "columns": {"label": "mood"}',
    ),
    "text-and-label-exchanged": (
        {"stars": [number % 5 for number in range(40)], "review": [text for text, _ in ROWS]},
        {"text": "stars", "label": "review"},
        "/dataset/columns/text",
        '40 of 40 rows have no text in the column "stars": expected text, found the number 0, first data/rows.jsonl:1',
        'the column "review" looks like the text',
    ),
    "fractions-as-label": (
        {"text": [text for text, _ in ROWS], "stars": [1, 1.5, 2, 3, 4] * 8},
        {"label": "stars"},
        "/dataset/columns/label",
        (
            '8 of 40 rows have no label in the column "stars": expected a label, found the number 1.5, '
            "first data/rows.jsonl:2"
        ),
        'the task "text-regression" reads such a column, as its target',
    ),
    "nothing-alike": (
        {"text": [None] * 21 + ["film"] * 19, "label": [label for _, label in ROWS]},
        {},
        "/dataset",
        '21 of 40 rows have no text in the column "text": expected text, found null, first data/rows.jsonl:1',
        'its columns: text, label; say which it is: "columns": {"text": ...}',
    ),
}


@pytest.mark.parametrize(("table", "columns", "pointer", "message", "hint"), WRONG_COLUMNS.values(), ids=WRONG_COLUMNS)
def test_a_column_that_is_bad_in_most_rows_is_one_finding_about_the_column(
    project, table, columns, pointer, message, hint
):
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    (project.root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = only_error(project.findings(dataset={"train": "data/rows.jsonl", "columns": columns}))
    assert (found.code, found.pointer, found.message, found.hint) == ("R313", pointer, message, hint)
    assert found.at.file == "recipe.json"


def test_a_column_that_is_bad_in_half_of_the_rows_is_listed_by_row(project):
    write_rows(project.root / "data" / "rows.jsonl", [("film", "pos"), (1, "pos"), ("dull film", "neg"), (2, "neg")])
    found = errors(project.findings())
    assert [(d.code, str(d.at)) for d in found] == [("R313", "data/rows.jsonl:2:1"), ("R313", "data/rows.jsonl:4:1")]


def test_a_bad_column_of_a_file_that_breaks_off_is_counted_up_to_there(project):
    with (project.root / "data" / "rows.jsonl").open("w") as file:
        file.write('{"text": 1, "label": "pos"}\n' * 200 + "{oops\n")
    found = errors(project.findings())
    assert [(d.code, d.message.partition(" have")[0]) for d in found if d.code == "R313"] == [
        ("R313", "200 of 200 rows")
    ]
    assert [d.at.line for d in found if d.code == "R305"] == [201]


def test_rows_of_a_file_that_two_splits_name_are_counted_once(project):
    write_rows(project.root / "data" / "rows.jsonl", [*ROWS, *[(None, "pos")] * 6])
    dataset = {"train": "data/rows.jsonl", "validation": None, "test": "data/rows.jsonl"}
    found = [d for d in project.findings(dataset=dataset) if d.code == "R313"]
    assert [d.at.line for d in found] == [41, 42, 43, 44, 45]
    assert found[-1].message.endswith("; 1 more row of the file is like this")


def test_a_bad_column_of_parquet_has_its_first_place_by_number(project):
    table = {"text": list(range(40)), "label": [label for _, label in ROWS]}
    pq.write_table(pa.table(table), project.root / "rows.parquet")
    assert only_error(project.findings(data="rows.parquet")).message.endswith("first rows.parquet row 0")


def test_a_lone_surrogate_is_no_text_and_no_label(project):
    write_rows(project.root / "data" / "rows.jsonl", [*ROWS, ("\ud800", "pos"), ("film", "\udfff")])
    found = errors(project.findings())
    assert [(d.code, d.at.line) for d in found] == [("R313", 41), ("R313", 42)]
    assert all("a lone surrogate" in d.message for d in found)


def test_a_text_of_more_than_ten_million_characters_is_refused(project):
    write_rows(project.root / "data" / "rows.jsonl", [*ROWS, ("x" * 10_000_001, "pos")])
    found = only_error(project.findings())
    assert (found.code, found.at.line) == ("R313", 41)
    assert "found 10,000,001" in found.message


def test_lengths_of_long_texts_are_counted_in_order(project, monkeypatch):
    monkeypatch.setattr("compiler.data.survey._CHARACTERS_AT_ONCE", 30)
    write_rows(project.root / "data" / "rows.jsonl", [("film " * n, "pos" if n % 2 else "neg") for n in range(1, 9)])
    dataset = {"train": "data/rows.jsonl", "validation": None, "test": None}
    [train] = project.gather(dataset=dataset).data.splits
    assert train.lengths == (0, 0, 0, *[1] * 8)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_number_of_thousands_of_digits_is_a_finding(project, name):
    row = '{"text": "film", "label": %s}' % ("9" * 5000)
    (project.root / name).write_text(row if name == "rows.jsonl" else f"[\n{row}]")
    found = only_error(project.findings(data=name))
    assert (found.code, found.at.line, "too many digits" in found.message) == ("R305", 2 - (name == "rows.jsonl"), True)


def test_an_empty_file_is_an_empty_split_and_nothing_else(project):
    write_rows(project.root / "empty.jsonl", [])
    dataset = {"train": "data/rows.jsonl", "test": "empty.jsonl"}
    found = only_error(project.findings(dataset=dataset))
    assert (found.code, found.pointer) == ("R306", "/dataset/test")


def test_an_empty_file_that_every_split_takes_rows_of_is_one_finding(project):
    write_rows(project.root / "data" / "rows.jsonl", [])
    found = only_error(project.findings())
    assert (found.code, found.pointer, found.message) == ("R306", "/dataset/train", "data/rows.jsonl has no rows")


def test_fractions_that_leave_train_none_are_named(project):
    write_rows(project.root / "data" / "rows.jsonl", ROWS[:2])
    dataset = {"train": "data/rows.jsonl", "validation": {"fraction": 0.5}, "test": {"fraction": 0.49}}
    found = only_error(project.findings(dataset=dataset))
    assert (found.code, found.pointer) == ("R306", "/dataset/train")


def test_two_columns_of_one_name_are_refused_in_parquet_too(project):
    text, label = [text for text, _ in ROWS], [label for _, label in ROWS]
    table = pa.Table.from_arrays([pa.array(text), pa.array(label), pa.array(label)], ["text", "label", "label"])
    pq.write_table(table, project.root / "rows.parquet")
    found = only_error(project.findings(data="rows.parquet"))
    assert (found.code, found.at.file) == ("R305", "rows.parquet")
    assert found.message == 'the column "label" stands twice'


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_that_a_row_has_twice_is_a_finding(project, name):
    good, twice = '{"text": "film", "label": "pos"}', '{"text": "film", "label": "pos", "label": "neg"}'
    (project.root / name).write_text(f"{good}\n{twice}" if name == "rows.jsonl" else f"[{good},\n{twice}]")
    found = only_error(project.findings(data=name))
    assert (found.code, found.at.line, 'key "label" stands twice' in found.message) == ("R305", 2, True)


def test_a_fraction_that_leaves_none_is_named(project):
    dataset = {"train": "data/rows.jsonl", "validation": {"fraction": 0.01}}
    found = only_error(project.findings(dataset=dataset))
    assert (found.code, found.pointer) == ("R306", "/dataset/validation/fraction")


def test_a_label_that_train_lacks_is_an_error_and_one_that_test_lacks_a_warning(project):
    write_rows(project.root / "test.jsonl", [("a film", "pos"), ("another", "mixed")])
    dataset = {"train": "data/rows.jsonl", "test": "test.jsonl"}
    found = [d for d in project.findings(dataset=dataset) if d.code == "R307"]
    assert [(d.severity, d.pointer) for d in found if '"mixed"' in d.message] == [("error", "/dataset/test")]
    assert [(d.severity, d.pointer) for d in found if '"neg"' in d.message] == [("warning", "/dataset/test")]


def test_nearly_as_many_labels_as_rows_are_one_finding(project):
    write_rows(project.root / "data" / "rows.jsonl", [(text, f"{text} {'x' * 100}") for text, _ in ROWS])
    found = only_error(project.findings())
    assert (found.code, found.pointer) == ("R317", "/dataset/columns/label")
    assert found.message == '40 labels for 40 rows: is "label" the right column?'


def test_numbers_as_labels_name_the_task_that_reads_numbers(project):
    write_rows(project.root / "data" / "rows.jsonl", [(text, n * n) for n, (text, _) in enumerate(ROWS)])
    found = only_error(project.findings())
    assert (found.code, found.hint) == ("R317", 'the task "text-regression" reads such a column, as its target')


def test_as_many_labels_as_are_declared_are_taken(project):
    write_rows(project.root / "data" / "rows.jsonl", [("good", "a"), ("bad", "b"), ("dull", "c"), ("fine", "d")])
    dataset = {"train": "data/rows.jsonl", "validation": None, "test": None}
    task = {"type": "text-classification", "labels": ["a", "b", "c", "d"]}
    assert project.gather(dataset=dataset, task=task).data.labels == ("a", "b", "c", "d")
    assert only_error(project.findings(dataset=dataset)).code == "R317"


def test_labels_in_messages_are_cut_at_40_characters(project):
    long = "l" * 100
    write_rows(project.root / "data" / "rows.jsonl", [*ROWS, ("film", long)])
    write_rows(project.root / "test.jsonl", [("a film", "pos")])
    dataset = {"train": "data/rows.jsonl", "validation": None, "test": "test.jsonl"}
    [found] = [d for d in project.gather(dataset=dataset).findings if d.code == "R307"]
    assert f'"{"l" * 40}…", "neg"' in found.message
    unknown = only_error(project.findings(task={"type": "text-classification", "labels": ["neg", "pos"]}))
    assert unknown.message.startswith(f'the label "{"l" * 40}…" is not declared')


def test_one_label_is_too_few(project):
    write_rows(project.root / "data" / "rows.jsonl", [(text, "pos") for text, _ in ROWS])
    assert only_error(project.findings()).code == "R308"


def test_a_declared_label_without_rows_is_an_error(project):
    task = {"type": "text-classification", "labels": ["neg", "pos", "mixed"]}
    found = only_error(project.findings(task=task))
    assert (found.code, found.pointer) == ("R308", "/task/labels/2")


def test_a_label_that_is_not_declared_is_named_with_the_nearest(project):
    write_rows(project.root / "data" / "rows.jsonl", [*ROWS, ("film", "poss"), ("film", "poss")])
    task = {"type": "text-classification", "labels": ["neg", "pos"]}
    found = only_error(project.findings(task=task))
    assert (found.code, found.pointer, found.hint) == ("R312", "/task/labels", 'did you mean "pos"?')
    assert "2 rows have it, first data/rows.jsonl:41" in found.message


def test_rows_over_max_length_are_counted(project):
    [found] = project.gather(training={"max_length": 4}).findings
    assert (found.code, found.severity) == ("R309", "warning")
    assert "40 of 40 rows (100.0%)" in found.message
    assert "the longest has 5" in found.message


def test_rows_over_the_length_that_auto_stands_for_are_counted(project):
    write_model(project.mirror / MODEL, {**BERT, "max_position_embeddings": 4})
    facts = project.gather()
    [found] = facts.findings
    assert (found.code, found.severity, found.pointer) == ("R309", "warning", "/training/max_length")
    assert "40 of 40 rows (100.0%) are cut at 4 tokens; the longest has 5" in found.message
    assert found.hint == "the model takes up to 4"
    assert auto_length(facts.model, facts.data).value == 4


def test_without_a_tokenizer_the_check_of_lengths_says_that_it_was_skipped(project):
    (project.mirror / MODEL / "tokenizer.json").unlink()
    facts = project.gather(training={"max_length": 4})
    assert [(d.code, d.severity) for d in facts.findings] == [("R310", "note")]
    assert facts.data.splits[0].lengths is None
    assert project.gather().findings == ()


def test_texts_that_stand_in_train_and_test_are_named_by_line(project):
    write_rows(project.root / "test.jsonl", [("new", "neg"), ("  GOOD film\t0", "pos"), ("bad film 1", "neg")])
    dataset = {"train": "data/rows.jsonl", "validation": None, "test": "test.jsonl"}
    facts = project.gather(dataset=dataset)
    [found] = [d for d in facts.findings if d.code == "R311"]
    assert (found.severity, str(found.at)) == ("warning", "test.jsonl:2:1")
    assert "test.jsonl:2 = data/rows.jsonl:1, test.jsonl:3 = data/rows.jsonl:7" in found.message
    assert [(overlap.split, overlap.num_rows) for overlap in facts.data.overlaps] == [("test", 2)]


def test_rows_of_a_file_without_lines_are_named_by_number(project):
    rows = [*ROWS, *ROWS[:2]]
    table = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    pq.write_table(pa.table(table), project.root / "rows.parquet")
    dataset = {"train": "rows.parquet", "validation": None, "test": None}
    [found] = project.gather(dataset=dataset).findings
    assert (found.code, str(found.at)) == ("R311", "rows.parquet:1:1")
    assert "rows.parquet row 40 = rows.parquet row 0, rows.parquet row 41 = rows.parquet row 1" in found.message
    task = {"type": "text-classification", "labels": ["pos", "other"]}
    assert "first rows.parquet row 1" in only_error(project.findings(dataset=dataset, task=task)).message


def test_texts_that_stand_twice_in_train_are_named(project):
    write_rows(project.root / "data" / "rows.jsonl", [*ROWS, *ROWS[:2]])
    dataset = {"train": "data/rows.jsonl", "validation": None, "test": None}
    [found] = project.gather(dataset=dataset).findings
    assert (found.code, found.at.line, "2 train rows repeat" in found.message) == ("R311", 41, True)


def test_texts_alike_but_for_case_and_spaces_have_one_digest():
    assert digest([" Good\n film"]) == digest(["good FILM"])
    assert digest(["good film"]) != digest(["goodfilm"])
    assert digest(["good", "film"]) != digest(["good film"])


def test_ten_thousand_rows_take_seconds_at_most(project):
    write_rows(
        project.root / "data" / "rows.jsonl", [(f"good film {n}", "pos" if n % 2 else "neg") for n in range(10_000)]
    )
    started = time.perf_counter()
    project.gather()
    assert time.perf_counter() - started < 20  # about half a second alone; the bound is for a loaded machine


def test_facts_import_no_framework(project):
    project.recipe()
    script = (
        "import sys; from pathlib import Path; from compiler.loading import load\n"
        "from compiler.facts import LocalFacts; from compiler.validate import validate\n"
        f"LocalFacts(mirror=Path({str(project.mirror)!r}), offline=True).gather(validate(load(Path('recipe.json'))))\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'onnxruntime', 'pyarrow'} & set(sys.modules)))"
    )
    code_folder = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": code_folder, "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


# --- checks that look at no file ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "pointer"),
    [
        ({"train": {"path": "a.csv", "name": "train"}, "id": "org/rows"}, "/dataset/train"),
        ({"train": {"rows": 5}}, "/dataset/train"),
        ({"train": {"fraction": 0.5}}, "/dataset/train/fraction"),
        ({"train": "a.csv", "test": {"name": "test"}}, "/dataset/test/name"),
        ({"train": "a.csv", "id": "org/rows"}, "/dataset/id"),
        ({"train": "a.csv", "validation": {"fraction": 0.6}, "test": {"fraction": 0.4}}, "/dataset"),
    ],
)
def test_a_split_has_one_source(project, dataset, pointer):
    [found] = check_split_kinds(project.recipe(dataset=dataset))
    assert (found.code, found.pointer) == ("R206", pointer)


# --- texts and labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "labels", "name"),
    [
        ("pos", None, "pos"),
        (3, None, "3"),
        (3.0, None, "3"),
        (True, None, "true"),
        (1, ("neg", "pos"), "pos"),
        (1.0, ("neg", "pos"), "pos"),
        ("1", ("neg", "pos"), "pos"),
        ("pos", ("neg", "pos"), "pos"),
        (1, ("1", "2"), "1"),  # a name before a number
        (False, ("false", "true"), "false"),
    ],
)
def test_a_label_is_a_name_or_counts_into_the_names(value, labels, name):
    assert label_of({"l": value}, "l", labels) == name


@pytest.mark.parametrize("value", [2, -1, "postive", True, "9" * 5000])
def test_a_label_outside_of_the_names_is_unknown(value):
    with pytest.raises(UnknownLabelError):
        label_of({"l": value}, "l", ("neg", "pos"))


@pytest.mark.parametrize("value", [None, "", 1.5, float("nan"), [], {}, "a\ud800"])
def test_what_is_no_label_is_refused(value):
    with pytest.raises(BadValueError):
        label_of({"l": value}, "l", None)


@pytest.mark.parametrize("values", [{}, {"t": None}, {"t": 3}, {"t": ["x"]}, {"t": "a\udfff"}])
def test_what_is_no_text_is_refused(values):
    with pytest.raises(BadValueError):
        text_of(values, "t")


def test_numeric_names_sort_by_value():
    assert label_names(["10", "9", "b", "-1", "a", "9"]) == ("-1", "9", "10", "a", "b")


# --- hashes ---------------------------------------------------------------------------------------


def settled(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def test_a_hash_is_remembered_until_the_file_changes(tmp_path):
    cache, path = tmp_path / "cache", settled(tmp_path / "file", "a")
    first = sha256_of(path, cache)
    assert first == hashlib.sha256(b"a").hexdigest()
    settled(path, "b")  # the same size and time: taken for the same file
    assert sha256_of(path, cache) == first
    path.write_text("b")
    assert sha256_of(path, cache) == hashlib.sha256(b"b").hexdigest()


def test_a_file_that_may_still_change_is_not_remembered(tmp_path):
    path = tmp_path / "file"
    path.write_text("a")
    sha256_of(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"file": 3}'])
def test_a_broken_cache_is_as_good_as_none(tmp_path, content):
    cache, path = tmp_path / "cache", settled(tmp_path / "file", "a")
    cache.mkdir()
    (cache / "hashes.json").write_text(content)
    assert sha256_of(path, cache) == sha256_of(path, cache) == hashlib.sha256(b"a").hexdigest()


def test_a_cache_that_can_not_be_written_is_as_good_as_none(tmp_path):
    path = settled(tmp_path / "file", "a")
    (tmp_path / "blocked").write_text("a file where the folder should be")
    assert sha256_of(path, tmp_path / "blocked") == hashlib.sha256(b"a").hexdigest()


def test_a_revision_of_a_folder_is_read_by_nothing(project):
    shutil.copytree(project.mirror / MODEL, project.root / "model")
    [found] = project.findings(model={"id": "./model", "revision": "main"})
    assert (found.code, found.pointer) == ("R202", "/model/revision")


def test_a_revision_that_a_mirror_cannot_tell_is_a_warning(project):
    found = project.gather(model={"id": MODEL, "revision": "main"}).findings
    assert [(d.code, d.severity) for d in found if d.pointer == "/model/revision"] == [("R202", "warning")]
