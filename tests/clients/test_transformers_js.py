"""Bundles of real runs, opened unchanged by transformers.js: it answers as the bundle itself does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from runtimes.bundles.bundle import Bundle, open_bundle
from runtimes.bundles.client_files import loading
from runtimes.bundles.manifest import read_manifest
from runtimes.export.facts import ENCODER, GRAPH, data_file
from runtimes.generation.answers import writing_of
from runtimes.rows.tokens import Encoder
from tests.asked import asked_rows
from tests.cli.conftest import invoke
from tests.clients.projects import PRECISIONS, SPECIAL, write
from tests.tagged import tagged_rows
from tests.tiny import prompts, rows
from tools.fetch_clients import CLIENTS, are_there

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js"),
    pytest.mark.skipif(not are_there(), reason="needs the clients: make clients"),
]

SCRIPT = Path(__file__).with_name("transformers_js.mjs")
CLOSE = 1e-4
"""Scores are softmax of float32 logits, by another build of onnxruntime."""
ROUNDED = 1e-2
"""The same of a graph in fewer bits, which each build rounds and adds up in its own way."""
NUM_ROWS = 20

Bundles = Callable[[str], Path]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The bundle of a kind of project, which is run when it is first asked for."""
    made: dict[str, Path] = {}

    def bundle(kind: str) -> Path:
        if kind not in made:
            folder = write(kind, tmp_path_factory.mktemp(kind) / "project")
            options = ("--runs", folder / "runs", "--target", "cpu", "--runtime", "pytorch", "--quiet")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HF_HUB_OFFLINE", "1")
                patch.delenv("RECIPE_MIRROR", raising=False)
                done = invoke("run", folder / "recipe.json", *options)
            assert done.exit_code == 0, done.output
            made[kind] = folder / "runs" / "tiny" / "bundle"
        return made[kind]

    return bundle


def ask(bundle: Path, **request: Any) -> list[Any]:
    """What transformers.js answers to each row of a request."""
    command = ["node", str(SCRIPT), str(CLIENTS), str(bundle)]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(request["rows"])
    return found


def snippets() -> list[str]:
    """Texts that no bundle cuts, of different lengths."""
    return [row["snippet"] for row in rows(300) if len(row["snippet"].split()) <= 12][-NUM_ROWS:]


def probabilities(bundle: Bundle, *texts: str) -> tuple[list[int], np.ndarray]:
    """The tokens of a row, and [T, C] the softmax of what the graph says of each."""
    assert isinstance(bundle.encoder, Encoder)
    [encoding] = bundle.encoder.encodings([texts])
    given = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
    session: Any = bundle.graph
    [logits] = session.outputs({name: np.array([value], np.int64) for name, value in given.items()})
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return encoding.ids, shares / shares.sum(axis=-1, keepdims=True)


def test_labels_and_their_scores(bundles: Bundles) -> None:
    texts, bundle = snippets(), bundles("labels")
    found = ask(bundle, pipeline="text-classification", rows=[[text] for text in texts], options={"top_k": 2})
    expected = open_bundle(bundle).predict([{"text": text} for text in texts])
    assert len({answer["label"] for answer in expected}) == 2
    for answer, other in zip(found, expected, strict=True):
        assert answer[0]["label"] == other["label"]
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(other["scores"], abs=CLOSE)


def test_labels_of_rows_that_share_a_batch(bundles: Bundles) -> None:
    texts, bundle = snippets(), bundles("labels")
    [found] = ask(bundle, pipeline="text-classification", rows=[[texts]])
    expected = open_bundle(bundle).predict([{"text": text} for text in texts])
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in found] == pytest.approx([one["score"] for one in expected], abs=CLOSE)


def test_label_sets_and_their_scores(bundles: Bundles) -> None:
    texts, bundle = snippets(), bundles("label-sets")
    found = ask(bundle, pipeline="text-classification", rows=[[text] for text in texts], options={"top_k": 3})
    expected = open_bundle(bundle).predict([{"text": text} for text in texts])
    for answer, other in zip(found, expected, strict=True):
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(other["scores"], abs=CLOSE)


