"""Devices of the installation of PyTorch, and models that are not whole."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("transformers", reason="needs the torch extra")

from runtimes.errors import RunError  # noqa: E402
from runtimes.pytorch.devices import describe_devices, limit_memory, require_device  # noqa: E402
from runtimes.pytorch.loading import SourceError, load_source  # noqa: E402


def test_the_cpu_is_always_there() -> None:
    require_device("cpu")
    assert describe_devices()[0].startswith("cpu (")


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_e407_with_one_that_is(kind: str) -> None:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if there[kind]:
        pytest.skip(f"{kind} is there")
    with pytest.raises(RunError) as caught:
        require_device(kind)
    assert caught.value.code == "E407"
    assert "--target cpu" in caught.value.hint


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_has_no_room_beyond_the_limit() -> None:
    limit_memory("cuda", 1)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * 2**30, dtype=torch.uint8, device="cuda")
    finally:
        limit_memory("cuda", 10_000)  # more than there is: all of it


def test_a_folder_without_weights_is_e502(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SourceError, match=r"no \*\.safetensors there") as caught:
        load_source(tmp_path)
    assert caught.value.code == "E502"
