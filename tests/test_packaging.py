"""What the distribution holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SCRIPTS = {"compiler/schema.py", "compiler/reference.py"}  # each writes one committed file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built as an installer builds it."""
    pytest.importorskip("hatchling", reason="needs the dev extra")
    folder = tmp_path_factory.mktemp("dist")
    quiet = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", folder, PROJECT], check=True, timeout=120
    )
    [built] = folder.glob("recipec-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_compiler_and_runtimes_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name.partition("/")[0] for name in wheel.namelist()}
    [about] = [name for name in names if name.endswith(".dist-info")]
    assert names == {"compiler", "runtimes", about}


@pytest.mark.parametrize("half", ["compiler", "runtimes"])
def test_the_tree_of_the_readme_has_every_file_of_a_half_and_no_other(half: str) -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    [tree] = re.findall(rf"^    {half}/ .*\n((?:      .*\n)+)", readme, re.MULTILINE)
    files = {path.name for path in (PROJECT / half).glob("*.py")} - {"__init__.py"}
    below = {path.name for path in (PROJECT / half).glob("*/**/*.py")}
    named = set(re.findall(r"\w+\.py", tree))
    assert files - named == set()
    assert named - files - below == set()


def test_the_wheel_holds_every_committed_source(wheel: zipfile.ZipFile) -> None:
    sources = {
        str(path.relative_to(PROJECT)) for half in ("compiler", "runtimes") for path in PROJECT.glob(f"{half}/**/*.py")
    }
    assert sources | {"compiler/recipe.schema.json"} <= set(wheel.namelist())


def test_the_wheel_brings_the_recipe_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    [points] = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert "recipe = compiler.cli:main" in wheel.read(points).decode()
    assert [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]


def test_a_plain_install_brings_no_framework(wheel: zipfile.ZipFile) -> None:
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    required = [line for line in wheel.read(metadata).decode().splitlines() if line.startswith("Requires-Dist:")]
    base = {re.split(r"[^\w-]", line.split()[1])[0] for line in required if "extra ==" not in line}
    assert {"click", "jinja2", "tokenizers"} <= base
    assert not base & {"torch", "transformers", "peft", "accelerate", "datasets", "onnx", "onnxruntime", "mlx"}


def test_nothing_else_in_the_wheel_runs_as_a_script() -> None:
    sources = [path for half in ("compiler", "runtimes") for path in (PROJECT / half).rglob("*.py")]
    scripts = {path.relative_to(PROJECT).as_posix() for path in sources if _runs_as_script(path)}
    assert scripts <= SCRIPTS


@pytest.mark.parametrize("folder", ["tests", "recipes"])
def test_a_folder_of_data_or_tests_is_no_package(folder: str) -> None:
    assert not list((PROJECT / folder).rglob("__init__.py"))


def _runs_as_script(path: Path) -> bool:
    """Whether it is a `__main__.py`, or reads `__name__` to learn that it was started."""
    tests = [node.test for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.If)]
    return path.name == "__main__.py" or any("'__main__'" in ast.unparse(test) for test in tests)
