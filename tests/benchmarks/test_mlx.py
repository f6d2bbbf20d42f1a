"""The benchmarks of MLX in their smallest size: both sides of each train alike, so that their times can be compared."""

import json
import sys
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

from benchmarks import mlx_vs_mlx_lm, mlx_vs_torch

STEPS = 2
RELATIVE = 1e-5  # float32, summed in other orders


def test_bert_has_the_same_losses_on_mlx_and_on_pytorch(monkeypatch) -> None:
    losses = {}
    for engine in mlx_vs_torch.ENGINES:
        words = ["--batch-size", "2", "--length", "8", "--steps", "1", "--engine", engine]
        monkeypatch.setattr(sys, "argv", ["mlx_vs_torch", *words])
        found = mlx_vs_torch.measured(mlx_vs_torch.arguments())
        assert found["seconds"] > 0
        losses[engine] = found["losses"]
    assert losses["mlx"] == pytest.approx(losses["pytorch"], rel=RELATIVE)
    assert losses["mlx"][-1] < losses["mlx"][0]


def test_the_lowered_llama_has_the_losses_of_mlx_lm(monkeypatch, capsys) -> None:
    [run] = beside_mlx_lm("speed", monkeypatch, capsys)["runs"]
    assert len(run["recipec"]["seconds"]) == len(run["mlx-lm"]["seconds"]) == STEPS
    assert run["recipec"]["losses"] == pytest.approx(run["mlx-lm"]["losses"], rel=RELATIVE)


@pytest.mark.long
def test_the_lowered_llama_has_the_exact_loss_and_gradient(monkeypatch, capsys) -> None:
    loss, change, *gradients = beside_mlx_lm("losses", monkeypatch, capsys)["exactness"]
    assert loss["ours"] == pytest.approx(loss["exact"], rel=RELATIVE)
    assert change["ours"] == 0
    assert [gradient["ours"] < RELATIVE for gradient in gradients] == [True, True]


def beside_mlx_lm(part: str, monkeypatch, capsys) -> dict[str, Any]:
    """The figures of one part of the benchmark on a tiny Llama."""
    pytest.importorskip("mlx_lm", reason="needs the mlx extra")
    size = {"layers": 1, "hidden": 32, "heads": 2, "kv-heads": 1, "vocabulary": 64, "batch-size": 2, "length": 16}
    words = [word for name, value in size.items() for word in (f"--{name}", str(value))]
    asked = ["--steps", str(STEPS), "--repeats", "1", "--only", part, "--json"]
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["mlx_vs_mlx_lm", *words, *asked])
    mlx_vs_mlx_lm.main()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
