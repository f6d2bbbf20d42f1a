"""What is said of a model as it stands: its base and its base's licence, from the folder or the run that left it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from compiler.cli.lineage import origin_of
from compiler.hub import Sources, open_model
from compiler.model_facts import model_facts
from compiler.origin import Licence, Origin
from compiler.plan import Plan, Train
from tests.foreign import save_classifier

pytest.importorskip("onnxscript", reason="needs the onnx extra")
Recipe = Callable[..., Result]
MIT, APACHE = Licence(id="mit"), Licence(id="apache-2.0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("made") / "classifier")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tuned"))


@pytest.fixture
def sources(made: Path, tmp_path: Path) -> Sources:
    """A mirror that has a base model whose card names its licence."""
    shutil.copytree(made, tmp_path / "mirror" / "org" / "base")
    write_card(tmp_path / "mirror" / "org" / "base", license="mit")
    return Sources(mirror=tmp_path / "mirror", offline=True)


def write_card(folder: Path, **metadata: Any) -> None:
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in metadata.items())
    (folder / "README.md").write_text(f"---\n{lines}---\n", encoding="utf-8")


def origin(model: str | Path, sources: Sources) -> Origin:
    files = open_model(str(model), None, Path(), sources)
    return origin_of(model_facts(files), files, sources)


def test_a_folder_that_says_nothing_is_its_own_base(model: Path, sources: Sources) -> None:
    assert origin(model, sources) == Origin(base_model="tuned")


def test_a_model_of_the_hub_is_the_base_of_its_export(sources: Sources) -> None:
    assert origin("org/base", sources) == Origin(base_model="org/base", on_hub=True, licence=MIT)


@pytest.mark.parametrize("named", ["org/base", ["org/base"]])
def test_a_card_that_names_the_base_has_the_base_s_licence(model: Path, sources: Sources, named: object) -> None:
    write_card(model, base_model=named)
    assert origin(model, sources) == Origin(base_model="org/base", on_hub=True, licence=MIT, tuned=True)


def test_a_licence_of_its_own_counts_before_the_base_s(model: Path, sources: Sources) -> None:
    write_card(model, base_model="org/base", license="apache-2.0")
    assert origin(model, sources).licence == APACHE


def test_the_configuration_of_an_adapter_names_the_base(model: Path, sources: Sources) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert origin(model, sources) == Origin(base_model="org/base", on_hub=True, licence=MIT, tuned=True)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"base_model_name_or_path": 3}', '{"base_model_name_or_path": ""}'])
def test_a_configuration_that_names_nothing_is_passed_over(model: Path, sources: Sources, text: str) -> None:
    (model / "adapter_config.json").write_text(text)
    assert origin(model, sources) == Origin(base_model="tuned")


def test_a_base_that_is_not_to_be_had_is_named_without_a_licence(model: Path, sources: Sources) -> None:
    write_card(model, base_model="org/other")
    assert origin(model, sources) == Origin(base_model="org/other", on_hub=True, tuned=True)
    write_card(model, base_model=str(sources.mirror / "org" / "base" if sources.mirror else ""))
    assert origin(model, sources) == Origin(base_model="base", licence=MIT, tuned=True)


def test_a_run_without_an_export_names_the_model_that_it_trained(project: Path, sources: Sources) -> None:
    run = project / "runs" / "tiny"
    plan = Plan.from_json(json.loads((run / "plan.json").read_text(encoding="utf-8")))
    (run / "plan.json").write_text(replace(plan, steps=plan.steps[:2]).text(), encoding="utf-8")
    (project / "runs" / "broken").mkdir()
    (project / "runs" / "broken" / "plan.json").write_text("{}")
    assert origin(run / "model", sources) == Origin(base_model="model", tuned=True)


def test_a_path_of_a_run_s_recipe_is_no_model_of_the_hub(project: Path, sources: Sources) -> None:
    run = project / "runs" / "tiny"
    plan = Plan.from_json(json.loads((run / "plan.json").read_text(encoding="utf-8")))
    [prepare, train] = plan.steps[:2]
    assert isinstance(train, Train)
    moved = replace(train, model=replace(train.model, id="org/base"))
    (run / "plan.json").write_text(replace(plan, steps=(prepare, moved)).text(), encoding="utf-8")
    assert origin(run / "model", sources) == Origin(base_model="base", tuned=True)


def test_a_run_s_model_keeps_the_licence_that_became_known_after_it_was_packaged(project: Path, recipe: Recipe) -> None:
    runs, run = project / "runs", project / "runs" / "tiny"

    def licence(bundle: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())["provenance"]["origin"]["licence"]
        return found

    keys = [step["key"] for step in json.loads((run / "plan.json").read_text())["steps"]]
    assert licence(run / "bundle")["id"] == "unknown"
    write_card(project / "model", license="apache-2.0")
    for finished in ("package", None):
        done = recipe("run", project / "recipe.json", "--runs", runs, "--target", "cpu", "--json")
        assert done.exit_code == 0, done.output
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert [each["step"] for each in events if each["event"] == "StepFinished"] == ([finished] if finished else [])
    assert licence(run / "bundle")["id"] == "apache-2.0"
    assert keys == [step["key"] for step in json.loads((run / "plan.json").read_text())["steps"]]

    out = project / "exported"
    done = recipe("export", run / "model", "-o", out)
    assert done.exit_code == 0, done.output
    told = json.loads((out / "manifest.json").read_text())["provenance"]
    assert (told["origin"]["base_model"], told["origin"]["licence"]["id"]) == ("model", "apache-2.0")
    assert [*told["weights"]] == ["model/model.safetensors"] and not told["base_files"]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "- Tuned from the folder model, licence apache-2.0." in card
    assert recipe("verify", out).exit_code == 0
