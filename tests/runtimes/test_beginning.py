"""A training that begins with an adapter: what its files are held to, and that both engines begin as it answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file, save_file

from compiler.adapter_names import saved_name
from compiler.diagnostics import RecipeError
from compiler.driver import Compiled, compile_recipe
from compiler.hub import SourceError
from compiler.loading import load
from compiler.placement import Runtime, parse_target
from compiler.plan import Plan, Train
from compiler.typed import to_json
from runtimes.backends import backend
from runtimes.errors import RunError
from runtimes.execute import execute
from runtimes.pytorch.engine import TorchEngine
from runtimes.saved import trained_model
from tests.conformance.engines import do_step, micro_batches, prepared, unpacked
from tests.conformance.subjects import FACTS, Project, Subject, write
from tests.runtimes.tiny import placed

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 4, "modules_to_save": ["word_embeddings"]},
    "dora": {"type": "dora", "rank": 4},
    "ia3": {"type": "ia3"},
    "layer-norm": {"type": "layer-norm"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A regression: what its adapters save is in the rows' units, and what is trained is not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    subject = Subject(task="text-regression", loss="mse", method="lora", encoder="bert")
    found = write(subject, tmp_path_factory.mktemp("beginning") / "project")
    for name, method in METHODS.items():
        train(found, name, method)
    yield found
    torch.set_num_threads(threads)


def compiled(project: Project, method: dict[str, Any], max_steps: int = 20) -> Compiled:
    recipe = json.loads((project.folder / "recipe.json").read_text(encoding="utf-8"))
    file = project.folder / "varied.json"
    schedule = {"type": "constant", "warmup_steps": 0} if max_steps == 1 else recipe["training"]["schedule"]
    training = {**recipe["training"], "max_steps": max_steps, "schedule": schedule}
    export = recipe["export"] if max_steps > 1 else []
    varied = {**recipe, "method": method, "training": training, "export": export}
    file.write_text(json.dumps(varied), encoding="utf-8")
    return compile_recipe(load(file), FACTS, parse_target("cpu"))


def train_step(plan: Plan) -> Train:
    step = plan.step("train")
    assert isinstance(step, Train)
    return step


def train(project: Project, name: str, method: dict[str, Any]) -> None:
    """Leaves an adapter in NAME/adapter of the project."""
    step = train_step(compiled(project, method).plan)
    rows = prepared(project)
    folder = project.folder / name / "adapter"
    engine = backend("pytorch").load_engine(step, project.model, folder.parent / "init.safetensors", placed())
    for number in range(3):
        do_step(engine, rows, step, number, 1e-2)
    folder.mkdir()
    engine.save_model(folder)


@pytest.mark.parametrize("runtime", ["pytorch", "mlx"])
@pytest.mark.parametrize("name", METHODS)
def test_an_engine_begins_as_the_adapter_answers(project: Project, name: str, runtime: Runtime, tmp_path: Path) -> None:
    if runtime == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    step = train_step(compiled(project, {**METHODS[name], "from": f"{name}/adapter"}).plan)
    adapter = project.folder / name / "adapter"
    engine = backend(runtime).load_engine(step, project.model, tmp_path / "i", placed(runtime), adapter)
    batch = unpacked(micro_batches(prepared(project), step, 0)[0])
    theirs = backend("pytorch").scores(step.task, trained_model(step, adapter.parent, project.model), "cpu")(batch)
    # Float32: the head's weights are divided by a scale and multiplied with it again.
    assert engine.evaluate(batch).outputs[batch.positions] == pytest.approx(theirs[batch.positions], rel=1e-5, abs=1e-6)
    fresh = backend("pytorch").load_engine(step, project.model, tmp_path / "fresh", placed())
    assert np.abs(fresh.evaluate(batch).outputs - theirs).max() > 1e-3


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A classification by two labels, and an adapter in used/adapter that was trained for them."""
    subject = Subject(task="text-classification", loss="cross-entropy", method="lora")
    found = write(subject, tmp_path_factory.mktemp("labelled") / "project")
    train(found, "used", LABELLED)
    return found


LABELLED = {"type": "lora", "rank": 4}
_HEAD = "base_model.model.classifier.modules_to_save.default.weight"
_UPDATE = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.default.weight"


