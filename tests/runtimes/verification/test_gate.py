# Axes: B = rows, C = classes

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compiler.typed import read
from runtimes.errors import GateError
from runtimes.verification.gate import (
    UNDECIDED,
    Edge,
    Scores,
    Unrun,
    Verification,
    compare_decisions,
    compare_each,
    compare_metrics,
    compare_outputs,
    margins,
    report_lines,
    require_passed,
)

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5))
FINITE = st.floats(-100, 100, width=32)
SCORES = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=FINITE))


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


@given(SCORES, st.data())
def test_the_place_of_the_largest_difference_is_the_one_that_was_moved(
    source_BC: np.ndarray, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(source_BC) - 1))
    column = data.draw(st.integers(0, source_BC.shape[1] - 1))
    other_BC = source_BC.copy()
    other_BC[row, column] += 8
    check = compare_outputs(source_BC, other_BC, tolerance=7.5)
    assert (check.passed, check.row, check.column) == (False, row, column)
    assert check.max_abs == pytest.approx(8, abs=1e-5)  # the sum rounds in float32


@given(SCORES)
def test_equal_outputs_pass_at_a_tolerance_of_zero(source_BC: np.ndarray) -> None:
    assert compare_outputs(source_BC, source_BC.copy(), 0.0).passed
    decisions = compare_decisions(source_BC, source_BC.copy(), 0.0, 0.0)
    assert (decisions.passed, decisions.agreement, decisions.excused) == (True, 1.0, ())


def test_a_difference_equal_to_the_tolerance_passes_and_the_next_one_fails() -> None:
    source, other = scores([0, 1]), scores([0, 1.5])
    assert compare_outputs(source, other, 0.5).passed
    assert not compare_outputs(source, other, float(np.nextafter(0.5, 0))).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["source", "other", "both"])
def test_a_value_that_is_not_finite_fails_at_any_tolerance(bad: float, side: str) -> None:
    good, broken = scores([1, 2], [3, 4]), scores([1, 2], [bad, 4])
    source = good if side == "other" else broken
    other = good if side == "source" else broken
    check = compare_outputs(source, other, 1e30, rows=[7, 9])
    assert (check.passed, check.max_abs, check.row, check.column) == (False, None, 9, 0)
    assert "row 9" in check.says()
    assert compare_decisions(source, other, 1e30, 1.0).disagreeing == (1,)
    json.dumps(Verification.of(Edge(source="a", target="b", checks=(check,))).to_json(), allow_nan=False)


def test_a_difference_counts_in_the_unit_of_its_output() -> None:
    source, other = scores([1, 1000], [2, 2000]), scores([1.5, 1001], [2, 2003])
    assert compare_outputs(source, other, 1.0).max_abs == 3.0
    check = compare_outputs(source, other, 0.1, units=(0.25, 1000.0))
    assert (check.passed, check.max_abs, check.row, check.column) == (False, 2.0, 0, 0)
    assert compare_outputs(source, other, 2.0, units=(0.25, 1000.0)).passed


def test_another_shape_and_no_rows_fail() -> None:
    assert "shape [1, 2]" in compare_outputs(scores([1, 2, 3]), scores([1, 2]), 1e30).says()
    nothing = np.empty((0, 2), np.float32)
    assert not compare_outputs(nothing, nothing, 1.0).passed
    assert not compare_decisions(nothing, nothing, 1.0, 1.0).passed


def test_differences_are_taken_in_float64_so_that_large_scores_do_not_hide_them() -> None:
    source, other = scores([2.0**24]), scores([-(2.0**24) - 2])
    assert compare_outputs(source, other, 1.0).max_abs == 2.0**25 + 2


@given(SCORES.filter(lambda scores_BC: scores_BC.shape[1] > 1))
def test_a_margin_is_the_best_score_above_the_next(scores_BC: np.ndarray) -> None:
    in_order = [sorted(map(float, row)) for row in scores_BC]
    assert margins(scores_BC).tolist() == [row[-1] - row[-2] for row in in_order]


