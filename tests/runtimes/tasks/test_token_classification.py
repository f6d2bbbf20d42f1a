"""Tags of words: where they stand among tokens, what is measured, and answers as transformers' pipeline gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.data.words import words_of
from compiler.metrics import EntityF1, EntityPrecision, EntityRecall, TokenAccuracy
from compiler.recipe import CrossEntropy
from compiler.tasks import Example, TokenClassification
from runtimes.rows.batches import collate
from runtimes.rows.features import IGNORED, Ragged
from runtimes.rows.tokens import Encoder, open_encoder
from runtimes.saved import SavedModel
from runtimes.tasks import token_classification as task
from runtimes.verification.comparison import encoded
from tests.tagged import TAGS, as_spans, tagged_rows
from tests.tiny import BAD, COMMON, GOOD, save_tokenizer

TASK = TokenClassification(labels=TAGS)
METRICS = (EntityF1(), EntityPrecision(), EntityRecall(), TokenAccuracy())
TEXT = "the plots, a great good filmy end!"
SPANS = [{"start": 13, "end": 23, "label": "praise"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "model"
    save_tokenizer(folder, (*COMMON, *GOOD, *BAD, ",", "!"))
    return folder


@pytest.fixture
def encoder(model: Path) -> Encoder:
    return open_encoder(model / "tokenizer.json", max_length=32)


def examples(rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    return [Example(row=row) for row in rows]


# --- rows -> arrays


def test_the_first_token_of_a_word_bears_its_tag(encoder: Encoder) -> None:
    table = encoded(TASK, examples([{"text": TEXT, "spans": SPANS}]), encoder)
    named = [encoder.tokenizer.id_to_token(number) for number in table.row(0)["input_ids"].tolist()]
    found = dict(enumerate(table.targets.row(0).tolist()))
    assert named[:9] == ["[CLS]", "the", "plot", "##s", ",", "a", "great", "good", "film"]
    assert [found[place] for place in range(9)] == [IGNORED, 0, 0, IGNORED, 0, 0, 3, 4, 0]
    assert found[9] == found[len(named) - 1] == IGNORED


def test_tokens_have_the_ids_and_places_that_the_tokenizer_gives_pretokenized_ones(encoder: Encoder) -> None:
    rows = tagged_rows(60)
    table = encoded(TASK, examples(rows), encoder)
    for number, row in enumerate(rows):
        encoding = encoder.tokenizer.encode(row["tokens"], is_pretokenized=True)
        firsts = [encoding.word_ids.index(word) for word in range(len(row["tokens"]))]
        assert table.row(number)["input_ids"].tolist() == encoding.ids
        assert np.flatnonzero(table.targets.row(number) != IGNORED).tolist() == firsts
        assert [TAGS[tag] for tag in table.targets.row(number)[firsts]] == row["tags"]


def test_both_kinds_of_rows_have_the_same_arrays(encoder: Encoder) -> None:
    rows = tagged_rows(20)
    one, other = (encoded(TASK, examples(each), encoder) for each in (rows, [as_spans(row) for row in rows]))
    for name in one.columns:
        assert one.arrays[name].tolist() == other.arrays[name].tolist()


def test_padding_and_probes_are_not_to_be_answered(encoder: Encoder) -> None:
    table = encoded(TASK, examples([task.probe_row("a movie was long"), *tagged_rows(1)]), encoder)
    batch = collate(table, np.asarray([0, 1]))
    assert set(batch.targets[0].tolist()) == {IGNORED}
    assert batch.positions.sum(axis=1).tolist() == table.lengths.tolist()
    assert (batch.targets[~batch.positions] == IGNORED).all()
    assert (batch.weights == (batch.targets != IGNORED)).all()


def test_words_that_the_cut_leaves_no_token_have_no_target(model: Path) -> None:
    cut = open_encoder(model / "tokenizer.json", max_length=6)
    [row] = [{"tokens": ["a", "plots", "was", "long"], "tags": ["O", "O", "B-praise", "I-praise"]}]
    portion = task.encode(TASK, examples([row]), cut)
    assert portion.truncated == 1
    assert portion.ragged["targets"][0].tolist() == [IGNORED, 0, 0, IGNORED, 3, IGNORED]
    outputs = np.eye(5, dtype=np.float32)[[0, 0, 0, 0, 3, 0]]
    assert task.answer(TASK, row, outputs, cut)["tags"] == ["O", "O", "B-praise", "O"]
    assert task.answer(TASK, row, outputs, cut)["read_to"] == 3
    assert task.answer(TASK, {"text": "a plots was long"}, outputs, cut)["read_to"] == 11
    assert "read_to" not in task.answer(TASK, {"text": "a plots was"}, outputs, cut)


@pytest.mark.parametrize(
    ("offsets", "places"),
    [
        ([(0, 0), (0, 2), (2, 5), (6, 8), (0, 0)], [1, 3]),
        ([(0, 5), (5, 8)], [0, 1]),  # a space in front of a word is its token's, as GPT-2 has it
        ([(0, 8)], [0, -1]),  # one token for two words is the first one's
        ([(0, 7), (7, 8)], [0, 1]),
        ([(0, 0)], [-1, -1]),
    ],
)
def test_a_word_is_answered_by_its_first_token(offsets: list[tuple[int, int]], places: list[int]) -> None:
    assert task.positions_of(words_of("hello yo"), offsets) == places


# --- measuring

TARGETS = Ragged.of([np.asarray(row) for row in ([IGNORED, 1, 2, IGNORED, 0], [3, 0])], np.empty(0, int))


def logits(decided: Sequence[int], high: float = 4.0) -> Any:
    return high * np.eye(5, dtype=np.float32)[np.asarray(decided)]


def test_metrics_count_words_and_whole_entities() -> None:
    outputs = Ragged(logits([3, 1, 2, 3, 0, 3, 3]), TARGETS.offsets)
    found = task.score(TASK, METRICS, TARGETS, outputs)
    assert found["token-accuracy"] == 4 / 5
    assert found["entity-precision_micro"] == 2 / 3
    assert found["entity-recall_micro"] == 1.0
    assert found["entity-f1_micro"] == pytest.approx(0.8)
    kinds = task.details(TASK, TARGETS, outputs)["entities"]
    assert kinds["blame"]["f1"] == 1.0
    assert kinds["praise"] == {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "entities": 1, "answered": 2}
    assert [line.split()[0] for line in task.detail_lines({"entities": kinds})] == ["precision", "blame", "praise"]


def test_an_entity_does_not_go_on_in_the_next_row() -> None:
    targets = Ragged.of([np.asarray([1]), np.asarray([2])], np.empty(0, int))
    kinds = task.details(TASK, targets, Ragged(logits([1, 2]), targets.offsets))["entities"]
    assert kinds["blame"]["entities"] == 2


def test_plain_tags_make_an_entity_as_long_as_they_stand_side_by_side() -> None:
    plain = TokenClassification(labels=("O", "x", "B"))
    targets = Ragged.of([np.asarray([1, 1, 2, 0, 1])], np.empty(0, int))
    outputs = Ragged(np.eye(3, dtype=np.float32)[[1, 1, 1, 0, 1]], targets.offsets)
    kinds = task.details(plain, targets, outputs)["entities"]
    assert (kinds["x"]["entities"], kinds["x"]["answered"], kinds["x"]["precision"]) == (2, 2, 0.5)
    assert kinds["B"]["entities"] == 1


def test_rows_without_a_word_measure_as_nothing() -> None:
    targets = Ragged.of([np.asarray([IGNORED, IGNORED])], np.empty(0, int))
    found = task.score(TASK, METRICS, targets, Ragged(logits([1, 1]), targets.offsets))
    assert set(found.values()) == {0.0}
    assert task.detail_lines(task.details(TASK, targets, Ragged(logits([1, 1]), targets.offsets))) == []


def test_the_loss_of_even_outputs_is_the_logarithm_of_the_number_of_tags() -> None:
    found = task.losses(CrossEntropy(), TASK, TARGETS.values, np.zeros((7, 5), np.float32))
    assert found.tolist() == pytest.approx([math.log(5) * (target != IGNORED) for target in TARGETS.values])


def test_weights_are_those_of_the_tags() -> None:
    loss = CrossEntropy(class_weights=dict(zip(TAGS, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True)))
    assert task.weights(TASK, loss, np.asarray([[0, 4, IGNORED], [1, IGNORED, IGNORED]])).tolist() == [
        [1.0, 5.0, 0.0],
        [2.0, 0.0, 0.0],
    ]


def test_the_baseline_is_the_commonest_tag_of_words() -> None:
    name, outputs = task.baseline(TASK, np.asarray([IGNORED, IGNORED, IGNORED, 4, 0, 4]), 2)
    assert (name, outputs.argmax(axis=1).tolist()) == ("majority", [4, 4])


def test_near_ties_settle_on_the_source() -> None:
    source, other = logits([1, 2]), logits([3, 4])
    assert task.settle(TASK, source, other, np.asarray([True, False]), 0.1).argmax(axis=1).tolist() == [1, 4]
    assert task.settle(TASK, source, other[:, :0], np.asarray([True, False]), 0.1).shape == (2, 0)


def test_what_is_decided_and_said_names_tags_and_entities(encoder: Encoder) -> None:
    outputs = logits([0, 0, 3, 4, 0], 3.0)
    assert task.decision(TASK, outputs) == "O O B-praise I-praise O"
    answer = task.answer(TASK, {"text": "a great bright"}, outputs, encoder)
    share = math.exp(3) / (math.exp(3) + 4)
    [found] = answer["spans"]
    assert found == {"label": "praise", "start": 2, "end": 14, "text": "great bright", "score": pytest.approx(share)}
    assert task.line(answer) == f"great bright (praise {share:.4f})"
    assert task.line({"spans": []}) == "nothing"
    answer = task.answer(TASK, {"tokens": ["a", "great", "bright"]}, outputs, encoder)
    assert (task.line(answer), len(answer["scores"])) == ("O B-praise I-praise", 3)


def test_a_bundle_whose_files_name_tags_otherwise_is_found() -> None:
    config = {"id2label": {str(number): name for number, name in enumerate(TAGS)}}
    assert task.name_faults(TASK, config) == (5, ())
    swapped = task.from_bundle(TASK, lambda _: [*reversed(TAGS)])
    assert len(task.name_faults(swapped, config)[1]) == 4
    files: Mapping[str, Any] = {"object": {}, "number": ["O", 3], "twice": ["O", "O"], "none": []}
    for wrong in files:
        with pytest.raises(ValueError, match=r"labels\.json"):
            task.from_bundle(TASK, lambda _, wrong=wrong: files[wrong])  # type: ignore[misc]


# --- an outside reader


def test_transformers_pipeline_answers_with_the_same_spans(model: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    texts = [str(as_spans(row)["text"]).replace(" ,", ",") + "!" for row in tagged_rows(100)]
    save_random_model(model)
    found, expected = answers_of(model, texts), pipeline_answers(model, texts)
    assert sum(map(len, expected)) > 100
    for ours, theirs in zip(found, expected, strict=True):
        assert [(s["label"], s["start"], s["end"]) for s in ours] == [
            (s["entity_group"], s["start"], s["end"]) for s in theirs
        ]
        assert [s["score"] for s in ours] == pytest.approx([s["score"] for s in theirs], abs=1e-5)


def save_random_model(folder: Path) -> None:
    """A random BERT whose tags differ from word to word."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForTokenClassification

    from runtimes.pytorch.quiet import quiet

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
        **task.head(TASK).config,
    )
    with quiet():
        BertForTokenClassification(config).save_pretrained(folder)


def answers_of(folder: Path, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Our spans of some texts."""
    from runtimes.pytorch.scores import torch_scores
    from runtimes.verification.comparison import outputs_of

    encoder = open_encoder(folder / "tokenizer.json", max_length=64)
    rows = [task.probe_row(text) for text in texts]
    table = encoded(TASK, [Example(row=row) for row in rows], encoder)
    outputs = outputs_of(torch_scores(SavedModel(folder), task.head(TASK)), table, np.arange(len(rows)), 8)
    return [task.answer(TASK, row, outputs.row(number), encoder)["spans"] for number, row in enumerate(rows)]


def pipeline_answers(folder: Path, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The spans that transformers finds."""
    from transformers import pipeline

    from runtimes.pytorch.quiet import quiet

    with quiet():
        read = pipeline("token-classification", model=str(folder), aggregation_strategy="first", device="cpu")
        return [read(text) for text in texts]