def renamed(project: Project, name: str, labels: dict[str, str] | None) -> Path:
    """A copy of the adapter whose configuration has other labels, or which has none."""
    folder = project.folder / name
    shutil.copytree(project.folder / "used" / "adapter", folder)
    if labels is None:
        (folder / "config.json").unlink()
        return folder
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "id2label": labels}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("same", {"0": "negative", "1": "positive"}, "head kept: the adapter's own head has these labels"),
        ("others", {"0": "no", "1": "yes"}, "head left out: its labels are others"),
        ("turned", {"0": "positive", "1": "negative"}, "head left out: its labels are in another order"),
        ("unknown", None, "head left out: no config.json beside the adapter says which labels its head has"),
    ],
)
def test_the_head_of_an_adapter_is_kept_when_its_labels_match_by_name(
    labelled: Project, name: str, labels: dict[str, str] | None, said: str, tmp_path: Path
) -> None:
    adapter = renamed(labelled, name, labels)
    found = compiled(labelled, {**LABELLED, "from": name})
    [choice] = [choice for choice in found.plan.choices if choice.pointer == "/method/from"]
    assert f"{choice.value}: {choice.reason}" == said
    step = train_step(found.plan)
    engine = backend("pytorch").load_engine(step, labelled.model, tmp_path / "i", placed(), adapter)
    plain = backend("pytorch").load_engine(step, labelled.model, tmp_path / "i", placed())
    assert isinstance(engine, TorchEngine) and isinstance(plain, TorchEngine)
    stored = load_file(adapter / "adapter_model.safetensors")

    def is_of_adapter(place: str) -> bool:
        value, other = (each.model.get_parameter(place).detach().numpy() for each in (engine, plain))
        assert not np.array_equal(stored[saved_name(place)], other), "else it would say nothing"
        assert any(np.array_equal(value, each) for each in (stored[saved_name(place)], other))
        return np.array_equal(value, stored[saved_name(place)])

    assert is_of_adapter(_HEAD) is said.startswith("head kept")
    assert is_of_adapter(_UPDATE)


def test_what_becomes_of_the_head_is_in_the_key_of_the_training(labelled: Project) -> None:
    method = {**LABELLED, "from": "key"}
    adapter = renamed(labelled, "key", {"0": "negative", "1": "positive"})
    before = compiled(labelled, method).plan
    shutil.rmtree(adapter)
    renamed(labelled, "key", {"0": "no", "1": "yes"})
    after = compiled(labelled, method).plan
    assert before.keys()["train"] != after.keys()["train"]
    assert Plan.from_json(after.to_json()) == after


