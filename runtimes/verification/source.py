"""Whether a graph that anybody wrote answers as the model that it was made from: the gate, without a recipe.

The source is the saved model in float32. The graph is a bundle of ours, or any ONNX file with named inputs; where its
folder says how texts are read and what outputs are called, that is compared too.
"""

# Axes: P = positions of all rows, C = outputs of a position

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from compiler import tasks as compiler_tasks
from compiler.json_text import object_in
from compiler.precisions import DROPS
from compiler.recipe import Onnx
from compiler.tasks import Example
from compiler.templates import OWN, TemplateError, read_template
from runtimes import tasks
from runtimes.bundles.bundle import CONFIG, graphs_of, holds_function, open_bundle
from runtimes.bundles.manifest import MANIFEST, is_together, read_manifest
from runtimes.errors import RunError
from runtimes.export import Stage
from runtimes.export.bits import FRACTIONS, Rounding, rounding_of
from runtimes.export.decoding import Answering, decoder_scores, onnx_decoder
from runtimes.export.facts import PAST, PRESENT
from runtimes.export.feeds import first
from runtimes.export.foreign import ForeignGraph, open_foreign
from runtimes.export.places import Graphs, find_graphs
from runtimes.generation.answers import writing_of
from runtimes.generation.decoding import Decoder
from runtimes.localisation.finding import Localised
from runtimes.protocol import Batch
from runtimes.rows.features import TARGETS
from runtimes.rows.inputs import files_of, fingerprint, open_reader, parts_of
from runtimes.rows.tokens import Encoder
from runtimes.tasks.interface import InputReader
from runtimes.untuned import SOURCE, Found
from runtimes.verification.comparison import Rows, batches, choose, encoded, mixed_order
from runtimes.verification.edges import BATCH_SIZE, Source, agreement, verify_export
from runtimes.verification.gate import Check, Edge, Findings, Metrics, ScoreFunction, Verification, compare_each
from runtimes.verification.localise import localiser

