"""Precisions of exports: what each may cost, and the models that it is for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.diagnostics import RecipeError
from compiler.driver import compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load
from compiler.placement import parse_target
from compiler.plan import ExportModel, Package, Quantize, VerifyExport
from tests.handmade import MODEL, planned, resolved
from tests.small import write_without_framework

WRITES: dict[str, Any] = {"task": "text-generation", "metrics": ["perplexity"]}


def steps_of(*export: dict[str, Any]) -> dict[str, Any]:
    return {step.id: step for step in planned(export=[*export]).steps}


def test_a_graph_is_written_in_float32_and_then_rounded() -> None:
    steps = steps_of({"format": "onnx", "precision": "int8"})
    written, rounded, verified, packed = (steps[name] for name in ("export", "quantize", "verify", "package"))
    assert isinstance(written, ExportModel) and written.export.is_exact
    assert isinstance(rounded, Quantize) and rounded.inputs == ("export",)
    assert isinstance(verified, VerifyExport) and verified.inputs[-2:] == ("export", "quantize")
    assert verified.max_metric_drop == 0.02
    assert isinstance(packed, Package) and "quantize" in packed.inputs and "export" not in packed.inputs


def test_ranges_are_seen_on_prepared_rows() -> None:
    assert steps_of({"format": "onnx", "precision": "int8-static"})["quantize"].inputs == ("export", "prepare")


def test_what_may_be_lost_changes_the_gate_and_not_what_is_rounded() -> None:
    one = planned(export=[{"format": "onnx", "precision": "int4"}]).keys()
    other = planned(export=[{"format": "onnx", "precision": "int4", "max_metric_drop": 0.5}]).keys()
    assert {name for name in one if one[name] != other[name]} == {"verify", "package"}


@pytest.mark.parametrize(("precision", "drop"), [("fp32", 0.0), ("fp16", 0.01), ("int8-static", 0.02), ("int4", 0.1)])
def test_each_precision_has_an_allowance(precision: str, drop: float) -> None:
    assert steps_of({"format": "onnx", "precision": precision})["verify"].max_metric_drop == drop


def test_an_export_in_float32_has_the_key_that_it_had_before_there_were_others() -> None:
    written = steps_of({"format": "onnx", "precision": "fp32"})["export"]
    assert (
        planned(export=["onnx"]).keys()["export"]
        == planned(export=[{"format": "onnx", "precision": "fp32"}]).keys()["export"]
    )
    assert isinstance(written, ExportModel)


def test_more_rows_than_there_are_is_a_warning_and_all_are_taken(tmp_path: Path) -> None:
    def found(**changes: Any) -> list[tuple[str, str, str]]:
        write_without_framework(tmp_path / "case")
        recipe = json.loads((tmp_path / "case" / "r.json").read_text(encoding="utf-8"))
        export = {"format": "onnx", "precision": "int8-static", **changes}
        held_out = {**recipe["dataset"], "test": {"fraction": 0.1}}
        text = json.dumps({**recipe, "dataset": held_out, "export": [export]})
        (tmp_path / "case" / "r.json").write_text(text, encoding="utf-8")
        compiled = compile_recipe(load(tmp_path / "case" / "r.json"), LocalFacts(offline=True), parse_target("cpu"))
        shutil.rmtree(tmp_path / "case")
        return [(each.code, each.severity, each.message) for each in compiled.findings]

    [warned] = found(calibration_rows=10**9)
    assert warned[:2] == ("R254", "warning")
    assert warned[2].endswith("000 train rows, and there are 48")
    assert found(calibration_rows=48) == []
    assert found() == [], "nobody asked for the 128 rows that are usual"


def test_ranges_are_not_seen_of_what_writes_token_after_token() -> None:
    decoder = replace(MODEL, architecture="decoder")
    with pytest.raises(RecipeError) as caught:
        resolved(decoder, **WRITES, export=[{"format": "onnx", "precision": "int8-static"}])
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R245", "/export/0/precision")
    assert resolved(decoder, **WRITES, export=[{"format": "onnx", "precision": "int8"}]).exports