def test_only_a_near_tie_of_the_source_is_excused() -> None:
    source = scores([1.0, 1.05], [1.05, 1.0], [0.0, 2.0], [3.0, 0.0])
    other = scores([1.06, 1.0], [1.05, 1.0], [2.0, 1.9], [3.0, 0.0])
    check = compare_decisions(source, other, tolerance=0.1, max_excused=0.5, rows=[10, 11, 12, 13])
    assert (check.excused, check.disagreeing, check.agreeing, check.agreement) == ((10,), (12,), 2, 0.5)
    assert not check.passed  # row 12 is near on the other side, not on the source's
    assert "differ: rows 12" in check.says()


def test_more_excused_rows_than_allowed_fail() -> None:
    source = np.tile(scores([1.0, 1.0]), (10, 1))
    other = source.copy()
    other[:2, 1] += 0.01  # the argmax of a tie is the first class
    assert compare_decisions(source, other, 0.1, max_excused=0.2).passed
    check = compare_decisions(source, other, 0.1, max_excused=0.19)
    assert (check.passed, check.disagreeing, len(check.excused)) == (False, (), 2)
    assert "more than 19.0%" in check.says()


@given(SCORES.filter(lambda scores_BC: scores_BC.shape[1] > 1), st.floats(0, 0.5, width=32), st.data())
def test_noise_below_half_the_tolerance_never_makes_an_unexcused_disagreement(
    source_BC: np.ndarray, bound: float, data: st.DataObject
) -> None:
    noise_BC = data.draw(arrays(np.float64, source_BC.shape, elements=st.floats(-bound, bound)))
    check = compare_decisions(source_BC, source_BC + noise_BC, 2 * bound + 1e-6, max_excused=1.0)
    assert check.disagreeing == ()


def test_one_class_is_always_decided_alike() -> None:
    assert compare_decisions(scores([1], [2]), scores([5], [0]), 1.0, 0.0).passed


@pytest.mark.parametrize(
    ("source", "other", "max_drop", "fallen"),
    [
        ({"accuracy": 0.9}, {"accuracy": 0.9}, 0.0, ()),
        ({"accuracy": 0.9}, {"accuracy": 0.95}, 0.0, ()),
        ({"accuracy": 0.9}, {"accuracy": 0.899}, 0.0, ("accuracy",)),
        ({"accuracy": 0.9}, {"accuracy": 0.89}, 0.01, ()),
        ({"accuracy": 0.9, "f1_macro": 0.8}, {"accuracy": 0.9}, 1.0, ("f1_macro",)),
        ({"accuracy": 0.9}, {"accuracy": float("nan")}, 1.0, ("accuracy",)),
        ({"loss": 0.5}, {"loss": 0.4}, 0.0, ()),
        ({"loss": 0.5}, {"loss": 0.6}, 0.05, ("loss",)),
        ({"matthews": -0.2}, {"matthews": -0.3}, 0.0, ("matthews",)),
        ({"perplexity": 9.0, "bleu": 30.0}, {"perplexity": 9.5, "bleu": 29.0}, 0.6, ("bleu",)),
        ({"mean-length": 9.0}, {"mean-length": 7.0}, 0.0, ()),
        ({"mean-length": 9.0}, {}, 0.0, ("mean-length",)),
    ],
)
def test_a_metric_may_fall_by_the_allowed_drop_and_no_more(
    source: dict[str, float], other: dict[str, float], max_drop: float, fallen: tuple[str, ...]
) -> None:
    check = compare_metrics(source, other, max_drop)
    assert (check.fallen, check.passed) == (fallen, not fallen)


def test_no_metric_and_no_thing_compared_fail() -> None:
    assert not compare_metrics({}, {"accuracy": 1.0}, 1.0).passed
    assert not compare_each([], 0, name="tokens").passed
    assert not Verification.of().passed
    assert not Verification.of(Edge(source="a", target="b", checks=())).passed


