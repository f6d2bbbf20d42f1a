"""Where runtime and method meet: check, plan and run find what a runtime can't do, before anything is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")

from compiler.placement import this_machine
from tests.tiny import write_project

METHOD = {"type": "qlora", "rank": 4, "group_size": 32}
WITHOUT_A_RUNTIME = [["--target", "cpu"], ["--target", "cuda"], ["--target", "mps", "--runtime", "pytorch"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project", method=METHOD)


@pytest.mark.parametrize("command", ["check", "plan", "run"])
@pytest.mark.parametrize("options", WITHOUT_A_RUNTIME, ids=" ".join)
def test_a_runtime_that_does_not_fit_the_method_is_a_finding(
    recipe, folder: Path, command: str, options: list[str]
) -> None:
    runs = ["--runs", folder / "runs"] if command == "run" else []
    done = recipe(command, folder / "recipe.json", *options, *runs)
    assert done.exit_code == 1
    assert 'error[R213] /method: the method "qlora" runs on mlx, and pytorch was chosen on' in done.output
    assert 'hint: write "runtime": "mlx", or --runtime mlx' in done.output
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("command", ["check", "plan"])
@pytest.mark.parametrize("options", [["--target", "mps"], ["--target", "cpu", "--runtime", "mlx"]], ids=" ".join)
def test_a_runtime_that_fits_has_no_finding(recipe, folder: Path, command: str, options: list[str]) -> None:
    done = recipe(command, folder / "recipe.json", *options)
    assert done.exit_code == 0, done.output
    assert command == "check" or ", mlx, 16 rows at once" in done.output


def test_the_recipe_s_own_runtime_is_looked_at_without_data_and_model(recipe, folder: Path) -> None:
    said = ["--set", "/runtime=pytorch", "--no-facts"]
    done = recipe("check", folder / "recipe.json", *said)
    assert done.exit_code == 1
    assert "error[R213] /runtime" in done.output
    assert recipe("check", folder / "recipe.json", "--set", "/runtime=mlx", "--no-facts").exit_code == 0


def test_a_group_size_that_divides_no_layer_is_a_finding(recipe, folder: Path) -> None:
    options = ["--runtime", "mlx", "--set", "/method/group_size=64", "--format", "json"]
    done = recipe("check", folder / "recipe.json", *options)
    [found] = [finding for finding in json.loads(done.output) if finding["severity"] == "error"]
    assert (found["code"], found["pointer"]) == ("R214", "/method/group_size")
    assert found["hint"] == 'write "group_size": 32'


@pytest.mark.parametrize("options", [["--target", "cpu"], ["--target", "mps", "--runtime", "pytorch"]], ids=" ".join)
def test_a_plan_that_is_run_elsewhere_says_so_before_it_does_anything(recipe, folder: Path, options: list[str]) -> None:
    plan = folder / "plan.json"
    made = recipe("plan", folder / "recipe.json", "--target", "cpu", "--runtime", "mlx", "-o", plan)
    assert made.exit_code == 0, made.output
    done = recipe("run", plan, "--runs", folder / "runs", *options)
    assert done.exit_code == 4
    assert 'error[E409]: the method "qlora" runs on mlx, and the plan was placed on pytorch' in done.output
    assert "hint: run it with --runtime mlx" in done.output
    assert not (folder / "runs").exists()


def test_a_limit_of_memory_that_nothing_keeps_to_is_refused_for_recipes_and_plans(recipe, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    found = recipe("check", folder / "recipe.json", "--target", "cpu:8GiB")
    assert found.exit_code == 1
    assert "error[R217] /runtime: pytorch can't be held to 8 GiB on cpu" in found.output
    plan = folder / "plan.json"
    assert recipe("plan", folder / "recipe.json", "--target", "cpu", "-o", plan).exit_code == 0
    done = recipe("run", plan, "--runs", folder / "runs", "--target", "cpu:8GiB")
    assert done.exit_code == 2
    assert "pytorch can't be held to 8 GiB on cpu: write --target cpu without a limit, or --runtime mlx" in done.output
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("said", ["in the recipe", "of a plan"])
def test_a_report_tells_of_the_limit_and_of_layers_that_are_computed_again(recipe, tmp_path: Path, said: str) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    folder = write_project(tmp_path / "project", method="head", export=[])
    file, options = folder / "recipe.json", ["--target", "cpu:8GiB", "--runtime", "mlx"]
    if said == "in the recipe":
        again = ["--set", "/training/gradient_checkpointing=true"]
        assert "16 rows at once, layers computed again" in recipe("plan", file, *options, *again).output
    else:
        again = ["--gradient-checkpointing"]
        assert recipe("plan", file, *options, "-o", folder / "plan.json").exit_code == 0
        file = folder / "plan.json"
    done = recipe("run", file, "--runs", folder / "runs", *options, *again)
    assert done.exit_code == 0, done.output
    assert " GiB of 8 GiB allowed, layers computed again" in done.output
    placement = json.loads((folder / "runs" / "tiny" / "placement.json").read_text())
    assert (placement["memory_gib"], placement["gradient_checkpointing"]) == (8, True)


@pytest.mark.parametrize("runtime", ["pytorch", "mlx"])
@pytest.mark.parametrize("target", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_said_before_anything_is_done(
    recipe, tmp_path: Path, runtime: str, target: str
) -> None:
    if runtime == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    if target in (this_machine().kind, "mps" if sys.platform == "darwin" else ""):
        pytest.skip(f"{target} may be here")
    folder = write_project(tmp_path / "project", method="head", export=[])
    options = ["--target", target, "--runtime", runtime, "--runs", folder / "runs"]
    done = recipe("run", folder / "recipe.json", *options)
    assert done.exit_code == 4, done.output
    assert f"error[E407]: the placement asks for {target}, and this installation of" in done.output
    assert "hint: run with --target cpu" in done.output
    assert not (folder / "runs").exists()
