"""A receiver has onnxruntime, tokenizers and numpy: predicting and verifying import nothing else."""

import json
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from tests.blocked import only

ROOT = Path(__file__).parents[2]
USE = """
import json, sys
from pathlib import Path
from typing import Any
from runtimes.bundles.bundle import open_bundle
from runtimes.verification.gate import report_lines
from runtimes.verification.receiver import verify_bundle

folder = Path(sys.argv[1])
found = open_bundle(folder, threads=1).predict([{"text": "a GOOD film"}, {"text": ""}])
verification = verify_bundle(folder)
lines = report_lines(verification)
print(json.dumps([[p["label"], p["score"]] for p in found]))
print(json.dumps([verification.passed, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
FRAMEWORKS = {"torch", "transformers", "peft", "onnx", "jsonschema", "huggingface_hub", "click", "rich", "safetensors"}


def child(python: str, code: str, bundle: Path) -> list[Any]:
    done = subprocess.run(
        [python, "-c", code, str(bundle)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_bundle_predicts_and_verifies_where_every_other_package_is_blocked(tiny) -> None:
    from runtimes.bundles.bundle import open_bundle

    predictions, [passed, modules] = child(
        sys.executable, only("numpy", "onnxruntime", "tokenizers") + USE, tiny.bundle
    )
    here = open_bundle(tiny.bundle, threads=1).predict([{"text": "a GOOD film"}, {"text": ""}])
    assert predictions == [[prediction["label"], pytest.approx(prediction["score"], abs=1e-6)] for prediction in here]
    assert passed
    assert not FRAMEWORKS & set(modules)


def install(python: str, wanted: list[str]) -> None:
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"the package index can't be reached: {done.stderr.strip()[-200:]}")


@pytest.mark.slow
def test_a_bundle_predicts_and_verifies_in_an_environment_of_three_packages(tiny, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    tokenizers, *others = [f"{name}=={version(name)}" for name in ("tokenizers", "onnxruntime", "numpy")]
    # tokenizers asks for huggingface-hub, which it uses only to download.
    for wanted in ([*others], ["--no-deps", tokenizers]):
        install(python, wanted)
    predictions, [passed, modules] = child(python, USE, tiny.bundle)
    assert (len(predictions), passed) == (2, True)
    assert not FRAMEWORKS & set(modules)