TARGET = "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a graph."""

    bundle: Path
    rounded: bool = False  # its weights are taken for rounded ones, whatever shows
    max_metric_drop: float | None = None  # over rounded weights; None: by their bits
    output: str = ""  # that is compared, where it has another name than the model's
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """The graph that is compared, opened."""

    graph: Answering
    graphs: Graphs
    rounding: Rounding | None
    rows: int | None = None  # that it is frozen to
    length: int | None = None  # tokens that it is frozen to
    lacks: tuple[str, ...] = ()  # what the source reads of a row and the graph does not take
    results: Mapping[str, str] | None = None  # what it calls the head's results
    decoder: Callable[[], Decoder[Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the gate found of a graph, and where it leaves its source when it failed and its layers can be followed."""

    verification: Verification
    localised: Localised | None = None


def verify_source(found: Found, asked: Asked) -> Compared:
    """Every check over the graph of `asked`, on the rows of `found`. A failed check raises nothing.

    Raises RunError E604, E610 or E611 for a graph that can't be compared at all, E605 without rows.
    """
    other = open_other(found, asked)
    found = fitted(found, other)
    reader = found.reader()
    held_out = found.held_out(reader)
    rows = choose(held_out, reader, found.verify.rows or 0)
    scores = decoder_scores(other.graph, tasks.module_of(found.task).head(found.task).reading)
    sizes, runs = _compare_sizes(other, rows, scores)
    checks = (sizes, *_compare_files(found, reader, rows, other.graphs.folder))
    if not runs:
        return Compared(verification=Verification.of(Edge(source=SOURCE, target=TARGET, checks=checks)))
    drop = _drop(other.rounding) if asked.max_metric_drop is None else asked.max_metric_drop
    step = found.verifying(Onnx(opset="auto"), drop)
    exact = other.rounding is None
    stage = Stage(
        TARGET,
        lambda: scores,
        exact=exact,
        decoder=other.decoder if exact else None,
        localise=(lambda batch, _: localise_other(found, other, batch)) if exact else None,
    )
    source = found.source()
    with tempfile.TemporaryDirectory() as out:
        verified = verify_export(
            step,
            held_out=held_out,
            encoder=reader,
            stages=[source.stage(SOURCE), stage],
            source=Source(source.noise(), source.writer(step.generation, reader)),
            out=Path(out),
        )
    [edge] = verified.verification.edges
    compared = edge.checks
    if other.rounding is not None:
        metrics = [check for check in edge.checks if isinstance(check, Metrics)]
        note = f"its weights are rounded: {other.rounding.shown_by}"
        answers = verified.answers
        compared = (*metrics, agreement(step, rows, answers[SOURCE], answers[TARGET], note))
    verification = Verification.of(replace(edge, checks=(*checks, *compared)))
    return Compared(verification=verification, localised=verified.report.localised)


def fitted(found: Found, other: Other) -> Found:
    """What is compared, in rows that are no longer than the graph takes them."""
    length = found.max_length if other.length is None else min(found.max_length, other.length)
    return replace(found, max_length=length)


def localise_other(found: Found, other: Other, batch: Batch) -> Localised:
    """Where the graph leaves its source on a batch. Raises RunError E402, E502 or E608."""
    head = tasks.module_of(found.task).head(found.task)
    if isinstance(other.graph, ForeignGraph):
        inputs = other.graph.filled(batch.inputs)
        batch = replace(batch, inputs=inputs, rows=batch.rows[: len(first(inputs))])
    return localiser()(found.saved, head, other.graphs.files, batch, other.results)


def open_other(found: Found, asked: Asked) -> Other:
    """The graph that is named. Raises RunError."""
    head = tasks.module_of(found.task).head(found.task)
    ours = _graphs_of_ours(asked.bundle)
    graphs = find_graphs(asked.bundle, encodes=head.encodes, ours=ours)
    rounding = Rounding(bits=8, shown_by="as --rounded says") if asked.rounded else rounding_of(graphs.files)
    if ours and head.cached:
        graph = open_bundle(graphs.folder, threads=asked.threads).graph
        return Other(graph=graph, graphs=graphs, rounding=rounding, decoder=lambda: cast(Decoder[Any], graph))
    reads = _reads(found)
    pad_id = found.reader().pad_id
    foreign = open_foreign(graphs.files, head, reads, pad_id=pad_id, output=asked.output, threads=asked.threads)
    if isinstance(foreign, ForeignGraph) and _is_decoder(foreign):
        decoder = onnx_decoder(graphs.files[0], threads=asked.threads)
        return Other(graph=decoder, graphs=graphs, rounding=rounding, decoder=lambda: decoder)
    return Other(
        graph=foreign,
        graphs=graphs,
        rounding=rounding,
        rows=foreign.rows,
        length=foreign.length,
        lacks=_lacking(foreign, reads),
        results=dict(zip(head.results, foreign.results, strict=True)),
    )


def _graphs_of_ours(bundle: Path) -> tuple[str, ...]:
    """The places of the graphs in a bundle of ours; none in what others wrote. Raises RunError."""
    if not (bundle / MANIFEST).is_file():
        return ()
    if is_together(bundle):
        message = f"{bundle} holds several tasks in one graph"
        raise RunError(
            "E611", message, f"name its file, and the task's output: --bundle {bundle}/onnx/model.onnx --output NAME"
        )
    manifest = read_manifest(bundle)
    if holds_function(manifest):
        raise RunError(
            "E611", f"{bundle} holds a function for MLX and no graph", f"verify it by itself: recipe verify {bundle}"
        )
    return graphs_of(manifest)


def _reads(found: Found) -> tuple[str, ...]:
    """What the rows of a task have, by the names of a model's inputs."""
    columns = tasks.module_of(found.task).columns(found.task, 0)
    names = tuple(column.name for column in columns if column.name != TARGETS)
    return names if compiler_tasks.reads(found.task) == "image" else (*names, "attention_mask")


def _is_decoder(graph: ForeignGraph) -> bool:
    """Whether a graph keeps its cache as ours do, so that it can be forced along a text."""
    names = {each.name for each in graph.inputs}
    outputs = {value.name for value in graph.session.inner.get_outputs()}
    past = [each for each in graph.inputs if each.name.startswith(PAST)]
    ours = {"input_ids", "attention_mask", "position_ids", *(each.name for each in past)}
    present = {each.name.replace(PAST, PRESENT) for each in past}
    whole = all(each.dtype == ("float32" if each in past else "int64") for each in graph.inputs)
    return bool(past) and names <= ours and {"logits", *present} <= outputs and whole


def _lacking(graph: object, reads: Sequence[str]) -> tuple[str, ...]:
    """What every reader of padded rows needs, and a graph does not take."""
    if not isinstance(graph, ForeignGraph) or "attention_mask" not in reads:
        return ()
    return () if "attention_mask" in {each.name for each in graph.inputs} else ("attention_mask",)


# --- sizes


def _compare_sizes(other: Other, rows: Rows, scores: ScoreFunction) -> tuple[Findings, bool]:
    """Whether the graph takes rows of every length, alone and in batches, and whether it can be compared at all."""
    faults = [f"it does not take {name}: padding is read as if it were text" for name in other.lacks]
    if other.rows is not None:
        faults.append(f"it is frozen to batches of {other.rows}: export it with a batch axis that varies")
    if other.length is not None:
        faults.append(f"it is frozen to rows of {other.length} tokens: export it with a sequence axis that varies")
    tried = [*_tried(rows)]
    failed = [said for places in tried if (said := _failure(rows, places, scores))]
    return compare_each([*faults, *failed], len(tried) + len(faults), name="sizes"), not failed


def _tried(rows: Rows) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Places of rows: the shortest alone, the longest alone, and a batch of several lengths."""
    by_length = rows.places[np.argsort(rows.table.lengths[rows.places], kind="stable")]
    yield by_length[:1]
    yield by_length[-1:]
    yield by_length[mixed_order(len(by_length))[:BATCH_SIZE]]


def _failure(rows: Rows, places: np.ndarray[Any, np.dtype[np.int64]], scores: ScoreFunction) -> str:
    """Why a batch of some rows does not run; nothing where it does."""
    [batch] = batches(rows.table, places, len(places))
    try:
        found = scores(batch)
    except RunError as error:
        lengths = rows.table.lengths[places]
        size = f"{lengths.min()} to {lengths.max()} tokens" if len(places) > 1 else f"{lengths.max()} tokens"
        reason = error.message.partition("the graph ")[2] or error.message
        return f"a batch of {len(places)} of {size} {reason}"
    if found.shape[: batch.positions.ndim] != batch.positions.shape:
        return f"a batch of {len(places)} gives outputs of shape {list(found.shape)}"
    return ""


# --- what stands beside the graph


def _compare_files(found: Found, reader: InputReader, rows: Rows, folder: Path) -> Iterator[Check]:
    """How texts are read, what outputs are called and how an answer ends, by the graph's folder and by the source's."""
    config = _config(folder)
    names = files_of(found.task)
    if all((folder / name).is_file() for name in names):
        yield _compare_inputs(found, rows, folder)
    if (called := compiler_tasks.head_names(found.task)) and isinstance(config.get("id2label"), dict):
        yield _compare_labels(called, config["id2label"])
    if found.generation is not None and isinstance(reader, Encoder) and config:
        yield _compare_ends(found, reader, folder)
    if compiler_tasks.own_template(found.task) is not None and (folder / "tokenizer_config.json").is_file():
        yield _compare_templates(found, folder)


def _compare_inputs(found: Found, rows: Rows, folder: Path) -> Findings:
    """The token ids or pixels that the folder's files give, against those of the source's."""
    name = parts_of(found.task)
    try:
        other = open_reader(found.task, folder, max_length=found.max_length, root=Path())
    except (OSError, ValueError) as error:
        return compare_each([f"{', '.join(files_of(found.task))} can't be read: {error}"], 1, name=name)
    table = encoded(found.task, [Example(row=row) for row in rows.values], other)
    own = encoded(found.task, [Example(row=row) for row in rows.values], rows.encoder)
    faults = [
        f"row {number}" for number in range(len(rows.values)) if fingerprint(table, number) != fingerprint(own, number)
    ]
    if other.pad_id != rows.encoder.pad_id:
        faults.append(f"padding is token {other.pad_id}, of the source {rows.encoder.pad_id}")
    return compare_each(faults, len(rows.values), name=name)


def _compare_labels(ours: Sequence[str], named: Mapping[str, Any]) -> Findings:
    """What outputs are called in config.json, against the source."""
    faults = [
        f"output {number} is {named.get(str(number), 'nothing')}, of the source {our}"
        for number, our in enumerate(ours)
        if named.get(str(number)) != our
    ]
    if len(named) > len(ours):
        faults.append(f"{len(named)} names, of the source {len(ours)}")
    return compare_each(faults, max(len(ours), len(named)), name="labels")


def _compare_ends(found: Found, reader: Encoder, folder: Path) -> Findings:
    """The tokens that end an answer."""
    generation = found.generation
    assert generation is not None, "asked by the caller"
    try:
        ours, theirs = (writing_of(found.task, reader, generation, each).ends for each in (found.folder, folder))
    except ValueError as error:
        return compare_each([f"what ends an answer can't be read: {error}"], 1, name="ends")
    faults = [f"an answer ends with the tokens {list(theirs)}, of the source {list(ours)}"] if ours != theirs else []
    return compare_each(faults, 1, name="ends")


def _compare_templates(found: Found, folder: Path) -> Findings:
    """The tokenizer's own chat template, where there is one."""
    ours, theirs = (_template(each) for each in (found.folder, folder))
    return compare_each(["the chat template is another"] if ours != theirs else [], 1, name="template")


def _template(folder: Path) -> str:
    try:
        return read_template(folder, OWN).source
    except TemplateError:
        return ""


def _config(folder: Path) -> Mapping[str, Any]:
    """What the graph's folder says of its model; nothing where it says nothing. Raises RunError E601."""
    try:
        return object_in(folder / CONFIG)
    except ValueError as error:
        raise RunError("E601", f"{folder}: {error}", "take the file of the model that was exported") from error


def _drop(rounding: Rounding | None) -> float:
    """What rounded weights may cost, where nobody says it."""
    return 0.0 if rounding is None else DROPS[None if rounding.bits == FRACTIONS else rounding.bits]
