"""The text of a bundle's model card, from its manifest alone: its receiver writes it again, and compares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compiler import tasks as compiler_tasks
from compiler.diagnostics import counted
from compiler.metrics import LOWER_IS_BETTER
from compiler.origin import CARD, UNKNOWN, Origin
from compiler.typed import to_json
from compiler.windows import Windowed
from runtimes import tasks
from runtimes.bundles.bundle import graphs_of, holds_function
from runtimes.bundles.manifest import Manifest
from runtimes.bundles.provenance import Training
from runtimes.export.facts import DTYPES
from runtimes.verification.gate import Findings, Verification, compare_each

_TOKENS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_PYTHON = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({max_length})
row = tokenizer.encode("...")
columns = {{"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}}
session = onnxruntime.InferenceSession("{graph}")
given = {{each.name: np.array([columns[each.name]], np.int64) for each in session.get_inputs()}}
print(session.run(["{result}"], given)[0])"""
_JAVASCRIPT = """\
import {{ env, pipeline }} from "@huggingface/transformers";

env.localModelPath = "..."; // the folder that this one is in, here called "bundle"
env.allowRemoteModels = false;
const model = await pipeline("{pipeline}", "{name}", {{ dtype: "{dtype}" }});
console.log(await model("..."));"""

_ADAPTER = """\
import onnxruntime_genai

model = onnxruntime_genai.Model(".")
adapters = onnxruntime_genai.Adapters(model)
adapters.load("{adapter}", "tuned")
generator = onnxruntime_genai.Generator(model, onnxruntime_genai.GeneratorParams(model))
generator.set_active_adapter(adapters, "tuned")"""


def body(name: str, manifests: Sequence[Manifest]) -> str:
    """The card below its metadata: of one task, or of several in one graph."""
    sections = [
        _what(name, manifests),
        _figures(manifests),
        _training(manifests),
        _gate(manifests),
        _use(manifests),
        _limits(manifests),
    ]
    return "".join("\n" + "\n".join(lines) + "\n" for section in sections if (lines := [*section]))


