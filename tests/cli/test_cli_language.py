"""The commands about the language: what they print, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from compiler.cli import main
from compiler.cli.main import COMMANDS
from compiler.cli.plan import wrapped
from compiler.codes import CODES
from compiler.schema import schema_text
from tests.handmade import RECIPE, planned
from tests.small import write_without_framework

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, without a hub and without a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RECIPE_MIRROR", raising=False)
    return tmp_path


def recipe(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def write(name: str, **changes: Any) -> str:
    Path(name).write_text(json.dumps({**RECIPE, **changes}), encoding="utf-8")
    return name


# check


def test_check_of_a_good_recipe_exits_0_and_says_so() -> None:
    done = recipe("check", "--no-facts", write("r.json"))
    assert (done.exit_code, done.output) == (
        0,
        "r.json: the recipe is well formed (data and model were not looked at)\n",
    )


def test_check_of_a_wrong_recipe_exits_1_with_every_finding_and_their_number() -> None:
    done = recipe("check", "--no-facts", write("r.json", trainig={}, metrics="f1"))
    assert done.exit_code == 1
    assert "error[R101] /trainig" in done.output
    assert "error[R102] /metrics" in done.output
    assert done.output.endswith("2 errors\n")


def test_check_looks_at_every_recipe_and_exits_1_when_one_is_wrong() -> None:
    done = recipe("check", "--no-facts", write("a.json", nmae=1), write("b.json"), write("c.json", metrics=["bleu"]))
    assert done.exit_code == 1
    assert [line.partition(":")[0] for line in done.output.splitlines() if not line.startswith("    ")] == [
        "a.json",
        "c.json",
        "b.json",
        "2 errors",
    ]


def test_a_fault_of_a_base_is_listed_once() -> None:
    write("base.json", trainig={})
    for name in ("a.json", "b.json"):
        Path(name).write_text('{"extends": "base.json"}', encoding="utf-8")
    done = recipe("check", "--no-facts", "a.json", "b.json")
    assert done.output.count("error[R101]") == 1
    assert done.output.endswith("1 error\n")


def test_check_without_a_recipe_is_wrong_usage() -> None:
    done = recipe("check")
    assert done.exit_code == 2
    assert "Missing argument" in done.output


def test_check_of_a_file_that_is_not_there_is_a_finding() -> None:
    done = recipe("check", "--no-facts", "missing.json")
    assert done.exit_code == 1
    assert "missing.json:1:1: error[R006]" in done.output


def test_check_with_facts_names_what_is_missing() -> None:
    done = recipe("check", write("r.json"))
    assert done.exit_code == 1
    assert "error[R301]" in done.output
    assert "Traceback" not in done.output


def test_set_overrides_and_its_faults_have_their_place() -> None:
    write("r.json", training={"epochs": "three"})
    assert recipe("check", "--no-facts", "--set", "/training/epochs=3", "r.json").exit_code == 0
    done = recipe("check", "--no-facts", "--set", "/training/epochs=0", "r.json")
    assert done.exit_code == 1
    assert done.output.startswith("--set /training/epochs=0:1:24: error[R104] /training/epochs: 0 is too small")


@pytest.mark.parametrize(
    ("form", "start"), [("json", "["), ("github", "::error file=r.json,line=1"), ("sarif", "{"), ("text", "r.json:1")]
)
def test_every_format_is_the_only_thing_on_the_output(form: str, start: str) -> None:
    done = recipe("check", "--no-facts", "--format", form, write("r.json", trainig={}))
    assert done.exit_code == 1
    assert done.output.startswith(start)
    if form in ("json", "sarif"):
        json.loads(done.stdout)


def test_machine_formats_of_a_good_recipe_are_empty_of_findings() -> None:
    write("r.json")
    assert json.loads(recipe("check", "--no-facts", "--format", "json", "r.json").stdout) == []
    assert json.loads(recipe("check", "--no-facts", "--format", "sarif", "r.json").stdout)["runs"][0]["results"] == []
    assert recipe("check", "--no-facts", "--format", "github", "r.json").stdout == ""


def test_an_unknown_format_is_wrong_usage() -> None:
    assert recipe("check", "--format", "xml", write("r.json")).exit_code == 2


@pytest.mark.parametrize("target", ["gpu", "cuda:80"])
def test_a_wrong_target_is_wrong_usage(target: str) -> None:
    done = recipe("check", "--target", target, write("r.json"))
    assert done.exit_code == 2
    assert "write cpu, cuda, mps" in done.output


# explain, schema


def test_explain_prints_the_title_and_the_text() -> None:
    done = recipe("explain", "r101")
    assert done.exit_code == 0
    assert done.output.startswith(f"R101: {CODES['R101'].title}\n\n")
    assert " ".join(done.output.split()).endswith(CODES["R101"].text)


def test_explain_suggests_a_code() -> None:
    done = recipe("explain", "R9999")
    assert done.exit_code == 2
    assert 'no code "R9999"' in done.output


@pytest.mark.parametrize("arguments", [["explain"], ["explain", "--list"]])
def test_explain_lists_every_code(arguments: list[str]) -> None:
    assert [line.split()[0] for line in recipe(*arguments).output.splitlines()] == sorted(CODES)


def test_schema_prints_or_writes_the_schema() -> None:
    assert recipe("schema").output == schema_text()
    assert recipe("schema", "-o", "recipe.schema.json").output == ""
    assert Path("recipe.schema.json").read_text(encoding="utf-8") == schema_text()


# plan


def test_diff_of_two_plans_says_what_would_be_done_again() -> None:
    Path("a.json").write_text(planned().text(), encoding="utf-8")
    Path("b.json").write_text(planned(training={"learning_rate": 1e-4}, export=["onnx"]).text(), encoding="utf-8")
    done = recipe("plan", "--diff", "a.json", "b.json")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "again  train: learning_rate",
        "again  evaluate: input train",
        "again  export: new",
        "again  verify: new",
        "again  package: new",
        "kept   prepare",
    ]


def test_diff_names_the_steps_that_fall_away() -> None:
    Path("a.json").write_text(planned(export=["onnx"]).text(), encoding="utf-8")
    Path("b.json").write_text(planned().text(), encoding="utf-8")
    lines = recipe("plan", "--diff", "a.json", "b.json").output.splitlines()
    assert lines[-3:] == ["gone   export", "gone   verify", "gone   package"]


def test_diff_of_equal_plans_keeps_every_step() -> None:
    Path("a.json").write_text(planned().text(), encoding="utf-8")
    assert recipe("plan", "--diff", "a.json", "a.json").output.split() == [
        "kept",
        "prepare",
        "kept",
        "train",
        "kept",
        "evaluate",
    ]


def test_diff_shows_a_choice_that_came_out_otherwise() -> None:
    Path("a.json").write_text(planned(method="full").text(), encoding="utf-8")
    Path("b.json").write_text(planned(method="head").text(), encoding="utf-8")
    done = recipe("plan", "--diff", "a.json", "b.json")
    assert "chosen /training/learning_rate: 5e-05 -> 0.001" in done.output


def test_an_edited_plan_is_refused() -> None:
    value = planned().to_json()
    value["steps"][1]["epochs"] = 99
    Path("a.json").write_text(json.dumps(value), encoding="utf-8")
    done = recipe("plan", "--diff", "a.json", "a.json")
    assert done.exit_code == 1
    assert "the plan was edited" in done.output


def test_a_plan_is_printed_as_the_recipe_that_it_was_made_of(folder: Path) -> None:
    write_without_framework(folder)
    made = recipe("plan", "r.json", "-o", "plan.json", "--target", "cpu")
    shown = recipe("plan", "plan.json", "--target", "cpu")
    ordered = made.output.replace('{"text": "text", "label": "label"}', '{"label": "label", "text": "text"}')
    assert (shown.exit_code, shown.output) == (0, ordered)  # a plan's file sorts keys
    assert recipe("plan", "plan.json", "--json").output == Path("plan.json").read_text(encoding="utf-8")


def test_a_plan_takes_no_overrides() -> None:
    Path("a.json").write_text(planned().text(), encoding="utf-8")
    done = recipe("plan", "a.json", "--set", "/training/epochs=1")
    assert done.exit_code == 2
    assert "a plan is already compiled" in done.output


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_plan_with_a_key_that_no_plan_has_is_a_sentence(command: str) -> None:
    value = planned().to_json()
    value["steps"][1]["foo"] = value["steps"][1].pop("seed")
    Path("a.json").write_text(json.dumps(value), encoding="utf-8")
    done = recipe(command, "a.json")
    assert (done.exit_code, done.output) == (1, 'Error: a.json: the step train has no key "foo", and needs "seed"\n')


def test_a_data_file_that_a_plan_lacks_is_named_with_the_folder_that_was_looked_in(folder: Path) -> None:
    write_without_framework(folder)
    assert recipe("plan", "r.json", "-o", "plan.json", "--target", "cpu").exit_code == 0
    (folder / "elsewhere").mkdir()
    done = recipe("run", "plan.json", "--root", "elsewhere", "--target", "cpu", "--quiet")
    assert done.exit_code == 1, done.output
    assert done.output.splitlines() == [
        f'error[R301]: there is no file "rows.jsonl" in the folder {folder / "elsewhere"}',
        "    hint: a plan's paths start from its own folder, or the one that --root names",
    ]


def test_plan_without_a_recipe_is_wrong_usage() -> None:
    done = recipe("plan")
    assert done.exit_code == 2
    assert "name a recipe" in done.output


def test_plan_of_a_wrong_recipe_exits_1_with_its_findings() -> None:
    done = recipe("plan", write("r.json", trainig={}))
    assert done.exit_code == 1
    assert 'did you mean "training"?' in done.output


def test_plan_of_a_deeply_nested_text_is_a_finding() -> None:
    Path("r.json").write_text("[" * 100_000, encoding="utf-8")
    done = recipe("plan", "--diff", "r.json", "r.json")
    assert done.exit_code == 1
    assert "error[R001]" in done.output


# the group


def test_help_lists_every_command() -> None:
    done = recipe("--help")
    assert done.exit_code == 0
    assert all(f"\n  {name} " in done.output for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_the_line_of_the_list(command: str) -> None:
    done = recipe(command, "--help")
    assert done.exit_code == 0, done.output
    assert f"recipe {command}" in done.output.partition("Example")[2]


@pytest.mark.parametrize(("typed", "meant"), [("chekc", "check"), ("plna", "plan"), ("Explain", "explain")])
def test_an_unknown_command_suggests_the_nearest(typed: str, meant: str) -> None:
    done = recipe(typed)
    assert done.exit_code == 2
    assert f'did you mean "{meant}"?' in done.output


def test_a_command_like_no_other_lists_what_there_is() -> None:
    done = recipe("zzzzzz")
    assert done.exit_code == 2
    assert "check" in done.output


def test_a_plan_is_shown_whole_where_no_terminal_is(folder: Path) -> None:
    write_without_framework(folder)
    value = json.loads(Path("r.json").read_text(encoding="utf-8"))
    described = {
        **value,
        "dataset": {**value["dataset"], "test": {"fraction": 0.2}},
        "description": "a word " * 40 + "end",
    }
    Path("r.json").write_text(json.dumps({**described, "export": ["onnx"]}), encoding="utf-8")
    shown = recipe("plan", "r.json", "--target", "cpu").output
    assert f'    origin {{"description": "{"a word " * 40}end"' in shown
    assert "..." not in shown


def test_on_a_terminal_a_long_line_goes_on_deeper_and_loses_nothing() -> None:
    lines = ["steps", "", '    loss {"type": "cross-entropy", "class_weights": {"ham": 0.7, "spam": 1.6}}', "short"]
    assert wrapped(lines, 40) == [
        "steps",
        "",
        '    loss {"type": "cross-entropy",',
        '        "class_weights": {"ham": 0.7,',
        '        "spam": 1.6}}',
        "short",
    ]
    assert wrapped(["    " + "x" * 60], 40) == ["    " + "x" * 60], "a word is not broken"
