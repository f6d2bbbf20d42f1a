"""A bundle: one folder from which the tuned model answers.

It needs onnxruntime, or MLX where it holds a function; numpy; and tokenizers or Pillow.
"""

# Axes: P = positions of all rows (one a row, or one for each token), C = outputs of a position

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from compiler import tasks as compiler_tasks
from compiler.hashes import sha256_of
from compiler.positions import num_positions
from compiler.tasks import Example, Task
from runtimes import tasks
from runtimes.bundles.golden import Golden, read_golden
from runtimes.bundles.manifest import Manifest, broken, read_json, read_manifest
from runtimes.errors import RunError
from runtimes.export.facts import Provider, graph_names, virtual_file
from runtimes.export.functions import FUNCTION
from runtimes.generation.answers import Written, read_written, writing_of
from runtimes.generation.decoding import Decoder
from runtimes.protocol import Batch
from runtimes.rows.features import Ragged, Table
from runtimes.rows.inputs import Row, files_of, open_reader
from runtimes.rows.readings import read_outputs
from runtimes.rows.tokens import Encoder
from runtimes.rows.windows import of_rows, windows_of
from runtimes.tasks import Answer, Head
from runtimes.tasks.interface import InputReader
from runtimes.verification.comparison import encoded, outputs_of, rows_at_once