def test_the_plan_has_the_hashes_of_the_adapter_in_its_key_and_not_its_path(project: Project) -> None:
    method = {**METHODS["ia3"], "from": "ia3/adapter"}
    plan = compiled(project, method).plan
    step = train_step(plan)
    assert step.adapter is not None
    assert (step.adapter.id, sorted(step.adapter.files)) == (
        "./ia3/adapter",
        ["adapter_config.json", "adapter_model.safetensors"],
    )
    shutil.copytree(project.folder / "ia3", project.folder / "moved", dirs_exist_ok=True)
    moved = compiled(project, {**method, "from": "moved/adapter"}).plan
    assert moved.keys() == plan.keys()
    file = project.folder / "moved" / "adapter" / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    assert compiled(project, {**method, "from": "moved/adapter"}).plan.keys()["train"] != plan.keys()["train"]
    assert Plan.from_json(plan.to_json()) == plan
    assert to_json(step.method)["from"] == "ia3/adapter"
    assert compiled(project, METHODS["ia3"]).plan.keys()["train"] != plan.keys()["train"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"type": "lora", "rank": 8, "from": "lora/adapter"}, "its r is 4 and not 8, lora_alpha is 8.0 and not 16.0"),
        ({"type": "lora", "rank": 4, "alpha": 3, "from": "lora/adapter"}, "its lora_alpha is 8.0 and not 3"),
        ({"type": "dora", "rank": 4, "from": "lora/adapter"}, "its use_dora is false and not true"),
        ({"type": "ia3", "from": "lora/adapter"}, 'its peft_type is "LORA" and not "IA3"'),
        ({"type": "lora", "rank": 4, "target_modules": ["query"], "from": "lora/adapter"}, "of other target modules"),
        ({"type": "layer-norm", "target_modules": ["embeddings.LayerNorm"], "from": "layer-norm/adapter"},
         "of other target modules"),
        ({"type": "lora", "from": "nowhere"}, 'there is no adapter in "nowhere"'),
        ({"type": "lora", "from": "model"}, 'there is no adapter in "model"'),
        ({"type": "lora", "from": "../../../../../etc"}, "is outside of the project"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_method_is_named_with_what_differs(
    project: Project, method: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        compiled(project, method)
    [found, *_] = caught.value.diagnostics
    assert found.code in ("R232", "R302")
    assert found.pointer == "/method/from"
    assert said in found.message


def test_an_adapter_that_can_t_be_read_is_named(project: Project) -> None:
    broken = project.folder / "broken"
    shutil.copytree(project.folder / "ia3" / "adapter", broken, dirs_exist_ok=True)
    (broken / "adapter_config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"not a JSON object"):
        compiled(project, {"type": "ia3", "from": "broken"})
    (broken / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(RecipeError, match="can't be read"):
        compiled(project, {"type": "ia3", "from": "broken"})
    shutil.copyfile(project.folder / "ia3" / "adapter" / "adapter_config.json", broken / "adapter_config.json")
    (broken / "config.json").write_text('{"id2label": {"first": "no"}}', encoding="utf-8")
    with pytest.raises(RecipeError, match="can't be read"):
        compiled(project, {"type": "ia3", "from": "broken"})


def varied(project: Project, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """An adapter as that of a method, with other weights, in varied/NAME of the project."""
    folder = project.folder / "varied" / name
    shutil.copytree(project.folder / name / "adapter", folder, dirs_exist_ok=True)
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def wider(end: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Every weight with this end of its name, with more numbers in each row; or more of them."""
    return lambda found: {
        name: np.repeat(value, 2, axis=-1) if name.endswith(end) else value for name, value in found.items()
    }


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("lora", wider("lora_A.weight"), r"lora_A\.weight has the shape \[4, 64\] and not \[4, 32\]"),
        ("lora", wider("word_embeddings.weight"), r"word_embeddings\.weight has the shape \[77, 64\] and not"),
        ("lora", lambda found: {name: value for name, value in found.items() if "embeddings" not in name},
         r"it lacks embeddings\.word_embeddings\.weight"),
        ("lora", lambda found: {**found, "base_model.model.bert.pooler.dense.weight": np.zeros((32, 32), np.float32)},
         r"it has bert\.pooler\.dense\.weight besides"),
        ("dora", wider("lora_magnitude_vector"), r"lora_magnitude_vector has the shape \[64\] and not \[32\]"),
        ("dora", lambda found: {name: value for name, value in found.items() if not name.endswith("lora_B.weight")},
         r"it lacks encoder\.layer\.0\..*\.lora_B\.weight"),
        ("ia3", wider("output.dense.ia3_l"), r"output\.dense\.ia3_l has the shape \[1, 96\] and not \[1, 48\]"),
        ("layer-norm", wider("ln_tuning_layers.bias"), r"ln_tuning_layers\.bias has the shape \[64\] and not \[32\]"),
    ],
)  # fmt: skip
def test_an_adapter_of_other_shapes_is_refused_while_the_recipe_is_checked(
    project: Project, name: str, change: Callable[[dict[str, Any]], dict[str, Any]], said: str
) -> None:
    varied(project, name, change)
    with pytest.raises(RecipeError, match=said) as caught:
        compiled(project, {**METHODS[name], "from": f"varied/{name}"})
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R232", "/method/from")


def test_a_head_of_other_labels_is_no_hindrance(project: Project) -> None:
    varied(
        project,
        "ia3",
        lambda found: {name: np.repeat(v, 3, 0) if "classifier" in name else v for name, v in found.items()},
    )
    assert train_step(compiled(project, {**METHODS["ia3"], "from": "varied/ia3"}).plan).adapter is not None


@pytest.mark.parametrize("first", ["kaiming", "gaussian"])
def test_first_values_are_not_told_twice(project: Project, first: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compiled(project, {**METHODS["lora"], "initialization": first, "from": "lora/adapter"})
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R202", "/method/initialization")


def test_an_adapter_without_a_saved_module_is_refused_before_training(project: Project, tmp_path: Path) -> None:
    """While the recipe is checked; and by the engine, where names that only the model knows could part."""
    method = {**METHODS["ia3"], "modules_to_save": ["pooler"]}
    with pytest.raises(RecipeError, match=r"it lacks pooler\.dense\.") as refused:
        compiled(project, {**method, "from": "ia3/adapter"})
    assert [each.code for each in refused.value.diagnostics] == ["R232"]
    step = train_step(compiled(project, method).plan)
    with pytest.raises(RunError, match=r"it lacks base_model\.model\.bert\.pooler\.dense") as caught:
        backend("pytorch").load_engine(
            step, project.model, tmp_path / "i", placed(), project.folder / "ia3" / "adapter"
        )
    assert caught.value.code == "E406"


def test_a_run_begins_with_the_adapter_and_refuses_one_that_has_changed(project: Project) -> None:
    """The first step's loss is the adapter's and not the base's."""
    shutil.copytree(project.folder / "ia3", project.folder / "used", dirs_exist_ok=True)
    first = {}
    for name, method in (("begun", {**METHODS["ia3"], "from": "used/adapter"}), ("fresh", METHODS["ia3"])):
        found = compiled(project, method, max_steps=1)
        runs = project.folder / "runs" / name
        list(execute(found.plan, found.placement, runs=runs, root=project.folder, sources=FACTS.sources))
        [curve] = [json.loads(file.read_text(encoding="utf-8"))["curve"] for file in runs.rglob("train.json")]
        first[name] = curve[0]["loss"]
    assert first["begun"] != pytest.approx(first["fresh"], rel=1e-3)
    file = project.folder / "used" / "adapter" / "adapter_model.safetensors"
    found = compiled(project, {**METHODS["ia3"], "from": "used/adapter"}, max_steps=1)
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(SourceError, match=r"adapter_model\.safetensors of the adapter \./used/adapter has changed"):
        list(
            execute(
                found.plan,
                found.placement,
                runs=project.folder / "runs" / "changed",
                root=project.folder,
                sources=FACTS.sources,
            )
        )
