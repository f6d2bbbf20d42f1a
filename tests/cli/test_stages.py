"""Stages through the command line: tuned one after another on each engine, exported, gated and told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from safetensors.numpy import load_file

from compiler.hashes import sha256_of
from runtimes.bundles.manifest import read_manifest
from tests.cli.conftest import invoke
from tests.staged import CHAT, COMMON, MOODS, TEMPLATE, WIKI, write
from tests.tiny import save_masked_encoder


def run(folder: Path, *options: str, recipe: str = "recipe.json") -> Path:
    done = invoke("run", folder / recipe, "--runs", folder / "runs", "--target", "cpu", "--quiet", *options)
    assert done.exit_code == 0, done.output
    return folder / "runs" / str(json.loads((folder / recipe).read_text())["name"])


def report(run: Path) -> Any:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def stages_in(run: Path) -> dict[str, Any]:
    return {stage["name"]: stage for stage in report(run)["stages"]}


def reused(folder: Path, *options: str) -> dict[str, bool]:
    """For each step of the recipe run again, whether it was done before."""
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--json", *options)
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    return {e["step"]: e["event"] == "StepReused" for e in events if e["event"] in ("StepReused", "StepStarted")}


@pytest.fixture(scope="module", params=["pytorch", pytest.param("mlx", marks=pytest.mark.long)])
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of continued pretraining by low-rank updates and then chat, with a bundle."""
    if request.param == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    folder = write(tmp_path_factory.mktemp("two") / "project", WIKI, CHAT, export=["onnx"])
    return run(folder, "--runtime", request.param)


def test_each_stage_has_its_held_out_figures(two: Path) -> None:
    found = stages_in(two)
    assert list(found) == ["wiki", "chat"]
    for stage in found.values():
        tuned, before = stage["evaluation"]["metrics"], stage["evaluation"]["baseline"]["untuned"]
        assert tuned["perplexity"] < 0.8 * before["perplexity"]
    whole = report(two)
    assert (whole["state"], whole["gate_passed"]) == ("done", True)
    assert whole["evaluation"] == found["chat"]["evaluation"], "a run is what its last stage is"


def test_a_run_s_folder_has_what_each_stage_left(two: Path) -> None:
    assert {path.name for path in two.iterdir() if path.is_symlink()} == {
        "adapter-wiki",
        "model-wiki",
        "model",
        "bundle",
        "verification.json",
    }


def test_the_report_shows_the_stages_in_order(two: Path) -> None:
    told = invoke("report", two).output
    places = [told.index(word) for word in ("stage wiki", "untuned", "stage chat", "before", "gate passed")]
    assert places == sorted(places)
    assert "few_shot: the model before the stage, " in told
    page = (two / "report.html").read_text(encoding="utf-8")
    assert page.index("Training loss of the stage wiki") < page.index("Training loss of the stage chat")


def test_a_stage_is_a_run_from_the_model_that_the_one_before_it_left(two: Path) -> None:
    """The same weights, and the same figures of the model before it."""
    folder = two.parents[1]
    alone = {key: value for key, value in CHAT.items() if key != "name"}
    alone["training"] = {**COMMON["training"], **CHAT["training"]}  # type: ignore[dict-item]
    value = {"recipe": 1, "name": "alone", "model": "./runs/tiny/model-wiki", **alone}
    (folder / "alone.json").write_text(json.dumps(value))
    engine = json.loads((two / "placement.json").read_text())["engine"]
    other = run(folder, "--runtime", engine, recipe="alone.json")
    one, same = (path / "model" / "model.safetensors" for path in (two, other))
    assert sha256_of(one, None) == sha256_of(same, None)
    assert report(other)["evaluation"] == report(two)["evaluation"]


