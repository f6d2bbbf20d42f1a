"""What other programs read of a bundle that writes texts, against what the source wrote and the template it wrote with.

Ours takes an answer's end, its start and the template from the task. Servers and transformers.js take them from
config.json, generation_config.json and chat_template.jinja, where a fault shows in no output that the gate compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.generation import Generation
from compiler.tasks import own_template
from compiler.templates import TemplateError, read_template
from compiler.tokenizer_files import TOKENIZER
from runtimes import tasks
from runtimes.bundles.bundle import CONFIG, GENERATION_CONFIG, Bundle
from runtimes.bundles.manifest import read_json
from runtimes.generation.answers import Written
from runtimes.generation.decoded import eos_ids
from runtimes.generation.decoding import Decoder, limit_of
from runtimes.verification.gate import Findings, compare_each

Found = Iterator[str | None]
"""For each thing that was compared what is wrong with it, or nothing."""


def compare_settings(bundle: Bundle, written: Sequence[Written], decoder: Decoder[Any]) -> Findings:
    """Whether the files say what the answers show."""
    generation = bundle.manifest.generation
    assert generation is not None, "the bundle writes"
    configs = {
        name: read_json(bundle.folder, name) for name in (GENERATION_CONFIG, CONFIG) if (bundle.folder / name).is_file()
    }
    found = [
        *check_caches(configs),
        *check_starts(configs, bundle.head.config),
        *check_answers(eos_ids(*configs.values()), generation, written, decoder),
        *check_templates(bundle),
    ]
    return compare_each([*dict.fromkeys(fault for fault in found if fault)], len(found), name="settings")


def check_caches(configs: Mapping[str, Any]) -> Found:
    """Without a cache, some programs compute every token of a row anew at each step, and others fail on the graph."""
    for name, config in configs.items():
        yield f"use_cache is false in {name}, and the graph keeps a cache" if config.get("use_cache") is False else None


def check_starts(configs: Mapping[str, Any], head: Mapping[str, Any]) -> Found:
    key = "decoder_start_token_id"
    for name, config in configs.items():
        if key in head and key in config:
            right = config[key] == head[key]
            yield None if right else f"{key} is {config[key]} in {name}, answers start with {head[key]}"


def check_answers(
    ends: Sequence[int], generation: Generation, written: Sequence[Written], decoder: Decoder[Any]
) -> Found:
    """The ends and the lengths of answers."""
    for row in written:
        try:
            limit = limit_of(decoder, row.prompt, generation.max_new_tokens)
        except ValueError as error:
            yield str(error)
        else:
            yield answer_fault(ends, generation, row.ids, limit, cut=row.cut)


def answer_fault(
    ends: Sequence[int], generation: Generation, ids: Sequence[int], limit: int, *, cut: bool = False
) -> str | None:
    """An answer has no end token but its last, which one needs that was not cut; none is longer than it may be."""
    if len(ids) > limit:
        return f"an answer has {len(ids)} tokens, {limit} are allowed"
    if any(token in ends for token in ids[:-1]):
        return f"eos_token_id is {_named(ends)}, which stands inside of answers"
    if not cut and len(ids) < limit and not generation.stop and ids[-1] not in ends:
        return f"eos_token_id is {_named(ends)}, answers end with {ids[-1]}"
    return None


def _named(ends: Sequence[int]) -> str:
    return ", ".join(map(str, ends)) or "not named"


def check_templates(bundle: Bundle) -> Found:
    """The template for servers."""
    task, folder = bundle.task, bundle.folder
    if (source := own_template(task)) is not None:
        try:
            right = read_template(folder).source == source
        except TemplateError as error:
            yield str(error)
        else:
            yield None if right else "the tokenizer's chat template is not the one that was trained with"
    for name, text in tasks.writing_module_of(task).tokenizer_files(task, folder / TOKENIZER).items():
        yield None if _text(folder / name) == text else f"{name} is not the template that was trained with"


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
