"""The task that a model answers as it is, from its configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.facts import ModelFacts
from compiler.hub import SourceError
from compiler.tasks import TextClassification, TextRegression, TokenClassification
from compiler.tasks.own_head import answerable, answered_by, written_task


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    """An encoder with a classifier of two labels."""
    (tmp_path / "tokenizer.json").write_text("{}")
    return ModelFacts(
        id="m",
        revision=None,
        model_type="bert",
        architectures=("BertForSequenceClassification",),
        num_layers=2,
        hidden_size=4,
        vocab_size=8,
        max_positions=128,
        num_parameters=8,
        dtype="float32",
        shapes={},
        labels=("bad", "good"),
        files={},
        has_tokenizer=True,
        tokenizer_file=tmp_path / "tokenizer.json",
    )


def resolved(model: ModelFacts, asked: Any = None, **config: Any) -> Any:
    return answered_by(model, config, asked).task


def test_a_classifier_s_labels_are_its_own(model: ModelFacts) -> None:
    assert resolved(model) == TextClassification(labels=("bad", "good"), threshold=0.5)


def test_problem_type_tells_sets_of_labels_and_numbers_apart(model: ModelFacts) -> None:
    assert resolved(model, problem_type="multi_label_classification").multi_label
    several = resolved(model, problem_type="regression")
    assert several == TextRegression(targets=("bad", "good"), mean=0.0, deviation=1.0)


def test_one_output_is_a_number(model: ModelFacts) -> None:
    assert resolved(replace(model, labels=("LABEL_0",))) == TextRegression(mean=0.0, deviation=1.0)


def test_the_command_line_may_name_the_labels(model: ModelFacts) -> None:
    assert resolved(model, TextClassification(labels=("no", "yes"))).labels == ("no", "yes")
    with pytest.raises(SourceError, match="names 1 outputs, and the head of m has 2") as raised:
        resolved(model, TextClassification(labels=("no",)))
    assert raised.value.code == "R252"


def test_tags_are_those_of_the_head_for_tokens(model: ModelFacts) -> None:
    tagger = replace(model, architectures=("BertForTokenClassification",), labels=None, token_labels=("O", "B-X"))
    assert resolved(tagger) == TokenClassification(labels=("O", "B-X"))


@pytest.mark.parametrize(
    ("architecture", "kind", "found"),
    [
        ("BertForQuestionAnswering", "encoder", ("question-answering",)),
        ("BertForMaskedLM", "encoder", ("continued-pretraining",)),
        ("LlamaForCausalLM", "decoder", ("text-generation", "continued-pretraining")),
        ("GPT2LMHeadModel", "decoder", ("text-generation", "continued-pretraining")),
        ("MarianMTModel", "encoder-decoder", ("text-to-text", "translation", "summarization")),
        ("T5ForConditionalGeneration", "encoder-decoder", ("text-to-text", "translation", "summarization")),
        ("ViTForImageClassification", "vision", ("image-classification",)),
        ("BertModel", "encoder", ()),
    ],
)
def test_the_name_of_an_architecture_says_what_its_head_answers(
    model: ModelFacts, architecture: str, kind: Any, found: tuple[str, ...]
) -> None:
    assert answerable(replace(model, architectures=(architecture,), architecture=kind)) == found


def test_a_model_without_a_head_and_one_without_a_name_are_told_apart(model: ModelFacts) -> None:
    with pytest.raises(SourceError, match="its architecture is BertModel") as raised:
        resolved(replace(model, architectures=("BertModel",)))
    assert raised.value.code == "R252"
    with pytest.raises(SourceError, match="names no architecture") as raised:
        resolved(replace(model, architectures=()))
    assert raised.value.code == "R253"


def test_rows_are_as_long_as_tokenizer_and_positions_allow(model: ModelFacts, tmp_path: Path) -> None:
    assert answered_by(model, {}, None).max_length == 128
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    assert answered_by(model, {}, None).max_length == 64
    assert answered_by(model, {}, None, 100).max_length == 100
    with pytest.raises(SourceError, match="takes at most 128 tokens, --max-length is 200"):
        answered_by(model, {}, None, 200)


def test_a_tokenizer_s_settings_that_can_t_be_read_are_one_finding(model: ModelFacts, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(SourceError, match=r"tokenizer_config\.json is not JSON") as raised:
        answered_by(model, {}, None)
    assert raised.value.code == "R406"


def test_a_task_is_a_word_or_an_object(model: ModelFacts) -> None:
    assert written_task("text-classification") == TextClassification()
    assert written_task('{"type": "text-classification", "labels": ["a", "b"]}').labels == ("a", "b")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match='did you mean "text-regression"'):
        written_task("text-regresion")
    with pytest.raises(ValueError, match="has no key"):
        written_task('{"type": "text-classification", "label": []}')
