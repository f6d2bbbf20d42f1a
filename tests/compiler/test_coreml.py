"""Which recipes have a Core ML package, and what their plans say of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.diagnostics import RecipeError
from compiler.functions import Shapes
from compiler.plan import ExportModel, VerifyExport
from tests.handmade import MODEL, planned, resolved


def test_a_plan_writes_and_compares_a_package_and_makes_no_bundle_of_it() -> None:
    plan = planned(export=["coreml"])
    assert [step.step for step in plan.steps][-2:] == ["export", "verify"]
    export, verify = plan.steps[-2:]
    assert isinstance(export, ExportModel)
    assert isinstance(export.shapes, Shapes)
    assert isinstance(verify, VerifyExport)
    assert verify.max_metric_drop == 0
    [choice] = [choice for choice in plan.choices if choice.pointer == "/export/0"]
    assert choice.value == "proven on macOS"


def test_half_precision_may_lose_what_other_halves_may() -> None:
    verify = planned(export=[{"format": "coreml", "precision": "fp16"}]).step("verify")
    assert isinstance(verify, VerifyExport)
    assert verify.max_metric_drop == 0.01


def test_a_decoder_that_classifies_has_no_package() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(replace(MODEL, architecture="decoder", model_type="llama"), export=["coreml"])
    found = [found for found in caught.value.diagnostics if found.code == "R243"]
    assert [(one.pointer, "llama" in one.message) for one in found] == [("/export/0", True)]
