"""What other clients read of a bundle, completed from what its model's files and its plan say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.generation import Generation
from runtimes.bundles.client_files import config, generation_config, image_processor, tokenizer_config
from runtimes.rows.tokens import Encoder, open_encoder
from tests.tiny import save_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer that puts [CLS] and [SEP] around a text."""
    save_tokenizer(tmp_path / "model", ("movie",))
    return tmp_path / "model"


def encoder(folder: Path) -> Encoder:
    return open_encoder(folder / "tokenizer.json", max_length=20, pad_id=0)


def written(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def test_special_tokens_are_named_as_the_tokenizer_uses_them(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    found = tokenizer_config(folder, encoder(folder), cuts=True, segments=False)
    assert found == {
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 20,
    }


def test_what_the_files_of_the_model_name_is_kept(folder: Path) -> None:
    kept = {"tokenizer_class": "AlbertTokenizer", "unk_token": {"__type": "AddedToken", "content": "movie"}}
    written(folder / "tokenizer_config.json", kept)
    written(folder / "special_tokens_map.json", {"mask_token": {"content": "[MASK]", "lstrip": True}})
    found = tokenizer_config(folder, encoder(folder), cuts=False, segments=True)
    assert found.items() >= kept.items()
    assert found["mask_token"] == "[MASK]"
    assert "model_max_length" not in found


@pytest.mark.parametrize("name", [None, "PreTrainedTokenizerFast", "TokenizersBackend", "RobertaTokenizer"])
def test_a_graph_that_tells_texts_apart_has_a_tokenizer_that_does(folder: Path, name: str | None) -> None:
    written(folder / "tokenizer_config.json", {"tokenizer_class": name})
    assert tokenizer_config(folder, encoder(folder), cuts=True, segments=True)["tokenizer_class"] == "BertTokenizer"


def test_a_chat_template_in_a_file_of_its_own_is_in_the_configuration_too(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    found = tokenizer_config(folder, encoder(folder), cuts=False, segments=False)
    assert found["chat_template"] == "{{ messages }}"


def test_generation_is_as_the_bundle_writes_and_what_it_does_not_do_is_off(tmp_path: Path) -> None:
    written(tmp_path / "config.json", {"forced_eos_token_id": 0, "decoder_start_token_id": 7, "min_length": 56})
    written(tmp_path / "generation_config.json", {"do_sample": True, "bos_token_id": 1, "repetition_penalty": 1.2})
    assert generation_config(tmp_path, Generation(max_new_tokens=9), (2, 5), 3) == {
        "bos_token_id": 1,
        "forced_eos_token_id": None,
        "min_length": 0,
        "repetition_penalty": 1.0,
        "decoder_start_token_id": 7,
        "eos_token_id": [2, 5],
        "pad_token_id": 3,
        "max_new_tokens": 9,
        "num_beams": 1,
        "do_sample": False,
    }


def test_drawing_is_told_with_its_limits(tmp_path: Path) -> None:
    written(tmp_path / "config.json", {})
    found = generation_config(tmp_path, Generation(temperature=0.5, top_p=0.9), (), 0)
    assert found.items() >= {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 0.9}.items()
    assert "eos_token_id" not in found


def test_an_image_processor_says_every_step(tmp_path: Path) -> None:
    config = {"image_processor_type": "ViTImageProcessor", "size": 8, "image_mean": [0.5], "image_std": [0.5]}
    written(tmp_path / "preprocessor_config.json", config)
    found = image_processor(tmp_path)
    assert found == {
        **config,
        "size": {"height": 8, "width": 8},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 2,
    }


def test_a_step_that_is_off_stays_off(tmp_path: Path) -> None:
    config = {"image_processor_type": "ViTImageProcessor", "size": 8, "do_normalize": False}
    written(tmp_path / "preprocessor_config.json", config)
    assert image_processor(tmp_path)["do_normalize"] is False


@pytest.mark.parametrize(("ends", "named"), [((), 2), ((0,), 0), ((3,), 3), ((2, 3), [2, 3])])
def test_the_configuration_names_the_ends_of_answers_and_what_is_opened(
    tmp_path: Path, ends: tuple[int, ...], named: Any
) -> None:
    written(tmp_path / "config.json", {"eos_token_id": 2, "pad_token_id": 0})
    assert config(tmp_path, ends, {}) == {"eos_token_id": named, "pad_token_id": 0}
    assert config(tmp_path, ends, {"dtype": "q4"})["transformers.js_config"] == {"dtype": "q4"}
