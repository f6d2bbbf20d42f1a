"""What other clients read of a bundle, where its model's own files do not say it: transformers.js above all.

That client looks up nothing by the name of a class, as Python's transformers does: a special token that no file names,
a step of the image processor that is on by default, a template in a file of its own are not there for it. All that is
written here is true of the bundle: how the gate had rows read, and how it had texts written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.files import write_json
from compiler.generation import Generation
from compiler.images import PROCESSOR, read_processor
from compiler.json_text import object_in
from compiler.plan import Package
from compiler.templates import CONFIG_FILE, SPECIAL_TOKENS_FILE, TEMPLATE_FILE
from runtimes import tasks
from runtimes.export.facts import DTYPES, data_file
from runtimes.generation.answers import writing_of
from runtimes.rows.inputs import open_reader
from runtimes.rows.tokens import Encoder

GENERATION = "generation_config.json"
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_WITH_SEGMENTS = (
    *("Albert", "Bert", "ConvBert", "Deberta", "DebertaV2", "Electra", "Herbert", "MobileBert", "RoFormer"),
    *("SqueezeBert", "XLM"),
)
"""Tokenizer classes that tell transformers.js to say which of two texts a token belongs to."""
_NEUTRAL: Mapping[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": None,
    "min_length": 0,
    "min_new_tokens": None,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "suppress_tokens": None,
}
"""What would change a client's choice of tokens, at values that do not: answers are written without it here."""


def write_client_files(
    step: Package, folder: Path, graphs: Sequence[str], inputs: Sequence[str], precision: str
) -> None:
    """Completes the files of a bundle whose graphs, configuration and reader's files are in its folder.

    `inputs`: those of the graphs. Raises OSError or ValueError for files that can't be read.
    """
    reader = open_reader(step.task, folder, max_length=step.max_length, root=Path())
    loaded = dict(loading(folder, graphs, precision))
    if not isinstance(reader, Encoder):
        write_json(folder / "config.json", config(folder, (), loaded))
        write_json(folder / PROCESSOR, image_processor(folder))
        return
    ends = () if step.generation is None else writing_of(step.task, reader, step.generation, folder).ends
    write_json(folder / "config.json", config(folder, ends, loaded))
    write_json(
        folder / CONFIG_FILE, tokenizer_config(folder, reader, cuts=_cuts(step), segments="token_type_ids" in inputs)
    )
    if step.generation is not None:
        write_json(folder / GENERATION, generation_config(folder, step.generation, ends, reader.pad_id))


def _cuts(step: Package) -> bool:
    """Whether a row is cut at the bundle's length: a prompt is cut where its answer needs the room."""
    head = tasks.module_of(step.task).head(step.task)
    return not head.cached or head.encodes


def config(folder: Path, ends: Sequence[int], loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a folder, with the end tokens of answers, which a template may have of its own.

    `loaded`: what transformers.js is told of the files that it opens.
    """
    named = {"eos_token_id": [*ends] if len(ends) > 1 else ends[0]} if ends else {}
    return {**object_in(folder / "config.json"), **named, **({"transformers.js_config": loaded} if loaded else {})}


def loading(folder: Path, graphs: Sequence[str], precision: str) -> Iterator[tuple[str, Any]]:
    """Which files transformers.js opens."""
    if precision != "fp32" and precision in DTYPES:
        yield "dtype", DTYPES[precision]
    if outside := {Path(name).name: 1 for name in graphs if data_file(folder / name).exists()}:
        yield "use_external_data_format", outside


def tokenizer_config(folder: Path, encoder: Encoder, *, cuts: bool, segments: bool) -> dict[str, Any]:
    """The tokenizer_config.json of a folder, with what its other files and the tokenizer itself say besides.

    `segments`: whether the graph is told which of two texts a token belongs to.
    """
    found = object_in(folder / CONFIG_FILE)
    named = {role: _content(value) for role, value in object_in(folder / SPECIAL_TOKENS_FILE).items() if role in _ROLES}
    found = {**named, **_own_tokens(encoder), **{name: value for name, value in found.items() if value is not None}}
    name = str(found.get("tokenizer_class", ""))
    if segments and name.removesuffix("Fast").removesuffix("Tokenizer") not in _WITH_SEGMENTS:
        found["tokenizer_class"] = "BertTokenizer"
    found.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    if cuts:
        found["model_max_length"] = encoder.max_length
    template = folder / TEMPLATE_FILE
    if template.is_file():
        found["chat_template"] = template.read_text(encoding="utf-8")
    return found


def _own_tokens(encoder: Encoder) -> dict[str, str]:
    """The special tokens that the tokenizer itself uses: it pads with one, and puts others around a text."""
    tokenizer = encoder.tokenizer
    around = tokenizer.encode("").tokens
    found = {"pad_token": tokenizer.id_to_token(encoder.pad_id)}
    if len(around) == 2:
        found |= {"cls_token": around[0], "sep_token": around[1]}
    elif len(around) == 1 and tokenizer.encode("a").tokens[-1] == around[0]:
        found["eos_token"] = around[0]
    unknown = json.loads(tokenizer.to_str()).get("model", {}).get("unk_token")
    return {role: token for role, token in (found | {"unk_token": unknown}).items() if token is not None}


def _content(value: Any) -> Any:
    """The text of a token, which a file may describe by an object that transformers.js refuses."""
    return value.get("content") if isinstance(value, dict) else value


def generation_config(folder: Path, generation: Generation, ends: Sequence[int], pad_id: int) -> dict[str, Any]:
    """How the texts are written, as far as clients can say it: stop strings and seeds have no place in it."""
    own, base = object_in(folder / "config.json"), object_in(folder / GENERATION)
    decoder = own.get("decoder")
    told = {**own, **(decoder if isinstance(decoder, dict) else {}), **base}
    kept: dict[str, Any] = {name: base[name] for name in ("bos_token_id", "transformers_version") if name in base}
    neutral = {name: value for name, value in _NEUTRAL.items() if told.get(name) not in (None, value)}
    start = own.get("decoder_start_token_id")
    return {
        **kept,
        **neutral,
        **({} if start is None else {"decoder_start_token_id": start}),
        **({"eos_token_id": [*ends]} if ends else {}),
        "pad_token_id": pad_id,
        "max_new_tokens": generation.max_new_tokens,
        "num_beams": generation.num_beams,
        "do_sample": generation.samples,
        **(_drawing(generation) if generation.samples else {}),
    }


def _drawing(generation: Generation) -> dict[str, Any]:
    return {"temperature": generation.temperature, "top_k": generation.top_k or 0, "top_p": generation.top_p}


def image_processor(folder: Path) -> dict[str, Any]:
    """The preprocessor_config.json of a folder, with every step that it leaves to a default."""
    found = object_in(folder / PROCESSOR)
    kind = str(found.get("image_processor_type") or found.get("feature_extractor_type"))
    processor = read_processor(folder / PROCESSOR)
    scaled = {"do_rescale": True, "do_normalize": True, "do_resize": True, "resample": processor.resample}
    if kind.startswith("ConvNext"):  # which crops or warps by its own rule
        return {**scaled, **found}
    size = {"shortest_edge": processor.edge} if processor.edge else _sides(processor.size)
    crop = {"do_center_crop": True, "crop_size": _sides(processor.crop)} if processor.crop else {}
    return {**scaled, **found, **({"size": size} if size else {}), **crop}


def _sides(size: tuple[int, int] | None) -> dict[str, int]:
    return {} if size is None else {"height": size[0], "width": size[1]}
