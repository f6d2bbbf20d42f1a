"""recipe pass-at-k on a tiny model that learnt to answer: answers are drawn, and a program judges them."""

import json
import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from click.testing import Result

from tests.cli.conftest import invoke
from tests.tiny import prompts, write_language_project

JUDGE = """\
import json, sys
given = json.load(sys.stdin)
sys.exit(given["answer"] != given["row"]["completion"])
"""


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_language_project(
        tmp_path_factory.mktemp("chat") / "project",
        prompts(120),
        task="text-generation",
        training={"epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "max_length": 48},
        generation={"max_new_tokens": 6, "rows": 4},
        export=["onnx"],
    )
    done = invoke("run", folder / "recipe.json", "--runs", folder / "runs", "--target", "cpu", "--quiet")
    assert done.exit_code == 0, done.output
    (folder / "judge.py").write_text(JUDGE)
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts(8)))
    return folder


def measure(folder: Path, *options: str | Path, judge: str = "judge.py") -> Result:
    command = shlex.join([sys.executable, str(folder / judge)])
    given = ("--input", folder / "asked.jsonl", "--command", command, "--timeout", "60", *options)
    return invoke("pass-at-k", folder / "runs" / "tiny", *given)


def test_shares_are_those_of_the_verdicts_that_are_written(chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged.jsonl"
    done = measure(chat, "--samples", "4", "-k", "1", "-k", "4", "--temperature", "1.5", "--json", "-o", out)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["row"] for row in rows] == prompts(8)
    passed = [[answer["verdict"] == "passed" for answer in row["answers"]] for row in rows]
    for row, verdicts in zip(rows, passed, strict=True):
        assert verdicts == [answer["text"] == row["row"]["completion"] for answer in row["answers"]]
    assert found["pass@1"] == pytest.approx(sum(map(sum, passed)) / 32)
    assert found["pass@4"] == pytest.approx(sum(map(any, passed)) / 8)
    assert (found["rows"], found["samples"], found["timed_out"], found["temperature"]) == (8, 4, 0, 1.5)
    assert len({answer["text"] for row in rows for answer in row["answers"]}) > 2, "answers are drawn"


def test_the_same_answers_are_drawn_again(chat: Path) -> None:
    first, second = (measure(chat, "--samples", "2", "--json").stdout for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--samples", "2", "-k", "3"), "-k 3: only 2 answers are drawn; raise --samples"),
        (("--timeout", "nan"), "nan is no number"),
        (("--temperature", "inf"), "0<x<=100"),
        (("--command", "no-such-judge"), "there is no program no-such-judge to start"),
        (("--command", "judge 'unclosed"), "No closing quotation"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_drawn(chat: Path, options: tuple[str, ...], said: str) -> None:
    done = measure(chat, *options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_program_that_can_not_be_started_is_named(chat: Path) -> None:
    script = chat / "no-interpreter"
    script.write_text("exit 0\n")
    script.chmod(0o755)
    done = measure(chat, "--samples", "1", "--command", str(script))
    assert done.exit_code == 2
    assert "--command:" in done.output and "Exec format error" in done.output


def test_a_row_that_can_not_be_read_is_said_before_anything_is_drawn(chat: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text((chat / "asked.jsonl").read_text() + '{"prompt": 5}\n')
    done = measure(chat, "--input", rows)
    assert done.exit_code == 1
    assert "rows.jsonl:9:1: error[R313]" in done.output


def test_a_task_that_writes_nothing_is_refused(chat: Path, finished: Path) -> None:
    done = invoke("pass-at-k", finished / "runs" / "tiny", "--input", chat / "asked.jsonl", "--command", sys.executable)
    assert done.exit_code == 2
    assert "the task text-classification writes no texts" in " ".join(done.output.split())
