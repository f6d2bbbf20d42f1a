"""The committed recipes on the real model and rows: every one compiles, and the quickstart reaches its figures."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.cli.conftest import invoke
from tests.cli.test_bundle import scale_a_weight, stop_lower_casing, swap_labels

ROOT = Path(__file__).parents[1]
MIRROR = ROOT / ".mirror"
ROWS = ROOT / "recipes" / "data" / "movie-reviews.jsonl"
ANSWERS = {
    "movie-valence": "targets from -3.875 to 3.73333",
    "entity-tags": "9 tags of 5 kinds",
    "entity-spans": "11 tags of 5 kinds",
    "alpaca": "tokens of conversations",
    "review-words": "tokens to train on",
    "wiki": "tokens to train on",
    "fashion-mnist": "10 labels",
    "django-de": "7,709 tokens to write",
    "mail-subjects": "14,134 tokens to write",
    "mail-extracts": "32,724 tokens to write",
    "email-answers": "576 rows without an answer",
}
RECIPES = sorted((ROOT / "recipes").glob("*.json"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MIRROR.exists() and ROWS.exists()), reason="`make fixtures` gets the real model and rows"),
]


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPE_MIRROR", str(MIRROR))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield patch


@pytest.fixture(scope="module")
def quickstart(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs in which the quickstart was run once."""
    runs = tmp_path_factory.mktemp("quickstart") / "runs"
    done = invoke("run", ROOT / "recipes" / "quickstart.json", "--runs", runs, "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    return runs


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_committed_recipe_compiles(environment: pytest.MonkeyPatch, recipe: Path) -> None:
    if missing := [path.relative_to(ROOT) for path in needs(recipe) if not path.exists()]:
        pytest.skip(f"`make fixtures FIXTURES=--all` gets {missing[0]}")
    done = invoke("check", recipe, "--target", "cpu")
    assert done.exit_code == 0, done.output
    answers = next((said for name, said in ANSWERS.items() if recipe.stem.startswith(name)), "2 labels")
    assert answers in done.output


def needs(recipe: Path) -> list[Path]:
    """The model and files that a recipe names, and those of the recipe that it extends."""
    written = json.loads(recipe.read_text(encoding="utf-8"))
    inherited = needs(recipe.parent / written["extends"]) if "extends" in written else []
    model = written.get("model", {"id": ""})  # a recipe that extends another may have none
    models = [MIRROR / (model["id"] if isinstance(model, dict) else model)]
    datasets = [stage.get("dataset", {}) for stage in written.get("stages", [written])]
    return [*inherited, *models, *(recipe.parent / path for dataset in datasets for path in paths_in(dataset))]


def paths_in(dataset: dict[str, Any]) -> list[str]:
    """The files that a recipe's splits name."""
    splits = [dataset.get(name) for name in ("train", "validation", "test")]
    found = [split if isinstance(split, str) else (split or {}).get("path") for split in splits]
    return [path for path in found if path]


def test_the_quickstart_beats_frozen_features_and_the_majority_class(quickstart: Path) -> None:
    report = json.loads((quickstart / "quickstart" / "report.json").read_text())
    assert report["data"]["train"]["rows"] >= 2000
    assert report["evaluation"]["rows"] >= 1000
    assert report["evaluation"]["metrics"]["accuracy"] >= 0.82  # frozen features and a logistic regression: 0.747
    assert report["evaluation"]["baseline"]["majority"]["accuracy"] < 0.52


def test_the_export_answers_every_held_out_row_as_the_trained_model(quickstart: Path) -> None:
    gate = json.loads((quickstart / "quickstart" / "report.json").read_text())["gates"]["verify"]
    checks = {check["name"]: check for edge in gate["verification"]["edges"] for check in edge["checks"]}
    assert checks["outputs"]["rows"] >= 1000
    assert checks["outputs"]["max_abs"] <= gate["tolerance"] < 1e-3
    assert checks["decisions"]["agreeing"] == checks["decisions"]["rows"]
    assert checks["metrics"]["source"] == checks["metrics"]["other"]


@pytest.mark.parametrize(
    ("damage", "check"),
    [(scale_a_weight, "outputs_batch_1"), (swap_labels, "decisions"), (stop_lower_casing, "outputs_batch_1")],
)
def test_damage_to_the_real_bundle_is_caught_after_sealing_it_again(
    quickstart: Path, tmp_path: Path, damage: Callable[[Path], None], check: str
) -> None:
    from runtimes.bundles.manifest import read_manifest, seal

    bundle = Path(shutil.copytree(quickstart / "quickstart" / "bundle", tmp_path / "bundle"))
    damage(bundle)
    seal(bundle, read_manifest(bundle))
    done: Result = invoke("verify", bundle)
    assert done.exit_code == 3
    assert check in [line.split()[4] for line in done.output.splitlines() if line.startswith("FAIL")]
