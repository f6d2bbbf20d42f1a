"""What transformers answers from a run's model folder, beside what the run's bundle answers, on held-out rows.

Nothing of ours loads the folder here: a pipeline does where transformers has one for the task (5.x has none for
question answering and none for encoder-decoders), and else its Auto classes.

python -m tools.outside_reader runs/spam               100 held-out rows
python -m tools.outside_reader runs/alpaca-lora --rows 20
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.tasks import Example, ImageClassification, QuestionAnswering
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.pytorch.quiet import quiet
from runtimes.rows.windows import WINDOW
from runtimes.steps.prepare import read_prepared
from runtimes.store import Store

Row = Mapping[str, Any]
Reader = Callable[[Path, Bundle, Sequence[Row]], list[dict[str, Any]]]
TOLERANCE = 1e-4  # of a probability, or of a number relative to its size where that is above one


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How two readers of one model answer the same rows."""

    rows: int
    alike: int
    furthest: float  # the largest difference of two numbers, relative where they are above one
    differing: tuple[tuple[Any, Any], ...]  # (the bundle's, transformers') where the answers are not alike


def compare(run: Path, num_rows: int) -> Agreement:
    """The answers of a finished run's bundle and of transformers, to its first held-out rows."""
    bundle = open_bundle(run / "bundle")
    if bundle.task.type not in READERS:
        raise SystemExit(f"transformers has no answer to compare with for the task {bundle.task.type}")
    rows = held_out(run, bundle, num_rows)
    ours = bundle.predict(rows)
    with quiet():
        theirs = READERS[bundle.task.type](run / "model", bundle, rows)
    pairs = [(only(one, other), other) for one, other in zip(ours, theirs, strict=True)]
    distances = [distance(one, other) for one, other in pairs]
    differing = tuple(pair for pair, far in zip(pairs, distances, strict=True) if far > TOLERANCE)
    finite = [far for far in distances if np.isfinite(far)]
    return Agreement(
        rows=len(rows), alike=len(rows) - len(differing), furthest=max(finite, default=0.0), differing=differing
    )


def held_out(run: Path, bundle: Bundle, num_rows: int) -> list[Row]:
    """The first held-out rows that the model reads whole, in one window, by role; images by their full paths."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    key = next(step["key"] for step in report["steps"] if step["id"] == "prepare")
    folder = Store(run.parent).folder(key) / "test"
    rows = [_placed(row, folder) for row in read_prepared(folder)]
    whole = [row for row in rows if "image" in row or _is_whole(bundle, row)]
    return whole[:num_rows]


def _placed(row: Row, folder: Path) -> Row:
    return {**row, "image": str(folder / row["image"])} if "image" in row else row


def _is_whole(bundle: Bundle, row: Row) -> bool:
    """Whether a row is no window, and has fewer tokens than the model is given at most: what is cut has as many."""
    return WINDOW not in row and bundle.encode([Example(row=row)]).lengths.max() < bundle.manifest.max_length


def only(ours: Any, theirs: Any) -> Any:
    """Of our answer the parts that the other reader gives as well."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {name: only(ours[name], value) for name, value in theirs.items()}
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [only(one, other) for one, other in zip(ours, theirs, strict=True)]
    return ours


def distance(one: Any, other: Any) -> float:
    """The furthest that two numbers of two answers are apart; infinite where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((distance(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max((distance(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        gap = abs(one - other) / max(1.0, abs(other))
        return gap if np.isfinite(gap) else float("inf")
    return 0.0 if one == other else float("inf")


# --- the readers


def pipeline(task: str, folder: Path, **options: Any) -> Any:
    """The one that transformers has for a task."""
    import transformers

    opened: Any = transformers.pipeline
    return opened(task, model=str(folder), device="cpu", **options)


def classes(folder: Path, bundle: Bundle, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The probability of each label, and the likeliest label where there is one of them."""
    several = bool(getattr(bundle.task, "multi_label", False))
    read = pipeline("text-classification", folder, top_k=None, function_to_apply="sigmoid" if several else "softmax")
    return [_scored(read(_texts(row)), several=several) for row in rows]


def _texts(row: Row) -> dict[str, str]:
    return {name: row[name] for name in ("text", "text_pair") if name in row}


def _scored(found: Sequence[Mapping[str, Any]], *, several: bool) -> dict[str, Any]:
    scores = {one["label"]: one["score"] for one in found}
    return {"scores": scores} if several else {"scores": scores, "label": max(scores, key=lambda name: scores[name])}