def compare_card(folder: Path, name: str, manifests: Sequence[Manifest]) -> Findings:
    """The check that the card says what the manifest says. What stands in its metadata, the hashes alone hold."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        says = text.endswith("---\n" + body(name, manifests))
    except (OSError, ValueError):
        says = False
    return compare_each(() if says else (f"{CARD} does not say what the manifest says",), 1, name="card")


def _what(name: str, manifests: Sequence[Manifest]) -> Iterator[str]:
    yield f"# {name}"
    if description := manifests[0].provenance.origin.description:
        yield ""
        yield description
    yield ""
    for each in manifests:
        says = tasks.module_of(each.task).card(each.task).says
        yield f"- **{each.part}**: {says}" if each.part else says


# --- figures


def _figures(manifests: Sequence[Manifest]) -> Iterator[str]:
    yield "## Figures"
    for each in manifests:
        split = each.provenance.evaluated.split
        rows = f"{each.held_out.rows:,} held-out rows{f' ({split})' if split else ''}"
        yield ""
        yield f"{each.part}, on {rows}:" if each.part else f"On {rows}:"
        yield ""
        yield from _table(each)


def _table(manifest: Manifest) -> Iterator[str]:
    """Metrics by who answered."""
    trained = {**manifest.held_out.metrics, **manifest.provenance.evaluated.metrics}
    columns = {**manifest.baseline, "trained": trained, f"this bundle ({manifest.precision})": manifest.exported}
    yield _line("", *columns)
    yield _line("---", *("---:" for _ in columns))
    for metric in dict.fromkeys(name for found in (manifest.exported, trained) for name in found):
        what = f"{metric} (less is better)" if metric in LOWER_IS_BETTER else metric
        yield _line(what, *(_number(found.get(metric)) for found in columns.values()))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) and math.isfinite(value) else ""


# --- where it is from


def _training(manifests: Sequence[Manifest]) -> Iterator[str]:
    first = manifests[0].provenance
    if not first.origin.base_model and not first.trainings:
        return
    yield "## Training"
    yield ""
    if first.origin.base_model:
        tuned = "Tuned from" if first.is_tuned else "Converted from"
        begun = tuned if first.reads_base else "Trained from scratch, with the shape and tokenizer of"
        yield f"- {begun} {_base(first.origin)}."
    for each in manifests:
        for training in each.provenance.trainings:
            yield f"- {': '.join(name for name in (each.part, training.stage, _trained(training)) if name)}."
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifests[0].versions.items()))
    yield f"- Made with {versions or 'libraries that are not named'}; plan key `{manifests[0].plan_key}`."


def _base(origin: Origin) -> str:
    licence = origin.licence.name or origin.licence.id
    named = f"[{origin.licence.name or licence}]({origin.licence.link})" if origin.licence.link else licence
    link = f"[{origin.base_model}](https://huggingface.co/{origin.base_model})"
    return f"{link if origin.on_hub else f'the folder {origin.base_model}'}, licence {named}"


def _trained(training: Training) -> str:
    options: dict[str, Any] = to_json(training.method)
    kind = options.pop("type")
    shown = ", ".join(f"{key} {_value(value)}" for key, value in options.items() if value is not None)
    return (
        f"`{kind}`{f' ({shown})' if shown else ''}: {counted(training.steps, 'step')} of {training.batch_size} over "
        f"{counted(training.rows, 'row')}, learning rate {training.learning_rate:g}, {training.precision}, "
        f"seed {training.seed}; {training.trained:,} of {training.total:,} parameters"
    )


def _value(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _gate(manifests: Sequence[Manifest]) -> Iterator[str]:
    yield "## Gate"
    yield ""
    yield "What is deployed was compared with the trained model on the held-out rows and on probes made from them:"
    yield ""
    for each in manifests:
        yield from _verdicts(each.gate, each.part)


def _verdicts(gate: Verification, part: str) -> Iterator[str]:
    for edge in gate.edges:
        checks = ", ".join(f"{check.name}{'' if check.passed else ' (failed)'}" for check in edge.checks)
        yield f"- {f'{part}: ' if part else ''}{edge}: {checks}"
    yield f"- {f'{part}: ' if part else ''}{'passed' if gate.passed else f'failed at {gate.first_failure}'}"


# --- how to use it


def _use(manifests: Sequence[Manifest]) -> Iterator[str]:
    first = manifests[0]
    asked = compiler_tasks.asked_roles(first.task, first.columns)
    columns = dict.fromkeys(each.columns[role] for each in manifests for role in each.columns if role in asked)
    rows = f"--{compiler_tasks.reads(first.task)} ..." if len(asked) == 1 else "--input rows.jsonl"
    yield "## Use"
    yield ""
    yield f"Rows have {', '.join(f'`{column}`' for column in columns)}. In this folder:"
    yield ""
    extra = "predict-mlx" if holds_function(first) else "predict"
    yield from _block(
        "sh",
        f'pip install "recipec[{extra}]"',
        "recipe verify .",
        f"recipe predict . {rows}",
        "recipe predict . --serve  # recipec[serve]",
    )
    if len(manifests) == 1:
        yield from _snippets(first, alone=len(asked) == 1)


def _snippets(manifest: Manifest, *, alone: bool) -> Iterator[str]:
    """How other runtimes open it. `alone`: a row is one text."""
    module = tasks.module_of(manifest.task)
    head, card = module.head(manifest.task), module.card(manifest.task)
    if holds_function(manifest):
        return
    graphs = graphs_of(manifest)
    whole = alone and not head.cached and not isinstance(manifest.task, Windowed)
    if whole and {*manifest.inputs} <= _TOKENS:
        yield ""
        yield "With onnxruntime and tokenizers alone:"
        yield ""
        [result], [graph] = head.results, graphs
        yield from _block("python", _PYTHON.format(max_length=manifest.max_length, graph=graph, result=result))
    if manifest.adapter:
        yield ""
        yield "With onnxruntime-genai, before tokens are appended:"
        yield ""
        yield from _block("python", _ADAPTER.format(adapter=manifest.adapter))
    if whole and card.pipeline:
        yield ""
        yield "With transformers.js:"
        yield ""
        dtype = DTYPES[manifest.precision]
        yield from _block("js", _JAVASCRIPT.format(pipeline=card.pipeline, name="bundle", dtype=dtype))


def _block(language: str, *lines: str) -> Iterator[str]:
    yield f"```{language}"
    yield from lines
    yield "```"


def _limits(manifests: Sequence[Manifest]) -> Iterator[str]:
    first = manifests[0]
    licence = first.provenance.origin.licence
    yield "## Limits"
    yield ""
    if compiler_tasks.reads(first.task) == "text":
        yield f"- {'Windows' if isinstance(first.task, Windowed) else 'Rows'} are cut at {first.max_length:,} tokens."
    if first.adapter:
        yield (
            f"- The adapter is not merged: a program that does not load `{first.adapter}` gives the base model's "
            "answers. transformers.js loads none."
        )
    if first.precision != "fp32":
        yield f"- The weights are rounded to {first.precision}: metrics may fall by {first.max_metric_drop:g}."
    yield "- The figures are of rows like the held-out ones; of others nothing is known."
    yield (
        "- The base model's files name no licence: ask its makers before you pass this on."
        if licence.id == UNKNOWN
        else "- The licence is the base model's, as its own files name it. What the rows permit is not known here."
    )
    yield "- Where the model is from, and how it was trained, is its sender's word: nothing in this folder proves it."
