"""The plan: its text reads back, and a key holds what changes the result and nothing else."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import plan as plan_module
from compiler.document import MAX_INTEGER
from compiler.plan import File, Plan, Step, changed_steps, key_of
from compiler.typed import fields, members, records
from tests.handmade import planned

# What is outside of every key: names, places, and what is only shown.
NO_KEY = {
    *(
        (step, name)
        for step in ("Prepare", "Train", "Evaluate", "Merge", "ExportModel", "Quantize", "VerifyExport", "Package")
        for name in ("id", "inputs")
    ),
    *((step, name) for step in ("TrainTogether", "ExportTogether", "PackageTogether") for name in ("id", "inputs")),
    *((step, "stage") for step in ("Prepare", "Train", "Evaluate", "Merge")),
    *(("Train", name) for name in ("tuned", "metrics", "evaluate_every", "checkpoint_every")),
    *((method, "from_") for method in ("LoRA", "QLoRA", "DoRA", "IA3", "LayerNorm")),
    *(("ModelFiles", name) for name in ("id", "revision")),
    *(("SplitRows", name) for name in ("dataset", "revision")),
    ("File", "path"),
    ("Origin", "licence"),
}


def values(shape: Any) -> st.SearchStrategy[Any]:
    """Any value of a shape of compiler.typed."""
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping:
        return st.dictionaries(st.text(max_size=3), values(arguments[1]), max_size=2)
    if len(members(shape)) > 1:
        return st.one_of([values(member) for member in members(shape)])
    if records(shape):
        parts = {f.attribute: values(f.shape) for f in fields(shape)}
        return st.builds(shape, **({**parts, "path": parts["path"].map("./{}".format)} if shape is File else parts))
    plain = {
        bool: st.booleans(),
        int: st.integers(-MAX_INTEGER, MAX_INTEGER),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(max_size=4),
    }
    return plain.get(shape, st.none())


STEPS = values(Step)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan: steps of any kind in any order, each with any earlier steps as inputs."""
    names = [f"step-{number}" for number in range(draw(st.integers(0, 3)))]
    steps = []
    for number, name in enumerate(names):
        inputs = draw(st.lists(st.sampled_from(names[:number]), unique=True)) if number else []
        steps.append(dataclasses.replace(draw(STEPS), id=name, inputs=tuple(inputs)))
    any_plan: Plan = draw(values(Plan))
    return dataclasses.replace(any_plan, name="any", steps=tuple(steps))


def result_of(value: Any) -> Any:
    """A value without what NO_KEY lists, such that equal means equal results."""
    if dataclasses.is_dataclass(value):
        kept = [f.name for f in dataclasses.fields(value) if (type(value).__name__, f.name) not in NO_KEY]
        return type(value).__name__, [(name, result_of(getattr(value, name))) for name in kept]
    if isinstance(value, tuple):
        return [result_of(item) for item in value]
    if isinstance(value, Mapping):
        return {key: result_of(item) for key, item in value.items()}
    return type(value), repr(value)  # 0.0 and -0.0, 1 and True are told apart


@given(plans())
def test_a_plan_survives_being_a_text(plan: Plan) -> None:
    back = Plan.from_json(json.loads(plan.text()))
    assert back == plan
    assert back.text() == plan.text()


@settings(max_examples=300)
@given(STEPS, st.data())
def test_a_key_changes_if_and_only_if_a_field_that_changes_the_result_does(step: Any, data: st.DataObject) -> None:
    changed = data.draw(st.sampled_from(fields(type(step))))
    other = dataclasses.replace(step, **{changed.attribute: data.draw(values(changed.shape))})
    assert (key_of(step, ()) == key_of(other, ())) is (result_of(step) == result_of(other))


@given(STEPS, STEPS)
def test_two_steps_share_a_key_only_if_they_share_the_result(one: Any, other: Any) -> None:
    assert (key_of(one, ()) == key_of(other, ())) is (result_of(one) == result_of(other))


