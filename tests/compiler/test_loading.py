"""Files -> Document: extends, and what the command line sets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.diagnostics import Diagnostic, Place, RecipeError
from compiler.document import Document
from compiler.loading import load, load_text, set_value
from compiler.reading import read_several

Write = Callable[[str, object], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function that writes a JSON file below a working folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def write_json(name: str, value: object) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return write_json


def merged(write: Write, base: object, over: dict[str, object]) -> Any:
    write("base.json", base)
    return load(write("r.json", {"extends": "base.json", **over})).root.plain()


def findings(call: Callable[[], Document]) -> tuple[Diagnostic, ...]:
    with pytest.raises(RecipeError) as caught:
        call()
    return caught.value.diagnostics


def with_set(value: object, *overrides: str) -> Any:
    document = load_text(json.dumps(value), "r.json")
    for override in overrides:
        document = set_value(document, override)
    return document.root.plain()


# extends


def test_objects_merge_key_by_key(write: Write) -> None:
    base = {"training": {"epochs": 3, "seed": 1}, "name": "base"}
    assert merged(write, base, {"training": {"seed": 2}}) == {"training": {"epochs": 3, "seed": 2}, "name": "base"}


def test_arrays_replace(write: Write) -> None:
    assert merged(write, {"metrics": ["accuracy", "f1"]}, {"metrics": ["recall"]}) == {"metrics": [{"type": "recall"}]}


def test_null_replaces(write: Write) -> None:
    assert merged(write, {"dataset": {"test": {"fraction": 0.1}}}, {"dataset": {"test": None}}) == {
        "dataset": {"test": None}
    }


def test_the_same_tag_merges(write: Write) -> None:
    over: dict[str, object] = {"method": {"type": "lora", "alpha": 32}}
    assert merged(write, {"method": {"type": "lora", "rank": 4}}, over) == {
        "method": {"type": "lora", "rank": 4, "alpha": 32}
    }


def test_shorthand_for_the_same_tag_merges(write: Write) -> None:
    base = {"method": {"type": "lora", "rank": 4}}
    assert merged(write, base, {"method": "lora"}) == base


def test_another_tag_replaces_the_object(write: Write) -> None:
    assert merged(write, {"method": {"type": "lora", "rank": 4}}, {"method": "head"}) == {"method": {"type": "head"}}


def test_an_object_without_a_tag_merges_into_the_tagged_one(write: Write) -> None:
    over: dict[str, object] = {"method": {"rank": 16}}
    assert merged(write, {"method": "lora"}, over) == {"method": {"type": "lora", "rank": 16}}


BASE_OF_SEVERAL: dict[str, Any] = {
    "recipe": 1,
    "name": "several",
    "model": "m",
    "task": {
        "type": "multi-task",
        "sampling": {"type": "temperature", "temperature": 3},
        "tasks": {
            "a": {"task": "text-classification", "dataset": {"train": {"path": "a.jsonl", "rows": 9}}, "loss": "focal"},
            "b": {"task": "text-regression", "dataset": {"train": "b.jsonl"}},
        },
    },
}


@pytest.mark.parametrize(
    ("over", "pointer", "expected"),
    [
        ({"tasks": {"a": {"metrics": ["accuracy"]}}}, "/tasks/a/metrics", [{"type": "accuracy"}]),
        ({"tasks": {"a": {"loss": "focal"}}}, "/tasks/a/loss", {"type": "focal"}),
        ({"tasks": {"b": {"loss": "mae"}}}, "/tasks/b/loss", {"type": "mae"}),
        ({"tasks": {"b": {"task": "text-classification"}}}, "/tasks/b/task", {"type": "text-classification"}),
        ({"sampling": "round-robin"}, "/sampling", {"type": "round-robin"}),
        ({"sampling": "temperature"}, "/sampling", {"type": "temperature", "temperature": 3}),
        ({"loss_weights": "uncertainty"}, "/loss_weights", {"type": "uncertainty"}),
        ({"tasks": {"a": {"dataset": {"train": "c.jsonl"}}}}, "/tasks/a/dataset/train", {"path": "c.jsonl", "rows": 9}),
        ({"tasks": {"a": {"dataset": {"test": "t.jsonl"}}}}, "/tasks/a/dataset/test", {"path": "t.jsonl"}),
    ],
)
def test_shorthand_in_a_task_of_several_is_written_out_before_it_is_merged(
    write: Write, over: dict[str, Any], pointer: str, expected: object
) -> None:
    """The type, without which it is a recipe of several tasks nowhere, stands in the other file: base or extension."""
    kind = {"type": "multi-task"}
    part = {**BASE_OF_SEVERAL, "task": {key: value for key, value in BASE_OF_SEVERAL["task"].items() if key != "type"}}
    for base, child in ((BASE_OF_SEVERAL, over), (part, kind | over)):
        write("base.json", base)
        document = load(write("r.json", {"extends": "base.json", "task": child}))
        found = document.find(f"/task{pointer}")
        assert found is not None
        assert found.plain() == expected
        assert read_several(document).name == "several"


def test_shorthand_in_a_task_without_its_type_is_written_out(write: Write) -> None:
    base = {"task": {"type": "text-generation", "template": {"name": "chatml", "variables": {"a": "b"}}}}
    assert merged(write, base, {"task": {"template": "model"}}) == {
        "task": {"type": "text-generation", "template": {"name": "model", "variables": {"a": "b"}}}
    }


def test_a_tag_on_an_object_without_one_keeps_its_keys_so_that_none_is_lost_silently(write: Write) -> None:
    assert merged(write, {"method": {"rank": 4}}, {"method": "head"}) == {"method": {"rank": 4, "type": "head"}}


@pytest.mark.parametrize(
    ("base", "over"),
    [
        ({"fraction": 0.1, "stratify": False}, {"path": "test.jsonl"}),
        ({"path": "test.jsonl", "rows": 5}, {"fraction": 0.2}),
        ({"name": "test", "seed": 1}, {"path": "test.jsonl"}),
    ],
)
def test_a_split_of_another_kind_replaces_the_split(write: Write, base: object, over: object) -> None:
    assert merged(write, {"dataset": {"test": base}}, {"dataset": {"test": over}}) == {"dataset": {"test": over}}


def test_a_split_of_the_same_kind_merges(write: Write) -> None:
    base, over = {"path": "a.jsonl", "rows": 5}, {"path": "b.jsonl"}
    assert merged(write, {"dataset": {"test": base}}, {"dataset": {"test": over}}) == {
        "dataset": {"test": {"path": "b.jsonl", "rows": 5}}
    }


@pytest.mark.parametrize(("first", "second"), [("epochs", "max_steps"), ("max_steps", "epochs")])
def test_max_steps_and_epochs_take_each_other_s_place(write: Write, first: str, second: str) -> None:
    over: dict[str, object] = {"training": {second: 10}}
    assert merged(write, {"training": {first: 3, "seed": 1}}, over) == {"training": {"seed": 1, second: 10}}


def test_names_of_an_author_s_mapping_are_no_tags(write: Write) -> None:
    def weights(value: dict[str, int]) -> dict[str, object]:
        return {"training": {"loss": {"type": "cross-entropy", "class_weights": value}}}

    found = merged(write, weights({"type": 1, "name": 2, "epochs": 3}), weights({"type": 4, "path": 5, "max_steps": 6}))
    assert found == weights({"type": 4, "name": 2, "epochs": 3, "path": 5, "max_steps": 6})


def test_later_bases_stand_on_earlier_ones(write: Write) -> None:
    write("a.json", {"name": "a", "training": {"seed": 1, "epochs": 1}})
    write("b.json", {"name": "b", "training": {"seed": 2}})
    path = write("r.json", {"extends": ["a.json", "b.json"], "description": "r"})
    assert load(path).root.plain() == {"name": "b", "training": {"seed": 2, "epochs": 1}, "description": "r"}


def test_a_base_can_extend_another(write: Write) -> None:
    write("deep/base.json", {"name": "base", "model": "m"})
    write("deep/middle.json", {"extends": "base.json", "name": "middle"})
    path = write("r.json", {"extends": "deep/middle.json", "description": "r"})
    assert load(path).root.plain() == {"name": "middle", "model": {"id": "m"}, "description": "r"}


def test_a_base_may_be_reached_on_two_ways(write: Write) -> None:
    write("base.json", {"name": "base"})
    write("a.json", {"extends": "base.json"})
    write("b.json", {"extends": "base.json"})
    assert load(write("r.json", {"extends": ["a.json", "b.json"]})).root.plain() == {"name": "base"}


def test_extends_of_an_empty_list_changes_nothing(write: Write) -> None:
    assert load(write("r.json", {"extends": [], "name": "r"})).root.plain() == {"name": "r"}


def test_a_value_keeps_the_place_and_the_folder_of_the_file_that_wrote_it(write: Write, tmp_path: Path) -> None:
    write("deep/base.json", '{"dataset":\n {"train": "rows.jsonl"}}')
    document = load(write("r.json", '{"extends": "deep/base.json",\n "model": "m"}'))
    train = document.find("/dataset/train/path")
    assert train is not None
    assert train.at == Place(file="deep/base.json", line=2, column=12)
    assert train.folder == str(tmp_path / "deep")
    model = document.find("/model/id")
    assert model is not None
    assert model.at == Place(file="r.json", line=2, column=11)
    assert model.folder == str(tmp_path)


def test_the_order_of_keys_is_irrelevant(write: Write) -> None:
    base = {"name": "base", "method": {"type": "lora", "rank": 4}, "training": {"epochs": 3}}
    over: dict[str, object] = {
        "method": {"alpha": 8, "type": "lora"},
        "training": {"max_steps": 5},
        "extends": "base.json",
    }
    write("base.json", base)
    results = []
    for number, keys in enumerate(itertools.permutations(over)):
        results.append(load(write(f"r{number}.json", {key: over[key] for key in keys})).root.plain())
    assert all(result == results[0] for result in results)


def test_a_circle_of_links_is_a_finding(write: Write, tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to("loop.json")
    [found] = findings(lambda: load(write("r.json", {"extends": "loop.json"})))
    assert found.code == "R006"


def test_a_base_outside_of_the_project_is_refused_unless_its_folder_is_allowed(write: Write, tmp_path: Path) -> None:
    write("project/.git", "gitdir: elsewhere")
    write("shared/base.json", {"extends": "deep.json", "name": "base"})
    write("shared/deep.json", {"description": "deep"})
    path = write("project/recipes/r.json", {"extends": "../../shared/base.json"})
    (tmp_path / "project" / "link.json").symlink_to(tmp_path / "shared" / "base.json")
    linked = write("project/linked.json", {"extends": ["link.json"]})
    for recipe, pointer in ((path, "/extends"), (linked, "/extends/0")):
        [found] = findings(lambda recipe=recipe: load(recipe))  # type: ignore[misc]
        assert (found.code, found.pointer) == ("R302", pointer)
    assert "--allow" in found.hint
    assert load(path, allowed=(tmp_path / "shared",)).root.plain() == {"name": "base", "description": "deep"}


def test_a_base_beside_the_recipe_s_folder_is_inside_of_the_project(write: Write) -> None:
    write("project/.git/HEAD", "")
    write("project/base.json", {"name": "base"})
    assert load(write("project/recipes/r.json", {"extends": "../base.json"})).root.plain() == {"name": "base"}


def test_a_circle_through_a_link_is_found(write: Write, tmp_path: Path) -> None:
    path = write("r.json", {"extends": "link.json"})
    (tmp_path / "link.json").symlink_to("r.json")
    [found] = findings(lambda: load(path))
    assert found.code == "R007"


def test_a_recipe_that_is_not_there_is_a_finding(write: Write) -> None:
    [found] = findings(lambda: load(Path("missing.json")))
    assert (found.code, found.at.file) == ("R006", "missing.json")


def test_a_folder_is_no_recipe(write: Write, tmp_path: Path) -> None:
    [found] = findings(lambda: load(tmp_path))
    assert found.code == "R006"


def test_a_recipe_in_another_folder_is_shown_by_its_whole_path(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("r.json", "[")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    [found] = findings(lambda: load(tmp_path / path))
    assert found.at.file == (tmp_path / path).as_posix()


def test_a_recipe_that_is_only_a_text_can_t_extend_another() -> None:
    [found] = findings(lambda: load_text('{"extends": "base.json"}', "r.json"))
    assert (found.code, found.pointer) == ("R006", "/extends")


# --set


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("/training/epochs=1", {"training": {"epochs": 1}}),
        ("/training/learning_rate=3e-4", {"training": {"learning_rate": 3e-4}}),
        ("/name=movie", {"name": "movie"}),
        ('/name="movie"', {"name": "movie"}),
        ("/name=a=b", {"name": "a=b"}),
        ("/name=", {"name": ""}),
        ("/dataset/test=null", {"dataset": {"test": None}}),
        ("/method=head", {"method": {"type": "head"}}),
        ('/method={"type": "lora", "rank": 4}', {"method": {"type": "lora", "rank": 4}}),
        ("/method/rank=4", {"method": {"rank": 4}}),
        ("/model=org/model", {"model": {"id": "org/model"}}),
        ("/dataset/train=a.jsonl", {"dataset": {"train": {"path": "a.jsonl"}}}),
        ('/metrics=["f1"]', {"metrics": [{"type": "f1"}]}),
        ("/a~1b/c~0d=1", {"a/b": {"c~d": 1}}),
    ],
)
def test_an_override_sets_what_was_not_there(override: str, expected: object) -> None:
    assert with_set({}, override) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("/method=lora", {"type": "lora", "rank": 4}),
        ("/method/rank=16", {"type": "lora", "rank": 16}),
        ("/method=head", {"type": "head"}),
        ("/method/type=head", {"type": "head"}),
        ('/method={"alpha": 1}', {"type": "lora", "rank": 4, "alpha": 1}),
        ("/method=null", None),
    ],
)
def test_an_override_merges_as_a_recipe_that_extends_this_one(override: str, expected: object) -> None:
    assert with_set({"method": {"type": "lora", "rank": 4}}, override) == {"method": expected}


def test_an_override_equals_extending(write: Write) -> None:
    base: dict[str, object] = {"training": {"epochs": 3, "seed": 1}, "dataset": {"test": {"fraction": 0.1, "seed": 2}}}
    over: dict[str, object] = {"training": {"max_steps": 9}, "dataset": {"test": "t.jsonl"}}
    assert merged(write, base, over) == with_set(base, "/training/max_steps=9", "/dataset/test=t.jsonl")


def test_later_overrides_win() -> None:
    assert with_set({}, "/training/seed=1", "/training/seed=2") == {"training": {"seed": 2}}


def test_an_override_can_enter_what_was_null() -> None:
    assert with_set({"dataset": {"test": None}}, "/dataset/test/fraction=0.2") == {
        "dataset": {"test": {"fraction": 0.2}}
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("/metrics/0=recall", [{"type": "recall"}, {"type": "f1", "average": "micro"}]),
        ("/metrics/1/average=macro", [{"type": "accuracy"}, {"type": "f1", "average": "macro"}]),
        ("/metrics/1/type=recall", [{"type": "accuracy"}, {"type": "recall"}]),
        ("/metrics/1=f1", [{"type": "accuracy"}, {"type": "f1"}]),
        ("/metrics/-=recall", [{"type": "accuracy"}, {"type": "f1", "average": "micro"}, {"type": "recall"}]),
        ("/metrics/-/type=recall", [{"type": "accuracy"}, {"type": "f1", "average": "micro"}, {"type": "recall"}]),
        ("/metrics=[]", []),
    ],
)
def test_an_override_reaches_into_lists(override: str, expected: object) -> None:
    assert with_set({"metrics": ["accuracy", {"type": "f1", "average": "micro"}]}, override) == {"metrics": expected}


@pytest.mark.parametrize(
    "override",
    [
        "",
        "training/epochs=1",
        "/training/epochs",
        "=1",
        "/name/first=x",
        "/metrics/1=f1",
        "/metrics/x=f1",
        "/metrics/-1=f1",
        "/metrics/01=f1",
        f"/metrics/{'9' * 5000}=f1",
        "/" + "a/" * 1000 + "a=1",
        '/method={"type": "lora"',
        "/metrics=[f1]",
        '/training={"seed": 1, "seed": 2}',
        '/name="\\ud800"',
        "/name=\udcff",
        "/name=\x1b[31m",
        "/\udcff=1",
    ],
    ids=lambda override: ascii(override)[:40],
)
def test_a_bad_override_is_a_finding_with_its_place(override: str) -> None:
    [found] = findings(lambda: set_value(load_text('{"name": "a", "metrics": ["accuracy"]}', "r.json"), override))
    assert found.code == "R008"
    assert found.at.file == f"--set {override}"
    assert 1 <= found.at.column <= len(found.at.file) + 1
    assert found.hint


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("/export/-=onnx", {"export": [{"format": "onnx"}]}),
        ('/export/-={"format": "onnx", "opset": 20}', {"export": [{"format": "onnx", "opset": 20}]}),
        ("/method/target_modules/-=query", {"method": {"type": "lora", "target_modules": ["query"]}}),
        ("/metrics/-=matthews", {"metrics": [{"type": "accuracy"}, {"type": "f1"}, {"type": "matthews"}]}),
        ("/metrics/1/average=micro", {"metrics": [{"type": "accuracy"}, {"type": "f1", "average": "micro"}]}),
        ("/task/labels/-=good", {"task": {"type": "text-classification", "labels": ["good"]}}),
    ],
)
def test_an_item_stands_beside_those_of_a_list_that_is_not_written(override: str, expected: dict[str, object]) -> None:
    recipe: dict[str, object] = {"task": {"type": "text-classification"}, "method": {"type": "lora"}}
    assert with_set(recipe, override) == {**recipe, **expected}


def test_a_number_outside_of_a_default_list_is_a_finding() -> None:
    [found] = findings(lambda: set_value(load_text("{}", "r.json"), "/export/0=onnx"))
    assert (found.code, found.message) == ("R008", "the list has 0 items, and no item 0")


@pytest.mark.parametrize("override", ["/extends=base.json", "/extends/-=base.json", "/extends="])
def test_extends_can_not_be_set(override: str) -> None:
    [found] = findings(lambda: set_value(load_text('{"name": "r"}', "r.json"), override))
    assert (found.code, found.hint) == ("R008", "write a recipe that extends both")


def test_an_empty_object_that_would_change_nothing_is_a_finding() -> None:
    recipe = '{"training": {"seed": 1}, "dataset": {"columns": {}}}'
    [found] = findings(lambda: set_value(load_text(recipe, "r.json"), "/training={}"))
    assert (found.code, found.hint) == ("R008", "set what is in it: --set /training/seed=...")
    assert with_set({"dataset": {"columns": {}}}, "/dataset/columns={}") == {"dataset": {"columns": {}}}


def test_an_object_from_the_command_line_merges() -> None:
    assert with_set({"training": {"seed": 1}}, '/training={"epochs": 2}') == {"training": {"seed": 1, "epochs": 2}}


def test_a_value_from_the_command_line_has_its_place_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = set_value(load_text('{"training": {"seed": 1, "epochs": 2}}', "r.json"), "/training/seed=x")
    there = Place(file="--set /training/seed=x", column=22)
    seed = document.find("/training/seed")
    assert seed is not None
    assert (seed.at, document.key_at("/training/seed"), seed.folder) == (there, there, str(tmp_path))
    assert document.at("/training/epochs").file == "r.json"
    assert document.at("/training").file == "r.json"


def test_the_inside_of_a_value_from_the_command_line_has_the_value_s_place() -> None:
    document = set_value(load_text("{}", "r.json"), '/method={"type": "lora", "target_modules": ["q"]}')
    place = Place(file='--set /method={"type": "lora", "target_modules": ["q"]}', column=15)
    assert document.at("/method/target_modules/0") == place
    assert document.key_at("/method/type") == place


@given(st.text(), st.text())
def test_any_override_gives_a_document_or_a_recipe_error(pointer: str, value: str) -> None:
    document = load_text('{"training": {"seed": 1}, "metrics": ["f1"], "method": "lora"}', "r.json")
    for override in (
        f"{pointer}={value}",
        f"/training/{pointer}={value}",
        f"/metrics/{pointer}={value}",
        f"/method={value}",
    ):
        try:
            set_value(document, override)
        except RecipeError as error:
            codes = {found.code for found in error.diagnostics}
        else:
            codes = {"R008"}
        assert codes == {"R008"}
