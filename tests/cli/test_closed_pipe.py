"""A reader that has what it wanted, as `| head -1` has, ends a command without a word and with one exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAIN = "from compiler.cli import main; main(prog_name='recipe')"
LEFT = 128 + 13  # what a shell shows for a program that SIGPIPE ended


def start(
    arguments: list[str], folder: Path, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=stderr)


def unread(arguments: list[str], folder: Path, *names: str) -> tuple[int, bytes]:
    """Exit code of `recipe ARGUMENTS`, of which nobody reads the streams NAMES, and what the other one said."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {name: writer if name in names else subprocess.PIPE for name in ("stdout", "stderr")}
    try:
        process = start(arguments, folder, **streams)
        out, err = process.communicate(timeout=120)
    finally:
        os.close(writer)
    return process.returncode, (out or b"") + (err or b"")


def write_recipe(folder: Path) -> None:
    (folder / "good.json").write_text((ROOT / "recipes" / "quickstart.json").read_text(encoding="utf-8"))
    (folder / "bad.json").write_text('{"recipe": 1, "nmae": "x"}')


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["check", "--help"],
        ["predict", "--help"],
        ["check", "--no-facts", "good.json"],
        ["check", "bad.json"],
        ["explain"],
        ["explain", "R101"],
        ["schema"],
        ["doctor"],
        ["runs"],
    ],
    ids=" ".join,
)
def test_a_command_whose_output_nobody_reads_is_silent_and_exits_141(arguments: list[str], tmp_path: Path) -> None:
    write_recipe(tmp_path)
    assert unread(arguments, tmp_path, "stdout") == (LEFT, b"")


@pytest.mark.parametrize(
    "arguments", [["--nope"], ["chekc"], ["check"], ["check", "--format", "xml", "good.json"], ["plan", "bad.json"]]
)
@pytest.mark.parametrize("names", [("stderr",), ("stdout", "stderr")], ids="+".join)
def test_errors_that_nobody_reads_end_alike(arguments: list[str], names: tuple[str, ...], tmp_path: Path) -> None:
    write_recipe(tmp_path)
    assert unread(arguments, tmp_path, *names) == (LEFT, b"")


def test_an_error_on_a_stream_that_is_read_is_still_said(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    code, said = unread(["plan", "bad.json"], tmp_path, "stdout")
    assert code == 1
    assert b"error[R101]" in said


def test_answers_stop_when_their_reader_has_enough(finished: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = json.dumps({"snippet": "a great movie " + "x" * 200}) + "\n"
    rows.write_text(row * 2000)  # more answers than a pipe holds
    bundle = str(finished / "runs" / "tiny" / "bundle")
    process = start(["predict", bundle, "--input", str(rows)], tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=120) == LEFT
    assert first["prediction"]["label"] in ("negative", "positive")


@pytest.mark.parametrize("names", [("stdout",), ("stdout", "stderr")], ids="+".join)
@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"]], ids=str)
def test_a_run_that_nobody_watches_ends_alike(project: Path, names: tuple[str, ...], options: list[str]) -> None:
    code, said = unread(["run", "recipe.json", "--target", "cpu", *options], project, *names)
    assert code == LEFT
    assert b"Traceback" not in said
    assert b"error[" not in said


def test_a_broken_connection_is_no_closed_pipe() -> None:
    from compiler.cli.main import closed_pipe

    with pytest.raises(BrokenPipeError), closed_pipe():
        raise BrokenPipeError
