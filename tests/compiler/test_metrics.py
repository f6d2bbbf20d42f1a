from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler.checks import selectable
from compiler.metrics import (
    AUROC,
    BLEU,
    F1,
    LOWER_IS_BETTER,
    ROUGE,
    UNRANKED,
    Accuracy,
    ChrF,
    Distinct,
    EntityF1,
    JSONValidity,
    MeanLength,
    Metric,
    name_of,
)
from compiler.metrics.units import settled
from compiler.plan import Evaluate
from compiler.resolve import _selection_metric
from compiler.typed import members, read, tag, to_json
from tests.handmade import DATA, MODEL, planned
from tests.handmade import read as read_recipe

METRICS = [owner() for owner in members(Metric)]


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (Accuracy(), "accuracy"),
        (F1(average="micro"), "f1_micro"),
        (AUROC(), "auroc_macro"),
        (EntityF1(), "entity-f1_micro"),
        (ROUGE(), "rouge_l"),
        (ROUGE(variant="2"), "rouge_2"),
        (Distinct(n=3), "distinct_3"),
        (BLEU(tokenization="zh"), "bleu"),
        (JSONValidity(), "json-validity"),
        (JSONValidity(keys=("city", "zip")), "json-validity_city_zip"),
    ],
)
def test_a_name_says_what_was_chosen(metric: Metric, name: str) -> None:
    assert name_of(metric) == name


def test_no_two_metrics_have_a_name_or_a_word_in_common() -> None:
    assert len({name_of(metric) for metric in METRICS}) == len(METRICS)
    assert len({tag(type(metric)) for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_a_metric_is_read_back_from_its_json(metric: Metric) -> None:
    found: object = read(Metric, to_json(metric))  # type: ignore[arg-type]
    assert found == metric


def test_names_with_a_direction_are_names_of_metrics() -> None:
    names = {name_of(metric) for metric in METRICS}
    assert LOWER_IS_BETTER - {"loss"} <= names
    assert names >= UNRANKED
    assert not LOWER_IS_BETTER & UNRANKED


@pytest.mark.parametrize(
    ("metrics", "chosen"), [((MeanLength(), Accuracy()), "accuracy"), ((MeanLength(),), "loss"), ((F1(),), "f1_macro")]
)
def test_a_checkpoint_is_chosen_by_the_first_metric_that_has_a_better_side(metrics, chosen: str) -> None:
    recipe = replace(read_recipe(), metrics=metrics)
    assert _selection_metric(recipe, metrics) == chosen
    assert chosen in selectable(recipe)
    assert "mean-length" not in selectable(recipe)


@pytest.mark.parametrize(
    ("references", "said"),
    [
        (None, {}),
        ("13a", {"/metrics/0/tokenization": "13a"}),
        ("zh", {"/metrics/0/tokenization": "zh", "/metrics/2": "of characters", "/metrics/3": "of characters"}),
        ("char", {"/metrics/0/tokenization": "char", "/metrics/2": "of characters", "/metrics/3": "of characters"}),
    ],
)
def test_the_references_decide_what_bleu_counts_and_the_plan_says_it(references: Any, said: dict[str, str]) -> None:
    metrics: tuple[Metric, ...] = (BLEU(), ChrF(), ROUGE(), MeanLength(), BLEU(tokenization="13a"))
    found, choices = settled(metrics, references)
    assert {choice.pointer: choice.value for choice in choices} == said
    assert found == (BLEU(tokenization=references or "auto"), *metrics[1:])


def test_the_evaluation_counts_as_the_plan_says() -> None:
    decoder = replace(MODEL, model_type="llama", architecture="decoder", padding=None)
    data = replace(DATA, references="zh")
    plan = planned(decoder, data, task="text-generation", metrics=["bleu", "rouge"])
    evaluate = plan.step("evaluate")
    assert isinstance(evaluate, Evaluate)
    assert evaluate.metrics == (BLEU(tokenization="zh"), ROUGE())
    assert [choice.value for choice in plan.choices if choice.pointer.startswith("/metrics")] == ["zh", "of characters"]