def test_tags_of_tokens_and_their_scores(bundles: Bundles) -> None:
    texts = [" ".join(row["tokens"]) for row in tagged_rows(300)[-NUM_ROWS:]]
    bundle = bundles("tags")
    options: dict[str, list[str]] = {"ignore_labels": []}
    found = ask(bundle, pipeline="token-classification", rows=[[text] for text in texts], options=options)
    opened = open_bundle(bundle)
    names = json.loads((bundle / "labels.json").read_text())
    seen = set()
    for answer, text in zip(found, texts, strict=True):
        ids, shares = probabilities(opened, text)
        assert [one["index"] for one in answer] == [at for at, token in enumerate(ids) if token >= len(SPECIAL)]
        for one in answer:
            best = int(shares[one["index"]].argmax())
            assert one["entity"] == names[best]
            assert one["score"] == pytest.approx(shares[one["index"], best], abs=CLOSE)
            seen.add(best)
    assert len(seen) > 2


def test_answers_to_questions_and_their_scores(bundles: Bundles) -> None:
    bundle = bundles("asked")
    there = [row for row in asked_rows(400) if row["found"]["text"] and len(row["passage"].split()) <= 12]
    given = [{"question": row["asked"], "context": row["passage"]} for row in there[-NUM_ROWS:]]
    found = ask(bundle, pipeline="question-answering", rows=[[row["question"], row["context"]] for row in given])
    expected = open_bundle(bundle).predict(given)
    both = [pair for pair in zip(found, expected, strict=True) if pair[1]["answer"]]  # it never says that there is none
    assert len(both) > NUM_ROWS // 2
    for answer, other in both:
        assert answer["answer"] == other["answer"]
        assert answer["score"] == pytest.approx(other["score"], abs=CLOSE)


def test_hidden_words_and_their_scores(bundles: Bundles) -> None:
    bundle = bundles("masked")
    texts = [f"the {one} was very [MASK] and a plot is {two}" for one in ("movie", "film") for two in ("bad", "dull")]
    found = ask(bundle, pipeline="fill-mask", rows=[[text] for text in texts], options={"top_k": 3})
    opened = open_bundle(bundle)
    for answer, text in zip(found, texts, strict=True):
        ids, shares = probabilities(opened, text)
        at = ids.index(SPECIAL.index("[MASK]"))
        best = np.argsort(-shares[at])[:3]
        assert [one["token"] for one in answer] == best.tolist()
        assert [one["score"] for one in answer] == pytest.approx(shares[at, best].tolist(), abs=CLOSE)


