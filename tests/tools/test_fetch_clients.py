"""Programs of others are pinned whole, and an environment without npm is told what it lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tools.fetch_clients import FILES, PINNED, ClientsError, are_there, install


def test_every_package_has_a_version_and_a_hash() -> None:
    lock = json.loads((PINNED / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert "node_modules/@huggingface/transformers" in packages
    for name, package in packages.items():
        assert package["version"], name
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name  # from whichever registry is set


def test_clients_are_there_when_they_are_those_that_are_pinned(tmp_path: Path) -> None:
    assert not are_there(tmp_path)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / ".package-lock.json").write_text("{}")
    for name in FILES:
        shutil.copyfile(PINNED / name, tmp_path / name)
    assert are_there(tmp_path)
    assert install(tmp_path).startswith("all there")
    (tmp_path / "package-lock.json").write_text("{}")
    assert not are_there(tmp_path)


def test_without_npm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ClientsError, match="npm is missing"):
        install(tmp_path / "clients")
