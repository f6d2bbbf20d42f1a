"""Every program of benchmarks/ can be started."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py"))
SHARED = {"peer_checks", "rounds"}  # what programs import


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_what_it_measures_and_how_it_is_asked(name: str, monkeypatch, capsys) -> None:
    module = import_module(f"benchmarks.{name}")
    assert hasattr(module, "main") == (name not in SHARED)
    if name in SHARED:
        return
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(f"usage: {name} ")
    assert (module.__doc__ or "no docstring").splitlines()[0] in said
