"""The files of a tokenizer are listed once, and whatever is read beside it goes where it goes."""

from __future__ import annotations

from pathlib import Path

from compiler.tokenizer_files import BESIDE, CARRIED, TOKENIZER

ROOT = Path(__file__).parents[2]
READS_IT = {"compiler/tokenizer_files.py", "compiler/templates.py"}  # the list; what reads the file


def test_no_other_module_lists_them() -> None:
    sources = [path for half in ("compiler", "runtimes") for path in (ROOT / half).rglob("*.py")]
    named = {path.relative_to(ROOT).as_posix() for path in sources if "special_tokens_map" in path.read_text("utf-8")}
    assert named == READS_IT


def test_what_is_read_beside_a_tokenizer_is_copied_with_it(tmp_path: Path) -> None:
    from runtimes.steps.train import copy_tokenizer

    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    for name in (TOKENIZER, *BESIDE, "vocab.txt", "pytorch_model.bin"):
        (source / name).write_text(name, encoding="utf-8")
    copy_tokenizer(source, target)
    assert {path.name for path in target.iterdir()} == {TOKENIZER, *CARRIED}