@given(STEPS, st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_a_key_depends_on_the_keys_of_the_inputs_in_order(step: Any, one: list[str], other: list[str]) -> None:
    assert (key_of(step, tuple(one)) == key_of(step, tuple(other))) is (one == other)


@pytest.mark.parametrize("kind", sorted(kind for kind in plan_module.SEMANTICS if not kind.endswith("-together")))
def test_another_meaning_of_a_kind_of_step_is_another_key(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(method="lora", export=[{"format": "onnx", "precision": "int8"}])
    before = plan.keys()
    monkeypatch.setattr(plan_module, "SEMANTICS", {**plan_module.SEMANTICS, kind: 99})
    after = plan.keys()
    [step] = [step for step in plan.steps if step.step == kind]
    assert before[step.id] != after[step.id]
    assert before[plan.steps[0].id] == after[plan.steps[0].id] or kind == "prepare"


def leaves(value: Any, without: Collection[str] = ()) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys that has no container; not what is called `without`."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if key in without:
            continue
        if isinstance(item, (dict, list)):
            yield from leaves(item, without)
        else:
            yield value, key


def test_a_plan_whose_keyed_parameters_were_edited_is_refused() -> None:
    written = json.loads(planned(method="lora", export=["onnx"]).text())
    names = {name for _, name in NO_KEY} - {"metrics"}
    edited = 0
    for number in range(len(list(leaves(written["steps"], names)))):
        value = copy.deepcopy(written)
        container, key = list(leaves(value["steps"], names))[number]
        if isinstance(container, list) or container.get("type") in ("accuracy", "f1"):
            continue
        container[key] = {bool: lambda v: not v, str: lambda v: f"{v}x", type(None): lambda _: "x"}.get(
            type(container[key]), lambda v: v + 1
        )(container[key])
        edited += 1
        with pytest.raises(ValueError, match=r"\w"):
            Plan.from_json(value)
    assert edited > 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["steps"][1].update(epochs=9), "the step train is not that of its parameters: the plan was edited"),
        (lambda p: p["steps"][0].pop("key"), "the step prepare is not that of its parameters"),
        (lambda p: p["steps"].append(p["steps"][0]), "prepare stands twice"),
        (lambda p: p["steps"].pop(0), "the step train needs prepare before it"),
        (lambda p: p["steps"].reverse(), "needs .* before it"),
        (lambda p: p.update(name="../up"), '"../up" is not a name'),
        (lambda p: p["steps"][0].update(id="a/b"), '"a/b" is not a name'),
        (lambda p: p.update(plan=2), "plan of the plan is 2, expected 1"),
        (lambda p: p.pop("target"), 'the plan needs "target"'),
        (lambda p: p.update(extra=1), 'the plan has no key "extra"'),
        (
            lambda p: p["steps"][0].update(step="cook"),
            'the step prepare has the step "cook", expected one of prepare, ',
        ),
        (lambda p: p["steps"][0].pop("step"), 'the step prepare needs the key "step", expected one of prepare, train'),
        (lambda p: p["steps"][1].update(foo=1, bar=2), 'the step train has no key "bar", "foo"$'),
        (lambda p: p["steps"][1].update(foo=p["steps"][1].pop("seed")), 'train has no key "foo", and needs "seed"$'),
        (lambda p: p["steps"][0]["splits"][0]["files"][0].update(path="/etc/rows.jsonl"), "is an absolute path"),
        (lambda p: p["steps"][0]["splits"][0]["files"][0].update(path="C:\\rows.jsonl"), "is an absolute path"),
        (
            lambda p: p["steps"][1].update(learning_rate="fast"),
            'learning_rate of the step train is "fast", expected a number',
        ),
        (
            lambda p: p["steps"][1].update(learning_rate=10**400),
            "learning_rate of the step train is too large a number",
        ),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(change: Any, message: str) -> None:
    value = planned().to_json()
    change(value)
    with pytest.raises(ValueError, match=message):
        Plan.from_json(value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["steps", "step", "id", "key", "name"]), inner)
    ),
    max_leaves=8,
)


@given(JSON_VALUES, st.data())
def test_any_json_value_is_a_plan_or_a_value_error(value: Any, data: st.DataObject) -> None:
    written = planned(export=["onnx"]).to_json()
    container, key = data.draw(st.sampled_from(list(leaves(written))))
    container[key] = value
    for candidate in (value, {"steps": value}, {"steps": [value]}, written):
        with contextlib.suppress(ValueError):
            assert isinstance(Plan.from_json(candidate), Plan)


def test_unequal_plans_say_what_would_be_done_again_and_why() -> None:
    before, after = planned(export=["onnx"]), planned(export=["onnx"], training={"epochs": 4, "seed": 1})
    changed = dict(changed_steps(before, after))
    assert changed.pop("package").startswith("input train")
    assert changed == {
        "train": "epochs, num_steps, schedule, seed",
        "evaluate": "input train",
        "export": "input train",
        "verify": "input train, input export",
    }


def test_adding_an_export_does_nothing_else_again() -> None:
    assert [name for name, why in changed_steps(planned(), planned(export=["onnx"]))] == ["export", "verify", "package"]
    assert {why for _, why in changed_steps(planned(), planned(export=["onnx"]))} == {"new"}


def test_equal_plans_have_nothing_to_do_again() -> None:
    assert list(changed_steps(planned(), planned())) == []


def test_a_step_is_found_by_its_id() -> None:
    assert planned().step("train").step == "train"
