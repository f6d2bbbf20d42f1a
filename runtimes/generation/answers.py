"""Texts that a model writes: prompts of rows, what a decoder makes of them, and what is read in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.files import write_text
from compiler.generation import Generation
from compiler.json_text import object_in, value_of
from compiler.tasks import Task
from compiler.typed import read, to_json
from runtimes import tasks
from runtimes.generation.decoded import Decoded, before_stop, eos_ids
from runtimes.generation.decoding import Decoder, generate
from runtimes.rows.tokens import Encoder
from runtimes.tasks.interface import Prompt, Side

Row = Mapping[str, Any]
CONFIGURATIONS = ("generation_config.json", "config.json")
"""The files of a model that say what ends a text; the first that does counts."""
PROMPT_CUT = "prompt_cut"
"""The key of an answer that says at which side its prompt was cut."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text that was written, and at which side its prompt was cut."""

    text: str
    prompt_cut: Side | None = None

    @property
    def told(self) -> dict[str, str]:
        """What a reader of the text has to know besides: nothing where its prompt was whole."""
        return {PROMPT_CUT: self.prompt_cut} if self.prompt_cut else {}


def cut_prompts(answers: Sequence[Mapping[str, Any]]) -> str:
    """How many of the texts that were written, as JSON, had a prompt that was cut, and where; "" where none had."""
    sides = [answer[PROMPT_CUT] for answer in answers if PROMPT_CUT in answer]
    return said_of_cuts(sides, len(answers))


def said_of_cuts(sides: Collection[str], total: int) -> str:
    """As cut_prompts, from the sides at which prompts were cut, all of one task at the same."""
    return f"{len(sides):,} of {total:,} prompts cut at their {min(sides)}: too long" if sides else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a task's rows become prompts, and tokens texts."""

    task: Task
    encoder: Encoder
    generation: Generation
    ends: tuple[int, ...]  # tokens that end an answer

    def prompts(self, rows: Iterable[Row], decoder: Decoder[Any]) -> list[Prompt]:
        """What each answer starts from; without its beginning where that leaves no room for the answer."""
        module = tasks.writing_module_of(self.task)
        room = None if module.head(self.task).encodes else self.generation.room(decoder.max_positions)
        found = [module.prompt(self.task, row, self.encoder) for row in rows]
        return found if room is None else [prompt.last(room) for prompt in found]

    def written(self, decoder: Decoder[Any], rows: Sequence[Row], numbers: Sequence[int] | None = None) -> list[Text]:
        """The answer to each row. `numbers`: of the rows, by which what is drawn is seeded."""
        prompts = self.prompts(rows, decoder)
        answers = self.decoded(decoder, [prompt.ids for prompt in prompts], numbers)
        return [Text(self.text(found), prompt.cut) for prompt, found in zip(prompts, answers, strict=True)]

    def decoded(
        self, decoder: Decoder[Any], prompts: Sequence[Sequence[int]], numbers: Sequence[int] | None = None
    ) -> list[Decoded]:
        """The tokens of the answer to each prompt."""
        return generate(
            decoder,
            prompts,
            self.generation,
            eos_ids=self.ends,
            pad_id=self.encoder.pad_id,
            detokenize=self._detokenize,
            rows=numbers,
        )

    def text(self, decoded: Decoded) -> str:
        """The text of an answer, without what ends it."""
        return before_stop(self._detokenize(decoded.ids), self.generation.stop)

    def _detokenize(self, ids: Sequence[int]) -> str:
        found: str = self.encoder.tokenizer.decode([token for token in ids if token not in self.ends])
        return found


def writing_of(task: Task, encoder: Encoder, generation: Generation, folder: Path) -> Writing:
    """How the model in a folder writes. Its configurations say what ends an answer, and so does the task.

    Raises ValueError naming a configuration that can't be read.
    """
    own = tasks.writing_module_of(task).end_tokens(task, encoder)
    ends = tuple(sorted({*eos_ids(*(object_in(folder / name) for name in CONFIGURATIONS)), *own}))
    return Writing(task=task, encoder=encoder, generation=generation, ends=ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the source wrote for a held-out row, greedily: the gate forces others along it, here and at a receiver's."""

    row: int  # its number in the split
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # of each token, in nats
    margins: tuple[float, ...]  # largest less second largest logit
    text: str
    prompt_cut: Side | None = None
    cut: bool = field(
        default=False, metadata={"later": True}
    )  # it has as many tokens as the gate asked for, and no end


def save_written(path: Path, rows: Sequence[Written]) -> None:
    """Writes them as JSONL."""
    write_text(path, "".join(json.dumps(to_json(row), ensure_ascii=False) + "\n" for row in rows))


def read_written(path: Path) -> tuple[Written, ...]:
    """Those of a file. Raises OSError, or ValueError naming the line that is none."""
    return tuple(_lines(path))


def _lines(path: Path) -> Iterator[Written]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            yield read(Written, value_of(line))
        except ValueError as error:
            raise ValueError(f"{path.name} line {number}: {error}") from error