def test_labels_of_images_and_their_scores(bundles: Bundles) -> None:
    bundle = bundles("photos")
    photos = sorted((bundle.parents[2] / "photos").rglob("*.png"))
    files = [str(file) for file in [*photos[: NUM_ROWS // 2], *photos[-NUM_ROWS // 2 :]]]
    found = ask(bundle, pipeline="image-classification", rows=[[file] for file in files])
    expected = open_bundle(bundle).predict([{"image": file} for file in files])
    assert len({answer["label"] for answer in expected}) == 2
    for answer, other in zip(found, expected, strict=True):
        assert answer[0]["label"] == other["label"]
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(other["scores"], abs=CLOSE)


def tokens_of(bundle: Path, given: Sequence[dict[str, str]]) -> tuple[list[list[int]], list[list[int]], set[int]]:
    """The prompts of rows, the tokens that the bundle writes after them, and those that end an answer."""
    opened = open_bundle(bundle)
    assert isinstance(opened.encoder, Encoder) and opened.manifest.generation is not None
    writing = writing_of(opened.task, opened.encoder, opened.manifest.generation, bundle)
    decoder: Any = opened.graph
    asked = [prompt.ids for prompt in writing.prompts(given, decoder)]
    return [list(ids) for ids in asked], [list(one.ids) for one in writing.decoded(decoder, asked)], {*writing.ends}


def without(ids: Sequence[int], ends: set[int]) -> list[int]:
    """The tokens of an answer before what ends it."""
    return [*ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]]


def test_a_language_model_writes_the_same_tokens(bundles: Bundles) -> None:
    bundle = bundles("written")
    given = [{"prompt": row["prompt"], "completion": "very p"} for row in prompts(300)[-NUM_ROWS:]]
    asked, expected, ends = tokens_of(bundle, given)
    found = ask(bundle, generate="causal", rows=asked)
    assert len({tuple(ids) for ids in expected}) > 1
    assert [without(ids, ends) for ids in found] == [without(ids, ends) for ids in expected]


def test_a_chat_is_answered_with_the_same_text_through_the_template_in_the_bundle(bundles: Bundles) -> None:
    bundle = bundles("written")
    given = [row["prompt"] for row in prompts(300)[-NUM_ROWS:]]
    chats = [[[{"role": "user", "content": text}]] for text in given]
    found = ask(bundle, pipeline="text-generation", rows=chats, options={"max_new_tokens": 6})
    expected = open_bundle(bundle).predict([{"prompt": text, "completion": "very p"} for text in given])
    written = [answer["generated_text"][-1]["content"].strip() for [answer] in found]
    assert written == [answer["text"].strip() for answer in expected]


@pytest.mark.parametrize("model", ["t5", "t5-prompt", "marian", "bart"])
def test_an_encoder_decoder_writes_the_same_tokens(bundles: Bundles, model: str) -> None:
    bundle = bundles(model)
    asked, expected, ends = tokens_of(bundle, [{"source": text} for text in snippets()])
    found = ask(bundle, generate="seq2seq", rows=asked)
    assert len({tuple(ids) for ids in expected}) > 1
    assert [without(ids, ends) for ids in found] == [without(ids, ends) for ids in expected]


def test_an_encoder_decoder_writes_the_same_texts_one_by_one_and_in_a_batch(bundles: Bundles) -> None:
    texts, bundle = snippets(), bundles("t5")
    expected = [answer["text"] for answer in open_bundle(bundle).predict([{"source": text} for text in texts])]
    options = {"max_new_tokens": 8}  # the client's pipeline has a limit of its own
    for given in ([[text] for text in texts], [[texts]]):
        found = ask(bundle, pipeline="text2text-generation", rows=given, options=options)
        written = [answer["generated_text"] for answers in found for answer in answers]
        assert [text.strip() for text in written] == [text.strip() for text in expected]


@pytest.mark.parametrize(("number", "precision"), [*enumerate(PRECISIONS, start=1)])
def test_the_precision_of_a_bundle_is_opened_without_being_named(bundles: Bundles, number: int, precision: str) -> None:
    texts, bundle = snippets(), bundles("precisions").with_name(f"bundle-{number}")
    assert read_manifest(bundle).precision == precision
    found = ask(bundle, pipeline="text-classification", rows=[[text] for text in texts])
    expected = open_bundle(bundle).predict([{"text": text} for text in texts])
    assert [one["score"] for [one] in found] == pytest.approx([one["score"] for one in expected], abs=ROUNDED)
    sure = [place for place, one in enumerate(expected) if one["score"] > 0.5 + ROUNDED]
    assert [found[place][0]["label"] for place in sure] == [expected[place]["label"] for place in sure]
    assert len(sure) > NUM_ROWS // 2


def test_weights_beside_their_graph_are_found(bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles("labels"), tmp_path / "bundle"))
    graph = onnx.load(bundle / GRAPH)
    name = data_file(bundle / GRAPH).name
    onnx.save(graph, bundle / GRAPH, save_as_external_data=True, location=name, size_threshold=64)
    told = dict(loading(bundle, [GRAPH], "fp32"))
    assert told == {"use_external_data_format": {"model.onnx": 1}}
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "transformers.js_config": told}))
    rows = [[text] for text in snippets()]
    one, two = (ask(folder, pipeline="text-classification", rows=rows) for folder in (bundle, bundles("labels")))
    assert one == two


def test_a_file_that_is_not_there_is_not_looked_for_elsewhere(bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles("t5"), tmp_path / "bundle"))
    (bundle / ENCODER).unlink()
    with pytest.raises(AssertionError, match=r"encoder_model\.onnx"):
        ask(bundle, generate="seq2seq", rows=[[5, 6, 3]])