if TYPE_CHECKING:
    from runtimes.export.decoding import CachedDecoder
    from runtimes.export.sequence import OnnxSequenceDecoder
    from runtimes.export.session import Session
    from runtimes.mlx.functions import FunctionSession
    from runtimes.mlx.sequence_functions import SequenceFunction

    Graph = Session | CachedDecoder | OnnxSequenceDecoder | FunctionSession | SequenceFunction

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
GOLDEN = "golden.jsonl"
WRITTEN = "written.jsonl"
HELD_OUT = "held_out.npy"
"""What the trained model answered on the held-out rows, float32 [P, C]: the rows themselves are not in a bundle."""
BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle. The graph is loaded on first use."""

    folder: Path
    manifest: Manifest
    task: Task  # as the bundle's files say it: a label's name is read where a deployed program reads it
    encoder: InputReader = field(repr=False)
    threads: int
    provider: Provider = "cpu"
    open_shared: Callable[[], Session] | None = field(default=None, repr=False)
    """Of one of several tasks that are opened together, the graph of them all."""

    @property
    def head(self) -> Head:
        """What the graph's outputs are."""
        return tasks.module_of(self.task).head(self.task)

    @property
    def num_outputs(self) -> int:
        """Outputs for a position."""
        return self.head.num_outputs

    def check(self, row: Row) -> None:
        """Nothing when a row, given by role, can be read and answered. Raises BadValueError."""
        encoder = self.encoder
        if isinstance(encoder, Encoder):
            compiler_tasks.texts_of(self.task, row)
            compiler_tasks.check_prompt(self.task, row, lambda: encoder.whole)

    def predict(
        self, rows: Sequence[Row], batch_size: int = BATCH_SIZE, *, numbers: Sequence[int] | None = None
    ) -> list[Answer]:
        """The task's natural answer for each row, given by role. Raises RunError when the graph does not run.

        `numbers`: of each row among all that are asked about, by which what is drawn is seeded; 0, 1, 2, ... if None.
        """
        module = tasks.module_of(self.task)
        if self.manifest.generation is not None:
            return self._write(rows, range(len(rows)) if numbers is None else numbers)
        windows = windows_of(self.task, rows, self.encoder)
        each = self.outputs([Example(row=row) for parts in windows for row in parts], batch_size)
        outputs = of_rows(each, windows)
        return [module.answer(self.task, row, outputs.row(number), self.encoder) for number, row in enumerate(rows)]

    def _write(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[Answer]:
        """The texts that the graph writes."""
        assert self.manifest.generation is not None, "asked by the caller"
        assert isinstance(self.encoder, Encoder), "texts are written by token"
        try:
            writing = writing_of(self.task, self.encoder, self.manifest.generation, self.folder)
        except ValueError as error:
            raise broken(self.folder, str(error)) from error
        module = tasks.writing_module_of(self.task)
        texts = writing.written(cast(Decoder[Any], self.graph), rows, numbers)
        return [
            {**module.written(self.task, row, text.text), **text.told} for row, text in zip(rows, texts, strict=True)
        ]

    def outputs(self, examples: Sequence[Example], batch_size: int = BATCH_SIZE) -> Ragged:
        """[P, C] of each row, in order. Rows of like length share a batch, so that little is padded."""
        if not examples:
            return Ragged.of((), np.empty((0, self.num_outputs), np.float32))
        table = self.encode(examples)
        order = np.argsort(table.lengths, kind="stable")
        return outputs_of(self.run, table, order, rows_at_once(self.head, batch_size)).take(np.argsort(order))

    def encode(self, examples: Sequence[Example]) -> Table:
        """The columns of each row."""
        return encoded(self.task, examples, self.encoder)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """The outputs of a batch, in its targets' shape."""
        return self.outputs_by(self.graph, batch)

    def outputs_by(self, graph: Graph, batch: Batch) -> npt.NDArray[np.float32]:
        """As `run`, by its graph opened in another way."""
        outputs = read_outputs(self.head.reading, graph.outputs(batch.inputs), batch.targets)
        if outputs.shape != (*batch.positions.shape, self.num_outputs):
            shape = " by ".join(map(str, outputs.shape[1:])) or "no"
            raise broken(self.folder, f"the task has {self.num_outputs} outputs for a row, the graph gives {shape}")
        return outputs

    def golden(self) -> tuple[Golden, ...]:
        """The golden rows. Raises RunError E601."""
        try:
            return read_golden(self.folder / GOLDEN)
        except (OSError, ValueError) as error:
            raise broken(self.folder, f"{GOLDEN} can't be read: {error}") from error

    def held_out(self) -> npt.NDArray[np.float32]:
        """[P, C] what the trained model answered on the held-out rows, in their order. Raises RunError E601."""
        try:
            found = np.load(self.folder / HELD_OUT, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise broken(self.folder, f"{HELD_OUT} can't be read: {error}") from error
        if found.ndim != 2 or found.shape[1] != self.num_outputs or found.dtype != np.float32:
            raise broken(self.folder, f"{HELD_OUT} has not the outputs of {self.manifest.held_out.rows} rows")
        return np.asarray(found, np.float32)

    def written(self) -> tuple[Written, ...]:
        """What the source wrote for some held-out rows. Raises RunError E601."""
        try:
            return read_written(self.folder / WRITTEN)
        except (OSError, ValueError) as error:
            raise broken(self.folder, f"{WRITTEN} can't be read: {error}") from error

    @property
    def shared(self) -> Path:
        """Where the graph is, and what rows are read with."""
        return shared_folder(self.folder, self.manifest)

    @property
    def graphs(self) -> tuple[str, ...]:
        """The files of its graphs."""
        return graphs_of(self.manifest)

    @property
    def results(self) -> tuple[str, ...]:
        """The outputs of the graph."""
        return (self.manifest.part,) if self.manifest.part else self.head.results

    @cached_property
    def graph(self) -> Graph:
        """The graph, opened as the gate opened it: of what writes, with a cache. Raises RunError."""
        if holds_function(self.manifest):
            return self._function()
        if self.open_shared is not None:
            return replace(self.open_shared(), results=self.results)
        try:
            from runtimes.export.decoding import onnx_decoder
            from runtimes.export.sequence import onnx_sequence_decoder
            from runtimes.export.session import open_session
        except ImportError as error:
            raise RunError(
                "E402", f"a bundle runs on onnxruntime: {error}", 'install it: pip install "recipec[predict]"'
            ) from error
        if not self.head.cached:
            return open_session(
                self.shared / self.graphs[0], threads=self.threads, results=self.results, provider=self.provider
            )
        most = positions_of(read_json(self.folder, CONFIG))
        if self.head.encodes:
            start = self.head.config["decoder_start_token_id"]
            return onnx_sequence_decoder(
                self.folder,
                precision=self.manifest.precision,
                start_id=start,
                threads=self.threads,
                max_positions=most,
                provider=self.provider,
            )
        adapter = self.folder / self.manifest.adapter if self.manifest.adapter else None
        return onnx_decoder(
            self.folder / self.graphs[0],
            threads=self.threads,
            max_positions=most,
            adapter=adapter,
            provider=self.provider,
        )

    @property
    def graph_inputs(self) -> tuple[str, ...]:
        """What the graphs say that they are given, each once. Raises RunError."""
        return tuple(dict.fromkeys(name for session in self.graph.sessions for name in session.inputs))

    def _function(self) -> FunctionSession | SequenceFunction:
        """The function, which has to be the one that was sealed: MLX trusts what it reads."""
        if self.provider != "cpu":
            message = f"{self.folder} holds a function for MLX: onnxruntime and its providers don't run it"
            raise RunError("E508", message, "leave --provider out")
        try:
            from runtimes.mlx.functions import failure, open_function
        except ImportError as error:
            raise RunError(
                "E402", f"a function runs on MLX: {error}", 'install it: pip install "recipec[predict-mlx]"'
            ) from error
        file = self.folder / FUNCTION
        if sha256_of(file, None) != self.manifest.files[FUNCTION]:
            raise failure(file, "is not the one that was sealed: its hash differs")
        if not self.head.encodes:
            return open_function(file)
        from runtimes.mlx.sequence_functions import sequence_function

        start = self.head.config["decoder_start_token_id"]
        return sequence_function(file, start_id=start, max_positions=positions_of(read_json(self.folder, CONFIG)))

    def load(self) -> None:
        """Opens the graph, where that was not done yet. Raises RunError."""
        _ = self.graph


def holds_function(manifest: Manifest) -> bool:
    """Whether a bundle holds a function for MLX in place of a graph for onnxruntime."""
    return FUNCTION in manifest.files


def graphs_of(manifest: Manifest) -> tuple[str, ...]:
    """The files of a bundle that compute."""
    head = tasks.module_of(manifest.task).head(manifest.task)
    return (FUNCTION,) if holds_function(manifest) else graph_names(encodes=head.encodes, precision=manifest.precision)


def open_bundle(folder: Path, *, threads: int = 0, provider: Provider = "cpu") -> Bundle:
    """The bundle in a folder. `threads`: 0 for one a core. Raises RunError E601 when it is not a whole bundle."""
    manifest = read_manifest(folder)
    graphs = graphs_of(manifest)
    begun = {virtual_file(folder / graphs[0]).relative_to(folder).as_posix()} & manifest.files.keys()
    beside = (*begun, *([manifest.adapter] if manifest.adapter else []))
    shared = shared_folder(folder, manifest)
    for place, names in (
        (shared, (*graphs, *beside, *files_of(manifest.task), CONFIG)),
        (folder, (CONFIG, GOLDEN, HELD_OUT)),
    ):
        if lost := [name for name in names if not (place / name).is_file()]:
            raise broken(place, f"{lost[0]} is missing")
    return Bundle(
        folder=folder,
        manifest=manifest,
        task=_task(folder, manifest),
        encoder=_encoder(shared, manifest),
        threads=threads,
        provider=provider,
    )


def shared_folder(folder: Path, manifest: Manifest) -> Path:
    """Where a bundle's graph is: of one of several tasks, in the folder above its own."""
    return folder.absolute().parent if manifest.part else folder


def _task(folder: Path, manifest: Manifest) -> Task:
    try:
        return tasks.module_of(manifest.task).from_bundle(manifest.task, partial(read_json, folder))
    except ValueError as error:
        raise broken(folder, str(error)) from error


def _encoder(folder: Path, manifest: Manifest) -> InputReader:
    """What the bundle reads rows with; paths of images start from the working folder."""
    names = files_of(manifest.task)
    for name in (CONFIG, *names):
        read_json(folder, name)
    try:
        return open_reader(manifest.task, folder, max_length=manifest.max_length, root=Path())
    except (OSError, ValueError) as error:
        raise broken(folder, f"{', '.join(names)} can't be read: {error}") from error


def positions_of(config: Any) -> int | None:
    """Tokens that a row may have, by a model's config.json, or what its decoder writes; None where it does not say."""
    if isinstance(config, dict) and isinstance(config.get("decoder"), dict):
        config = config["decoder"]
    return num_positions(config) if isinstance(config, dict) else None
