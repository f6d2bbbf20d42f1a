"""What programs of others answer from a run's bundles, beside transformers with the model that was exported.

transformers.js opens every bundle (`make clients` installs it), onnxruntime-genai those that have genai_config.json.
Texts are classified, or greedy tokens are written after the prompts of held-out rows, past every end. The first answers
are shown as they came.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.decoders import agreement, genai, generating, margins
from benchmarks.rounds import machine, set_threads, table
from compiler.plan import VerifyExport
from compiler.tasks import TextClassification, texts_of
from runtimes import tasks
from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.bundles.golden import spread
from runtimes.export.genai import CONFIG
from runtimes.pytorch.loading import load_saved
from runtimes.steps.prepare import read_prepared
from tests.finished import Finished
from tools.fetch_clients import CLIENTS, PINNED, are_there

EXAMPLE = """\
example, from the project's folder:
  make clients
  python -m benchmarks.clients runs/quickstart --root recipes --rows 50
"""
SOURCE = "transformers"
SCRIPT = PINNED / "transformers_js.mjs"
Answers = Sequence[Any]
"""A label for each text, or the tokens written after each prompt."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What everybody is asked, and what transformers answers; `same` says how far another's answers are that."""

    rows: Answers
    expected: Answers
    same: Callable[[Answers], str]
    shown: Callable[[Any], str]


def main() -> None:
    """Prints the machine, a table of who answers alike, and the first answers of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder of its recipe (default: this one)")
    parser.add_argument("--rows", type=int, default=50, help="held-out rows (default 50)")
    parser.add_argument("--new-tokens", type=int, default=32, help="after each prompt (default 32)")
    parser.add_argument("--show", type=int, default=3, help="answers to show (default 3)")
    options = parser.parse_args()
    run = Finished(options.run, options.root)
    bundles = [open_bundle(folder, threads=1) for folder in run.bundles]
    if not bundles:
        parser.error(f"{options.run} has no bundle")
    if not are_there():
        parser.error("transformers.js is not installed: make clients")
    set_threads(1)
    asked = _asked(run, bundles[0], options)
    found = {
        f"{name}, {bundle.manifest.precision}": give()
        for bundle in bundles
        for name, give in _clients(bundle, asked, options)
    }
    print(
        machine(1),
        "",
        table(("", f"as {SOURCE}"), [[name, asked.same(answers)] for name, answers in found.items()]),
        sep="\n",
    )
    for number in range(options.show):
        print(f"\n{asked.shown(asked.rows[number])}")
        for name, answers in {SOURCE: asked.expected, **found}.items():
            print(f"  {name}: {asked.shown(answers[number])}")


def _asked(run: Finished, bundle: Bundle, options: argparse.Namespace) -> Asked:
    task, saved = run.step(VerifyExport).task, run.saved()
    model: Any = load_saved(saved, tasks.module_of(task).head(task))
    if bundle.manifest.generation is None:
        if not isinstance(task, TextClassification):
            raise SystemExit(f"{run.folder} neither classifies texts nor writes them")
        rows = read_prepared(run.held_out())
        texts = [texts_of(task, rows[place])[0] for place in spread(len(rows), options.rows)]
        tokenizer = AutoTokenizer.from_pretrained(saved.folder)
        limits = {"truncation": True, "max_length": bundle.manifest.max_length}
        labels = [_label(model, tokenizer(text, return_tensors="pt", **limits)) for text in texts]
        return Asked(texts, labels, partial(_alike, labels), _short)
    written = bundle.written()
    prompts = [written[place].prompt for place in spread(len(written), options.rows)]
    write, tokenizer = generating(model, options.new_tokens), AutoTokenizer.from_pretrained(bundle.folder)
    expected = [write(prompt) for prompt in prompts]
    undecided = [*margins(run, bundle, prompts, expected)]
    return Asked(
        prompts,
        expected,
        lambda answers: agreement(expected, answers, undecided, bundle),
        lambda ids: _short(str(tokenizer.decode(ids))),
    )


def _label(model: Any, inputs: Any) -> str:
    with torch.inference_mode():
        found: str = model.config.id2label[int(model(**inputs).logits.argmax())]
    return found


def _short(answer: str) -> str:
    return json.dumps(answer, ensure_ascii=False)[-160:]


def _alike(expected: Answers, answers: Answers) -> str:
    equal = sum(one == other for one, other in zip(expected, answers, strict=True))
    return f"{equal} of {len(expected)}"


def _clients(bundle: Bundle, asked: Asked, options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Answers]]]:
    """Programs that open a bundle, by name and version."""
    packages = json.loads((PINNED / "package.json").read_text(encoding="utf-8"))["dependencies"]
    version = packages["@huggingface/transformers"]
    classifies = bundle.manifest.generation is None
    labels, tokens = partial(_labels, bundle, asked.rows), partial(_tokens, bundle, asked.rows, options.new_tokens)
    yield f"transformers.js {version}", labels if classifies else tokens
    if (bundle.folder / CONFIG).is_file():
        write = genai(bundle.folder, options.new_tokens, 1)
        yield f"onnxruntime-genai {metadata.version('onnxruntime-genai')}", lambda: [write(row) for row in asked.rows]


def _labels(bundle: Bundle, rows: Answers) -> Answers:
    found = _ask(bundle, pipeline="text-classification", rows=[[row] for row in rows])
    return [answer["label"] for [answer] in found]


def _tokens(bundle: Bundle, rows: Answers, new_tokens: int) -> Answers:
    written = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    return _ask(bundle, generate="causal", rows=[[*row] for row in rows], options=written)


def _ask(bundle: Bundle, **request: Any) -> Answers:
    """What transformers.js answers to each row of a request."""
    command = ["node", str(SCRIPT), str(CLIENTS), str(bundle.folder)]
    done = subprocess.run(command, input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True)
    found: Answers = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
