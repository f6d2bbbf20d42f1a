"""`recipe run` from a recipe to a bundle, on a tiny real model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from compiler.hashes import sha256_of

ROOT = Path(__file__).parents[2]
MAIN = "from compiler.cli import main; main(prog_name='recipe')"


def set_value(project: Path, **changes: object) -> None:
    file = project / "recipe.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def kinds(output: str) -> dict[str, str]:
    """What `recipe run --json` said of each step: StepStarted or StepReused."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {event["step"]: event["event"] for event in events if event["event"] in ("StepStarted", "StepReused")}


def test_a_run_leaves_model_bundle_report_and_events(finished: Path) -> None:
    run = finished / "runs" / "tiny"
    assert {"model", "bundle", "plan.json", "report.json", "report.html", "events.jsonl"} <= {
        path.name for path in run.iterdir()
    }
    assert (run / "model" / "model.safetensors").is_file()
    assert (run / "bundle" / "onnx" / "model.onnx").is_file()
    report = json.loads((run / "report.json").read_text())
    assert report["state"] == "done"
    assert report["gate_passed"] is True
    assert report["evaluation"]["metrics"]["accuracy"] > report["evaluation"]["baseline"]["majority"]["accuracy"]


def test_the_gate_saw_every_held_out_row(finished: Path) -> None:
    report = json.loads((finished / "runs" / "tiny" / "report.json").read_text())
    gate = report["gates"]["verify"]
    [edge] = gate["verification"]["edges"]
    checks = {check["name"]: check for check in edge["checks"]}
    assert (edge["source"], edge["target"]) == ("trained", "onnx")
    assert checks["outputs"]["rows"] == checks["decisions"]["rows"] == report["data"]["test"]["rows"] == 60
    assert checks["outputs"]["max_abs"] <= gate["tolerance"]
    assert checks["decisions"]["agreeing"] == 60


def test_a_finished_run_does_nothing_again(project: Path, recipe) -> None:
    again = recipe("run", project / "recipe.json", "--runs", project / "runs", "--target", "cpu", "--json")
    assert again.exit_code == 0, again.output
    assert set(kinds(again.output).values()) == {"StepReused"}


def test_a_plan_runs_as_its_recipe_does(project: Path, recipe) -> None:
    plan = project / "plan.json"
    assert recipe("plan", project / "recipe.json", "--target", "cpu", "-o", plan).exit_code == 0
    done = recipe("run", plan, "--runs", project / "runs", "--target", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert set(kinds(done.output).values()) == {"StepReused"}


def test_an_edited_plan_is_refused(project: Path, recipe) -> None:
    plan = project / "plan.json"
    recipe("plan", project / "recipe.json", "--target", "cpu", "-o", plan)
    plan.write_text(plan.read_text().replace('"epochs": 4', '"epochs": 5'))
    done = recipe("run", plan, "--runs", project / "runs")
    assert done.exit_code == 1
    assert "the plan was edited" in done.output


def test_what_does_not_change_the_result_does_nothing_again(project: Path, recipe) -> None:
    micro = recipe(
        *("run", project / "recipe.json", "--runs", project / "runs", "--target", "cpu", "--json"),
        *("--set", "/training/micro_batch_size=4", "--set", "/training/gradient_checkpointing=true"),
        *("--set", "/training/checkpoint_every=3"),
    )
    assert micro.exit_code == 0, micro.output
    assert set(kinds(micro.output).values()) == {"StepReused"}


def test_another_description_makes_the_card_of_the_bundle_again_and_nothing_else(project: Path, recipe) -> None:
    described = recipe(
        *("run", project / "recipe.json", "--runs", project / "runs", "--target", "cpu", "--json"),
        *("--set", "/description=another"),
    )
    assert described.exit_code == 0, described.output
    assert [step for step, kind in kinds(described.output).items() if kind == "StepStarted"] == ["package"]
    card = (project / "runs" / "tiny" / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "another" in card


def test_adding_an_export_trains_nothing_again(project: Path, recipe) -> None:
    set_value(project, name="later", export=[])
    arguments = ("run", project / "recipe.json", "--runs", project / "runs2", "--target", "cpu", "--json")
    first = recipe(*arguments)
    assert first.exit_code == 0, first.output
    assert kinds(first.output) == dict.fromkeys(("prepare", "train", "evaluate"), "StepStarted")
    set_value(project, export=["onnx"])
    second = kinds(recipe(*arguments).output)
    assert [step for step, kind in second.items() if kind == "StepReused"] == ["prepare", "train", "evaluate"]
    assert [step for step, kind in second.items() if kind == "StepStarted"] == ["export", "verify", "package"]


def test_a_damaged_output_is_made_again(project: Path, recipe) -> None:
    graph = next((project / "runs" / ".steps").glob("*/onnx/model.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])
    again = recipe("run", project / "recipe.json", "--runs", project / "runs", "--target", "cpu", "--json")
    assert again.exit_code == 0, again.output
    assert kinds(again.output)["export"] == "StepStarted"
    assert kinds(again.output)["train"] == "StepReused"


def test_rows_that_changed_since_the_plan_was_made_are_refused(project: Path, recipe) -> None:
    plan = project / "plan.json"
    recipe("plan", project / "recipe.json", "--target", "cpu", "-o", plan)
    with (project / "rows.jsonl").open("a") as rows:
        rows.write('{"snippet": "a new row", "sentiment": "positive"}\n')
    done = recipe("run", plan, "--runs", project / "runs2", "--target", "cpu")
    assert done.exit_code == 4
    assert "R409" in done.output


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", str(project / "recipe.json"), "--target", "cpu", "--quiet", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps_done(project: Path, runs: str = "fresh") -> int:
    events = project / runs / "tiny" / "events.jsonl"
    return events.read_text().count('"StepReport"') if events.exists() else 0


def wait_for_steps(process: subprocess.Popen[str], project: Path, count: int) -> None:
    while process.poll() is None and steps_done(project) < count:
        time.sleep(0.02)


def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_weights(project: Path) -> None:
    set_value(project, export=[])
    process = start(project, "--runs", "fresh", "--set", "/training/epochs=6")
    wait_for_steps(process, project, 5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "E130" in output
    for runs in ("fresh", "whole"):
        process = start(project, "--runs", runs, "--set", "/training/epochs=6")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    one, two = (project / runs / "tiny" / "model" / "model.safetensors" for runs in ("fresh", "whole"))
    assert sha256_of(one, None) == sha256_of(two, None)


def test_only_one_process_may_write_a_run(project: Path) -> None:
    set_value(project, export=[])
    first = start(project, "--runs", "fresh", "--set", "/training/epochs=200")
    wait_for_steps(first, project, 1)
    second = start(project, "--runs", "fresh")
    output, _ = second.communicate(timeout=120)
    first.kill()
    first.communicate(timeout=60)
    assert second.returncode == 4, output
    assert "E404" in output
    assert f"pid {first.pid}" in output