@pytest.fixture
def failed() -> Verification:
    good, bad = scores([0, 1]), scores([0, 3])
    return Verification.of(
        Edge(source="trained", target="merged", checks=(compare_outputs(good, good, 0.1),)),
        Edge(
            source="merged",
            target="onnx",
            checks=(
                compare_outputs(good, bad, 0.1),
                compare_decisions(good, bad, 0.1, 0.0),
                compare_metrics({"accuracy": 1.0}, {"accuracy": 0.5}, 0.0),
                compare_each(["row 3"], 4, name="tokens"),
            ),
        ),
    )


def test_the_first_failure_is_named_by_edge_and_check(failed: Verification) -> None:
    assert not failed.passed
    assert failed.first_failure == "merged -> onnx: outputs"
    with pytest.raises(GateError) as caught:
        require_passed(failed, code="E602", hint="look")
    assert (caught.value.code, caught.value.hint) == ("E602", "look")
    assert caught.value.message.startswith("merged -> onnx: outputs: max |Δ| 2 at row 0, column 1; 0.1 allowed")
    assert caught.value.message.endswith("(also merged -> onnx: metrics, merged -> onnx: tokens)")


def test_a_verification_is_read_back_from_its_json(failed: Verification) -> None:
    assert read(Verification, json.loads(json.dumps(failed.to_json(), allow_nan=False))) == failed


def test_the_report_has_a_line_for_each_check_and_a_verdict(failed: Verification) -> None:
    assert report_lines(failed) == [
        "ok    trained -> merged: outputs  max |Δ| 0 at row 0, column 0; 0.1 allowed; 1 rows",
        "FAIL  merged -> onnx: outputs     max |Δ| 2 at row 0, column 1; 0.1 allowed; 1 rows",
        "ok    merged -> onnx: decisions   1 of 1 rows decided alike, 0 near ties excused",
        "FAIL  merged -> onnx: metrics     accuracy 1.0000 -> 0.5000",
        "FAIL  merged -> onnx: tokens      row 3",
        "gate failed at merged -> onnx: outputs",
    ]


def test_a_passed_gate_says_so_and_raises_nothing() -> None:
    good = scores([0, 1])
    passed = Verification.of(Edge(source="a", target="b", checks=(compare_outputs(good, good, 0.0),)))
    require_passed(passed, code="E602")
    assert report_lines(passed)[-1] == "gate passed"


def test_positions_that_decide_nothing_on_both_sides_are_not_counted() -> None:
    def decide(scores_PC: Scores) -> tuple[np.ndarray, np.ndarray]:
        first = np.arange(len(scores_PC)) % 3 == 0
        return np.where(first, scores_PC.argmax(axis=1), UNDECIDED), np.where(first, 1.0, np.inf)

    source = np.eye(2)[[0, 0, 1, 1, 0, 0]]
    other = np.eye(2)[[0, 1, 0, 0, 1, 1]]
    found = compare_decisions(source, other, 2.0, 0.5, decide=decide, rows=[0, 0, 0, 1, 1, 1])
    assert (found.positions, found.agreeing, found.num_excused, found.passed) == (2, 1, 1, True)
    assert not compare_decisions(source, other, 2.0, 0.4, decide=decide).passed


def test_what_was_not_run_is_no_pass_and_no_failure() -> None:
    unrun = Unrun(name="outputs", reason="not run here: there is no such machine")
    passed, failed = compare_each((), 3, name="weights"), compare_each(("one",), 3, name="weights")
    undecided = Verification.of(Edge(source="traced", target="coreml", checks=(passed, unrun)))
    assert (undecided.passed, undecided.first_failure, [*undecided.failures()]) == (None, None, [])
    require_passed(undecided, code="E602")
    assert report_lines(undecided)[1] == "----  traced -> coreml: outputs  not run here: there is no such machine"
    assert report_lines(undecided)[-1].startswith("gate undecided: traced -> coreml: outputs could not be run here")
    assert read(Verification, json.loads(json.dumps(undecided.to_json()))) == undecided
    broken = Verification.of(Edge(source="traced", target="coreml", checks=(failed, unrun)))
    assert (broken.passed, broken.first_failure) == (False, "traced -> coreml: weights")
    with pytest.raises(GateError, match="weights"):
        require_passed(broken, code="E602")