def number(folder: Path, bundle: Bundle, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The number, or each of them by its name, in the rows' own unit."""
    read = pipeline("text-classification", folder, top_k=None, function_to_apply="none")
    several = bool(getattr(bundle.task, "targets", ()))
    found = [{one["label"]: one["score"] for one in read(_texts(row))} for row in rows]
    return [{"values": each} if several else {"value": next(iter(each.values()))} for each in found]


def entities(folder: Path, bundle: Bundle, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The entities of texts: what they are called, and the characters that they start at and end before."""
    read = pipeline("token-classification", folder, aggregation_strategy="first")
    return [
        {
            "spans": [
                {"start": one["start"], "end": one["end"], "label": one["entity_group"]} for one in read(row["text"])
            ]
        }
        for row in rows
    ]


def pictures(folder: Path, bundle: Bundle, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The probability of each label of an image, and the likeliest label."""
    read = pipeline("image-classification", folder)
    assert isinstance(bundle.task, ImageClassification), "it reads images"
    return [_scored(read(row["image"], top_k=len(bundle.task.labels)), several=False) for row in rows]


def conversations(folder: Path, bundle: Bundle, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The greedy answer to what a row asks."""
    from compiler.tasks.text_generation import conversation

    assert bundle.manifest.generation is not None, "the task writes"
    most = bundle.manifest.generation.max_new_tokens
    write = pipeline("text-generation", folder, dtype="float32")
    return [{"text": _said(write, list(_asked(conversation(row))), most)} for row in rows]


def _asked(said: Any) -> Any:
    """The turns of a conversation before the last answer, as a chat template reads them."""
    turns = [{"role": turn.role, "content": turn.content} for turn in said.messages]
    return turns[:-1] if turns[-1]["role"] == "assistant" else turns


def _said(write: Any, turns: list[Any], most: int) -> str:
    [found] = write(turns, max_new_tokens=most, do_sample=False, return_full_text=False)
    text: str = found["generated_text"]
    return text


def translations(folder: Path, bundle: Bundle, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The greedy text that `generate` writes."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    assert bundle.manifest.generation is not None, "the task writes"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    most, prefix = bundle.manifest.generation.max_new_tokens, getattr(bundle.task, "prefix", "")
    found = []
    for row in rows:
        read = tokenizer(prefix + row["source"], return_tensors="pt")
        ids = model.generate(read.input_ids, attention_mask=read.attention_mask, max_new_tokens=most, do_sample=False)
        found.append({"text": tokenizer.decode(ids[0], skip_special_tokens=True)})
    return found


def answers(folder: Path, bundle: Bundle, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The likeliest part of the context; "" where the first token, which stands for no answer, is likelier."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    assert isinstance(bundle.task, QuestionAnswering), "it marks answers"
    most = bundle.task.max_answer_length
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        read = tokenizer(row["question"], row["context"], return_tensors="pt", return_offsets_mapping=True)
        offsets, part = read.pop("offset_mapping")[0].tolist(), read.sequence_ids(0)
        with torch.no_grad():
            logits = model(**read)
        sums = (logits.start_logits[0, :, None] + logits.end_logits[0, None, :]).numpy()
        here = np.array([one == 1 for one in part])
        allowed = np.triu(np.outer(here, here)) & ~np.triu(np.ones_like(sums, bool), most)
        start, end = np.unravel_index(np.where(allowed, sums, -np.inf).argmax(), sums.shape)
        none = sums[0, 0] >= sums[start, end]
        found.append({"answer": "" if none else row["context"][offsets[start][0] : offsets[end][1]]})
    return found


READERS: Mapping[str, Reader] = {
    "text-classification": classes,
    "text-regression": number,
    "token-classification": entities,
    "image-classification": pictures,
    "text-generation": conversations,
    "translation": translations,
    "summarization": translations,
    "text-to-text": translations,
    "question-answering": answers,
}


def main() -> int:
    """Prints how many answers are alike, and those that are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run with a bundle")
    parser.add_argument("--rows", type=int, default=100, help="held-out rows (default 100)")
    options = parser.parse_args()
    found = compare(options.run, options.rows)
    for ours, theirs in found.differing:
        print(f"bundle        {ours}\ntransformers  {theirs}")
    print(f"{found.alike} of {found.rows} rows alike, numbers within {found.furthest:.1e}")
    return 0 if found.alike == found.rows > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
