"""`recipe init` on a terminal: what it asks, what it says to an answer that can't be, and that it asks again."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.cli.draft import DEFAULT_MODEL
from tests.small import write_model

pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")

ROOT = Path(__file__).parents[2]
# What starts tests in the background may have them ignore Ctrl-C, and their children inherit that.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from compiler.cli import main
main(prog_name="recipe")
"""
REVIEWS = [f"a review of {number} words, more or less" for number in range(40)]
MOODS = ["good", "bad"] * 20
NAME, FILE, TASK, TEXT = "name of the recipe", "another file", "task (", "column with the text"
LABEL, TARGET = "column with the label", "column with the target"
MODEL, METHOD = "model (a folder", "method (full"
QUESTIONS = {"name": NAME, "task": TASK, "text": TEXT, "label": LABEL, "model": MODEL, "method": METHOD}


class Terminal:
    """`recipe init` in a process whose terminal is ours."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.screen, inside = os.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
        environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HOME": str(folder / "hub")}
        environment["RECIPE_MIRROR"] = str(folder / "mirror")
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "init", *arguments],
            cwd=folder,
            env=environment,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)

    def read(self) -> str:
        """What is written next; nothing when the process has ended."""
        ready, _, _ = select.select([self.screen], [], [], 60)
        assert ready, "nothing is written, and nothing is to be answered"
        try:
            return os.read(self.screen, 65536).decode()
        except OSError:  # how Linux says that nobody has the other side any more
            return ""

    def until(self, question: str) -> str:
        """What is written up to a question, with the question."""
        seen = ""
        while question not in seen or not seen.endswith(": "):
            more = self.read()
            assert more, f"no {question!r} after {seen!r}"
            seen += more
        return seen.replace("\r", "")

    def answer(self, question: str, answer: str) -> str:
        """Answers a question; what was written before it."""
        seen = self.until(question)
        os.write(self.screen, f"{answer}\n".encode())
        return seen

    def end(self) -> tuple[int, str]:
        """The exit code, and what was written at last."""
        seen = ""
        while more := self.read():
            seen += more
        return self.process.wait(timeout=60), seen.replace("\r", "")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)


class Folder:
    """A folder with rows in it, in which terminals are opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for model in (DEFAULT_MODEL, "org/model"):
            write_model(path / "mirror" / model)
        self.opened: list[Terminal] = []

    def init(self, *arguments: str) -> Terminal:
        self.opened.append(Terminal(self.path, *arguments))
        return self.opened[-1]

    def recipe_of(self, *arguments: str) -> Any:
        """The recipe that is written with Enter at every question but those that flags answer."""
        code, said = self.init("rows.jsonl", "--yes", *arguments).end()
        assert code == 0, said
        return self.recipe()

    def write(self, name: str = "rows.jsonl", **columns: list[Any]) -> str:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        (self.path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return name

    def recipe(self, name: str = "rows.json") -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    for terminal in made.opened:
        terminal.close()


def answer_all(terminal: Terminal, **answers: str) -> tuple[int, str]:
    """Answers each question by its name here, with Enter where nothing is named; exit code and last words."""
    for name, question in QUESTIONS.items():
        terminal.answer(question, answers.get(name, ""))
    return terminal.end()


def test_enter_takes_every_guess(folder: Folder) -> None:
    rows = folder.write(id=list(range(40)), review=REVIEWS, mood=MOODS)
    code, said = answer_all(folder.init(rows))
    assert (code, "wrote rows.json" in said) == (0, True)
    recipe = folder.recipe()
    assert recipe["dataset"]["columns"] == {"text": "review", "label": "mood"}
    assert (recipe["name"], recipe["method"]) == ("rows", "full")


def test_the_columns_are_shown_before_anything_is_asked(folder: Folder) -> None:
    rows = folder.write(id=list(range(40)), review=REVIEWS, mood=MOODS, note=[None] * 40)
    assert folder.init(rows).until(NAME).splitlines()[:5] == [
        "rows.jsonl has 4 columns:",
        "  id      40 values: 0, 1, 2, …",
        "  review  text of 34 characters on average",
        "  mood    2 values: good, bad",
        "  note    empty",
    ]


# The question, an answer that can't be, what is said to it, and an answer that can.
WRONG_ANSWERS = {
    "name": (NAME, "my recipe", "letters, digits, dots, dashes and underscores", "mine"),
    "task": (TASK, "regresion", 'no task "regresion": did you mean', "text-classification"),
    "misspelt": (TEXT, "reveiw", 'no column "reveiw": did you mean "review"?', "review"),
    "not-text": (TEXT, "id", '"id" has no text in most rows (40 values: 0, 1, 2, …)', "review"),
    "text-as-label": (LABEL, "review", '"review" is the column with the text', "mood"),
    "no-label": (LABEL, "score", '"score" has no label in most rows (2 values: 0.5, 1.5): a label is', "mood"),
    "other-task": (LABEL, "score", '; the task "text-regression" reads such a column, as its target', "mood"),
    "all-different": (LABEL, "id", '"id" has another value in every row: labels repeat', "stars"),
    "spaces": (LABEL, "   moood  ", 'no column "moood": did you mean "mood"?', "  mood "),
    "no-folder": (MODEL, "./mode", 'there is no folder "./mode": did you mean "model"?', "org/model"),
    "no-model": (MODEL, "./model", 'the folder "./model" has no config.json', "org/model"),
    "address": (MODEL, "https://hub/org/model", "is neither a folder nor the id of a model", "org/model"),
    "method": (METHOD, "loar", 'no method "loar": did you mean "lora"?', "lora"),
}


@pytest.mark.parametrize(("question", "wrong", "said", "right"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_a_wrong_answer_is_told_what_is_expected_and_asked_again(
    folder: Folder, question: str, wrong: str, said: str, right: str
) -> None:
    stars = [1, 2, 3, 4, 5] * 8
    rows = folder.write(id=list(range(40)), review=REVIEWS, mood=MOODS, stars=stars, score=[0.5, 1.5] * 20)
    (folder.path / "model").mkdir()
    terminal = folder.init(rows)
    for asked in QUESTIONS.values():
        if asked == question:
            terminal.answer(asked, wrong)
            assert said in terminal.until(asked)
            os.write(terminal.screen, f"{right}\n".encode())
        else:
            terminal.answer(asked, "")
    code, told = terminal.end()
    assert (code, "wrote " in told) == (0, True)
    assert f'"{right.strip()}"' in next(folder.path.glob("*.json")).read_text(encoding="utf-8")


def test_an_empty_answer_without_a_guess_is_told_what_there_is(folder: Folder) -> None:
    rows = folder.write(title=[f"title {number}" for number in range(40)], review=REVIEWS)
    terminal = folder.init(rows)
    for question in (NAME, TASK, TEXT, LABEL):
        terminal.answer(question, "")
    assert 'no column "": columns: review, title' in terminal.until(LABEL)


def test_a_column_with_one_value_in_all_rows_is_asked_for_again(folder: Folder) -> None:
    many = 1200  # more than are looked at for guesses
    reviews = [f"review {number}" for number in range(many)]
    rows = folder.write(review=reviews, source=["web"] * many, mood=["good", "bad"] * (many // 2))
    terminal = folder.init(rows)
    for question in (NAME, TASK, TEXT):
        terminal.answer(question, "")
    terminal.answer(LABEL, "source")
    assert '--label source:1:9: error[R308] /dataset/columns/label: all rows have the label "web"' in terminal.answer(
        TEXT, ""
    )
    for question in (LABEL, MODEL, METHOD):
        terminal.answer(question, "")
    assert terminal.end()[0] == 0
    assert folder.recipe()["dataset"]["columns"]["label"] == "mood"


def test_a_flag_that_is_wrong_for_the_rows_is_said_and_not_asked_about(folder: Folder) -> None:
    terminal = folder.init(folder.write(id=list(range(40)), review=REVIEWS, mood=MOODS), "--text", "id")
    for question in (NAME, TASK, LABEL):
        terminal.answer(question, "")
    code, said = terminal.end()
    assert code == 1
    assert "--text id:1:8: error[R313] /dataset/columns/text: 40 of 40 rows have no text" in said
    assert 'hint: the column "review" looks like the text (name another with --text)' in said


def test_bad_rows_that_no_answer_can_mend_end_it(folder: Folder) -> None:
    rows = folder.write(review=[*REVIEWS, 3], mood=[*MOODS, "good"])
    terminal = folder.init(rows)
    for question in (NAME, TASK, TEXT, LABEL):
        terminal.answer(question, "")
    code, said = terminal.end()
    assert code == 1
    assert 'rows.jsonl:41:1: error[R313] the column "review": expected text, found the number 3' in said
    assert not (folder.path / "rows.json").exists()


def test_a_file_that_is_there_is_not_replaced_but_another_asked_for(folder: Folder) -> None:
    rows = folder.write(review=REVIEWS, mood=MOODS)
    (folder.path / "rows.json").write_text("mine", encoding="utf-8")
    (folder.path / "folder").mkdir()
    terminal = folder.init(rows)
    terminal.answer(NAME, "")
    assert "rows.json is there already\nanother file for the recipe [rows-2.json]: " in terminal.answer(
        FILE, "rows.json"
    )
    assert "rows.json is there already: name one that is not there" in terminal.answer(FILE, "folder")
    assert "folder is a folder" in terminal.answer(FILE, rows)
    assert "rows.jsonl holds the rows" in terminal.answer(FILE, "")
    for question in (TASK, TEXT, LABEL, MODEL, METHOD):
        terminal.answer(question, "")
    assert terminal.end()[0] == 0
    assert (folder.path / "rows.json").read_text(encoding="utf-8") == "mine"
    assert folder.recipe("rows-2.json")["name"] == "rows"


def test_force_replaces_a_file_and_asks_nothing_about_it(folder: Folder) -> None:
    rows = folder.write(review=REVIEWS, mood=MOODS)
    (folder.path / "rows.json").write_text("mine", encoding="utf-8")
    assert answer_all(folder.init(rows, "--force"))[0] == 0
    assert folder.recipe()["name"] == "rows"


def test_what_a_flag_says_is_not_asked(folder: Folder) -> None:
    rows = folder.write(review=REVIEWS, mood=MOODS)
    flags = ("--text", "review", "--label", "mood", "--name", "mine", "--model", "org/model", "--method", "lora")
    code, said = folder.init(rows, *flags).end()
    assert (code, "wrote mine.json" in said) == (0, True)


def test_a_wrong_flag_is_said_before_anything_is_asked(folder: Folder) -> None:
    code, said = folder.init(folder.write(review=REVIEWS, mood=MOODS), "--label", "moood").end()
    assert code == 2
    assert 'no column "moood": did you mean "mood"?' in said
    assert NAME not in said


def press_ctrl_c(terminal: Terminal) -> None:
    """Interrupts. One that comes just before `input` waits is seen only after the next one."""
    while terminal.process.poll() is None:
        terminal.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            terminal.process.wait(timeout=5)


def press_ctrl_d(terminal: Terminal) -> None:
    os.write(terminal.screen, b"\x04")


@pytest.mark.parametrize("leave", [press_ctrl_c, press_ctrl_d])
def test_leaving_at_a_question_writes_nothing_and_exits_130(folder: Folder, leave: Callable[[Terminal], None]) -> None:
    terminal = folder.init(folder.write(review=REVIEWS, mood=MOODS))
    terminal.until(NAME)
    leave(terminal)
    code, said = terminal.end()
    assert (code, said.endswith("interrupted\n"), "Traceback" in said) == (130, True, False)
    assert not (folder.path / "rows.json").exists()


TABLES = {
    "csv": ("rows.csv", ","),
    "tsv": ("rows.tsv", "\t"),
}


@pytest.mark.parametrize(("name", "separator"), TABLES.values(), ids=TABLES)
def test_tables_with_numbers_as_labels_and_spaces_in_the_header_are_understood(
    folder: Folder, name: str, separator: str
) -> None:
    lines = [f"{number}{separator}{text}{separator}{number % 5}" for number, text in enumerate(REVIEWS)]
    quoted = [line.replace(text, f'"{text}"') for line, text in zip(lines, REVIEWS, strict=True)]
    header = separator.join(["id", "review", " stars"])
    (folder.path / name).write_text("\n".join([header, *quoted]), encoding="utf-8")
    code, said = answer_all(folder.init(name), label="stars")
    assert code == 0, said
    assert folder.recipe()["dataset"]["columns"] == {"text": "review", "label": " stars"}
    assert folder.init(name, "--yes", "--force", "--label", "stars").end()[0] == 0
    assert folder.recipe()["dataset"]["columns"] == {"text": "review", "label": " stars"}


def test_parquet_with_numbers_as_labels_is_understood(folder: Folder) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"review": REVIEWS, "stars": [1, 2] * 20}), folder.path / "rows.parquet")
    code, said = answer_all(folder.init("rows.parquet"))
    assert code == 0, said
    assert folder.recipe()["dataset"]["columns"]["label"] == "stars"


@pytest.mark.parametrize("flags", [(), ("--yes",), ("--text", "a;b", "--label", "b")], ids=str)
def test_a_file_with_one_column_is_one_finding(folder: Folder, flags: tuple[str, ...]) -> None:
    (folder.path / "rows.csv").write_text("a;b\nx;y\n", encoding="utf-8")
    code, said = folder.init("rows.csv", *flags).end()
    assert code == 1
    assert 'rows.csv:1:1: error[R304] the rows have one column, "a;b", and a recipe reads two' in said
    assert "commas separate the columns of .csv" in said


def test_a_long_file_name_gives_a_name_that_can_be(folder: Folder) -> None:
    rows = folder.write("données " + "x" * 80 + ".jsonl", review=REVIEWS, mood=MOODS)
    assert answer_all(folder.init(rows))[0] == 0
    [written] = folder.path.glob("*.json")
    assert written.stem == ("donn-es-" + "x" * 80)[:64]


# the task

SCORES = [number / 8 for number in range(40)]


def test_a_column_of_numbers_is_guessed_as_the_target_of_a_regression(folder: Folder) -> None:
    folder.write(id=list(range(40)), review=REVIEWS, score=SCORES)
    recipe = folder.recipe_of()
    assert (recipe["task"], recipe["metrics"]) == ("text-regression", ["rmse", "mae", "pearson", "r2"])
    assert recipe["dataset"]["columns"] == {"text": "review", "target": "score"}


def test_a_column_of_labels_is_guessed_before_one_of_numbers(folder: Folder) -> None:
    folder.write(review=REVIEWS, score=SCORES, mood=MOODS)
    recipe = folder.recipe_of()
    assert (recipe["task"], recipe["metrics"]) == ("text-classification", ["accuracy", "f1"])


@pytest.mark.parametrize("flags", [("--task", "text-regression"), ("--target", "score")], ids=str)
def test_a_flag_says_the_task(folder: Folder, flags: tuple[str, ...]) -> None:
    folder.write(review=REVIEWS, score=SCORES, mood=MOODS)
    assert folder.recipe_of(*flags)["dataset"]["columns"] == {"text": "review", "target": "score"}


def test_the_task_that_is_answered_asks_for_its_own_columns(folder: Folder) -> None:
    terminal = folder.init(folder.write(review=REVIEWS, score=SCORES, mood=MOODS))
    answers = {NAME: "", TASK: "text-regression", TEXT: "", TARGET: "mood", MODEL: "", METHOD: ""}
    for question, answer in answers.items():
        terminal.answer(question, answer)
        if answer == "mood":
            assert '"mood" has no number in most rows (2 values: good, bad); the task' in terminal.answer(TARGET, "")
    assert terminal.end()[0] == 0
    assert folder.recipe()["dataset"]["columns"] == {"text": "review", "target": "score"}


def test_numbers_given_as_labels_name_the_task_that_reads_numbers(folder: Folder) -> None:
    code, said = folder.init(folder.write(review=REVIEWS, score=SCORES), "--yes", "--label", "score").end()
    assert code == 1
    assert said.startswith("--label score:1:9: error[R313] /dataset/columns/label: 35 of 40 rows have no label")
    assert 'hint: the task "text-regression" reads such a column, as its target (name another with --label)' in said
    assert not (folder.path / "rows.json").exists()


@pytest.mark.parametrize("flags", [("--task", "text-regression", "--label", "mood"), ("--label", "a", "--target", "b")])
def test_a_column_that_the_task_does_not_read_is_wrong_usage(folder: Folder, flags: tuple[str, ...]) -> None:
    code, said = folder.init(folder.write(review=REVIEWS, mood=MOODS, a=MOODS, b=MOODS), "--yes", *flags).end()
    assert code == 2
    assert "text-regression reads --text and --text-pair and --target" in " ".join(said.split())


# the model and the method


def test_freeze_keeps_half_of_the_layers(folder: Folder) -> None:
    folder.write(review=REVIEWS, mood=MOODS)
    assert folder.recipe_of("--method", "freeze")["method"] == {"type": "freeze", "layers": 1}


# A flag, and what is said where it can't be: nothing is written.
REFUSED = {
    "model": ("--model", "nope/nope", "--model nope/nope:1:9: error[R403] /model/id: the model nope/nope can't be"),
    "folder": ("--model", "./mode", '--model ./mode:1:9: error[R402] /model/id: there is no folder "./mode"'),
    "label": ("--label", "review", "--label review:1:9: error[R317] /dataset/columns/label: 40 labels for 40 rows"),
    "name": ("--name", "my recipe", "--name my recipe:1:8: error[R104] /name: "),
}


@pytest.mark.parametrize(("flag", "value", "said"), REFUSED.values(), ids=REFUSED)
def test_a_recipe_that_would_not_pass_check_is_not_written(folder: Folder, flag: str, value: str, said: str) -> None:
    rows = folder.write(review=REVIEWS, mood=MOODS)
    code, told = folder.init(rows, "--yes", flag, value, "-o", "out.json").end()
    assert code == 1
    assert told.startswith(said)
    assert f"(name another with {flag})" in told
    assert not (folder.path / "out.json").exists()


def test_the_same_column_twice_is_one_finding(folder: Folder) -> None:
    rows = folder.write(review=REVIEWS, mood=MOODS)
    code, told = folder.init(rows, "--yes", "--text", "review", "--label", "review").end()
    assert code == 1
    assert told.startswith('--label review:1:9: error[R216] /dataset/columns/label: the column "review" is both')
    assert told.count("error[") == 1


def test_findings_that_no_flag_changes_are_said_of_the_rows(folder: Folder) -> None:
    folder.write(review=REVIEWS[:4], mood=MOODS[:4])
    code, said = folder.init("rows.jsonl", "--yes").end()
    assert code == 1
    assert said.startswith("rows.jsonl:1:1: error[R306] /dataset/validation/fraction: ")


def test_a_second_text_is_read_where_a_flag_names_it(folder: Folder) -> None:
    folder.write(review=REVIEWS, other=[f"{text} again" for text in REVIEWS], mood=MOODS)
    assert "text_pair" not in folder.recipe_of()["dataset"]["columns"]
    written = folder.recipe_of("--force", "--text", "review", "--text-pair", "other")
    assert written["dataset"]["columns"] == {"text": "review", "text_pair": "other", "label": "mood"}