def test_transformers_and_peft_load_what_a_stage_left(two: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from runtimes.pytorch.quiet import quiet

    ids = torch.arange(5, 15)[None]
    with quiet(), torch.inference_mode():
        merged = AutoModelForCausalLM.from_pretrained(two / "model-wiki").eval()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(two.parents[1] / "model")
        adapted = PeftModel.from_pretrained(base, two / "adapter-wiki").eval()(ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=1e-5)


def test_the_bundle_of_the_last_stage_answers(two: Path) -> None:
    done = invoke("predict", two, "--text", "the movie was good")
    assert done.exit_code == 0, done.output
    assert invoke("verify", two).exit_code == 0


def test_a_bundle_tells_of_every_stage_and_of_the_first_base(two: Path) -> None:
    told = read_manifest(two / "bundle").provenance
    assert [training.stage for training in told.trainings] == ["wiki", "chat"]
    assert {used.stage for used in told.data} == {"wiki", "chat"}
    assert told.origin.base_model == "model"
    assert "model.safetensors" in told.base_files
    assert "model/model.safetensors" in told.weights
    card = (two / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "- wiki: `lora` (" in card
    assert "- chat: `" in card


def test_a_finished_stage_is_never_done_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "project", WIKI, CHAT)
    run(folder)
    assert all(reused(folder).values())
    second = reused(folder, "--set", "/stages/1/training/epochs=1")
    assert {name for name, done in second.items() if not done} == {"train-chat", "evaluate-chat"}
    first = reused(folder, "--set", "/stages/0/training/max_steps=3")
    assert {name for name, done in first.items() if done} == {"prepare-wiki", "prepare-chat"}


def test_stages_are_placed_in_portions_of_their_own_and_a_plan_of_them_runs(tmp_path: Path) -> None:
    """Portions are outside of keys: what the recipe did is not done again for its plan."""
    folder = write(tmp_path / "project", {**WIKI, "training": {"max_steps": 2, "micro_batch_size": 4}}, CHAT)
    placement = json.loads((run(folder) / "placement.json").read_text())
    assert (placement["micro_batch_size"], placement["stages"]["wiki"]["micro_batch_size"]) == (8, 4)
    assert list(placement["stages"]) == ["wiki"]
    done = invoke("plan", folder / "recipe.json", "--target", "cpu", "-o", folder / "plan.json")
    assert done.exit_code == 0, done.output
    assert "wiki placed on cpu (asked for), pytorch, 4 rows at once" in done.output
    assert "chat placed on cpu (asked for), pytorch, 8 rows at once" in done.output
    again = run(folder, recipe="plan.json")
    assert {event for event in events(again) if event.startswith("StepStarted")} == {
        f"StepStarted {kind}-{stage}" for kind in ("prepare", "train", "evaluate") for stage in ("wiki", "chat")
    } | {"StepStarted merge-wiki"}
    assert events(again).count("StepStarted train-wiki") == 1


def events(run: Path) -> list[str]:
    """Each event with its step, of all runs of a name."""
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [f"{event['event']} {event.get('step')}" for event in map(json.loads, lines)]


def test_check_shows_each_stage(tmp_path: Path) -> None:
    folder = write(tmp_path / "project", WIKI, CHAT)
    done = invoke("check", folder / "recipe.json", "--show-example", "--target", "cpu")
    assert done.exit_code == 0, done.output
    assert "recipe.json: wiki: ok: 128 train, 16 validation, 16 test rows" in done.output
    assert "recipe.json: chat: ok: 48 train, 6 validation, 6 test rows" in done.output
    assert "the first train row of the stage wiki:\n⟦" in done.output
    assert "very n [SEP]⟧" in done.output.rpartition("the first train row of the stage chat:\n")[2]


def test_each_stage_is_traced(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    folder = write(tmp_path / "project", WIKI, CHAT)
    done = invoke("check", folder / "recipe.json", "--trace", "--runtime", "mlx", "--target", "cpu")
    assert done.exit_code == 0, done.output
    for name in ("wiki", "chat"):
        assert f"{name}: MLX runs the model's graph" in done.output


def test_a_template_that_a_stage_writes_is_what_the_next_one_reads_with(tmp_path: Path) -> None:
    """Also where a stage stands between them, and as a run of its own from the folder would read with."""
    written = {**CHAT, "task": {"type": "text-generation", "template": {"source": TEMPLATE}}, "metrics": ["perplexity"]}
    written = {key: value for key, value in written.items() if key != "generation"}
    again = {**written, "name": "again", "task": "text-generation", "method": "lora"}
    folder = write(tmp_path / "project", written, {**WIKI, "method": "full"}, again)
    found = run(folder)
    plan = json.loads((found / "plan.json").read_text())
    templates = [step["task"].get("template") for step in plan["steps"] if step["step"] == "train"]
    assert [template and (template["name"], template["source"]) for template in templates] == [
        ("written", TEMPLATE),
        None,
        ("model", TEMPLATE),
    ]
    for name in ("model-chat", "model-wiki", "adapter"):
        assert (found / name / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    assert (
        json.loads((found / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "model-wiki"
    )
    alone = {key: value for key, value in again.items() if key != "name"}
    alone["training"] = {**COMMON["training"], **CHAT["training"]}  # type: ignore[dict-item]
    value = {"recipe": 1, "name": "alone", "model": "./runs/tiny/model-wiki", **alone}
    (folder / "alone.json").write_text(json.dumps(value))
    same = run(folder, recipe="alone.json")
    assert report(same)["evaluation"] == report(found)["evaluation"]


def test_an_adapter_that_a_stage_begins_with_is_that_stage_s(tmp_path: Path) -> None:
    folder = write(tmp_path / "project", WIKI, {**WIKI, "name": "more"})
    run(folder)
    recipe = json.loads((folder / "recipe.json").read_text())
    begun = {"type": "lora", "from": "./runs/tiny/adapter-wiki"}
    for number, stage in enumerate(recipe["stages"]):
        other = {**recipe, "name": stage["name"], "stages": [*recipe["stages"]]}
        other["stages"][number] = {**stage, "method": begun}
        (folder / "begun.json").write_text(json.dumps(other), encoding="utf-8")
        found = run(folder, recipe="begun.json")
        steps = [step for step in json.loads((found / "plan.json").read_text())["steps"] if step["step"] == "train"]
        assert ["adapter" in step for step in steps] == [number == 0, number == 1]
        assert stages_in(found)["more"]["evaluation"] != stages_in(folder / "runs" / "tiny")["more"]["evaluation"]


@pytest.mark.parametrize("method", ["adapter", "prompt"])
def test_what_is_not_merged_ends_on_the_model_that_a_stage_left(tmp_path: Path, method: str) -> None:
    last = {**CHAT, "method": method, "training": {"epochs": 1, "max_length": 40}, "metrics": ["perplexity"]}
    folder = write(tmp_path / "project", {**WIKI, "training": {"max_steps": 4}}, last, export=["onnx"])
    found = run(folder)
    assert report(found)["gate_passed"] is True
    said = json.loads((found / "adapter" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "model-wiki"
    done = invoke("check", folder / "recipe.json", "--target", "cpu", "--set", f"/stages/0/method={method}")
    assert "error[R240] /stages/0/method: " in done.output


def test_hidden_words_and_then_labels_on_an_encoder(tmp_path: Path) -> None:
    labels = {"name": "moods", "task": "text-classification", "dataset": MOODS, "training": {"epochs": 6}}
    words = {**WIKI, "name": "words", "method": "full"}
    folder = write(tmp_path / "project", words, labels, save=save_masked_encoder, export=["onnx"])
    found = run(folder)
    assert report(found)["gate_passed"] is True
    stages = stages_in(found)
    hidden = stages["words"]["evaluation"]
    assert hidden["metrics"]["perplexity"] < hidden["baseline"]["untuned"]["perplexity"]
    moods = stages["moods"]["evaluation"]
    assert list(moods["baseline"]) == ["majority"], "hidden words' head answers no label"
    assert moods["metrics"]["accuracy"] > 0.9 > moods["baseline"]["majority"]["accuracy"]
    choices = {choice["pointer"]: choice["value"] for choice in report(found)["choices"]}
    assert (choices["/stages/0/model"], choices["/stages/1/model"]) == ("head kept", "new head")


def test_low_rank_updates_stand_beside_weights_that_were_drawn(tmp_path: Path) -> None:
    """Layers have rates of their own in both stages; the weights in the folder say what shapes there are."""
    decay = {"max_steps": 4, "layer_decay": 0.9}
    words = {**WIKI, "name": "words", "method": "scratch", "training": decay}
    labels = {"name": "moods", "task": "text-classification", "dataset": MOODS, "method": "lora", "training": decay}
    found = run(write(tmp_path / "project", words, labels, save=save_masked_encoder, export=["onnx"]))
    assert report(found)["gate_passed"] is True
    [drawn, beside] = [step for step in json.loads((found / "plan.json").read_text())["steps"] if "tuned" in step]
    assert drawn["tuned"]["parameters"] is None
    [name, *_] = beside["tuned"]["modules"]
    assert any(name in key for key in load_file(found / "adapter" / "adapter_model.safetensors"))


def test_labels_in_two_stages_keep_their_head(tmp_path: Path) -> None:
    labels = {"name": "one", "task": "text-classification", "dataset": MOODS, "training": {"epochs": 6}}
    again = {**labels, "name": "two", "training": {"epochs": 1, "learning_rate": 1e-5}}
    found = stages_in(run(write(tmp_path / "project", labels, again, save=save_masked_encoder)))
    first, second = (found[name]["evaluation"] for name in ("one", "two"))
    assert second["baseline"]["untuned"] == first["metrics"], "the model before the second is what the first left"


def test_a_language_model_is_not_tuned_after_its_head_is_gone(tmp_path: Path) -> None:
    labels = {"name": "moods", "task": "text-classification", "dataset": MOODS}
    folder = write(tmp_path / "project", labels, CHAT)
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    done = invoke("check", folder / "recipe.json", "--target", "cpu", "--format", "json")
    assert done.exit_code == 1
    [found] = [each for each in json.loads(done.output) if each["severity"] == "error"]
    assert (found["code"], found["pointer"]) == ("R240", "/stages/1/task")
    line = (folder / "recipe.json").read_text().splitlines()[found["line"] - 1]
    assert line[found["column"] - 1 :].startswith('"text-generation"')
