"""A tiny real BERT, exported, verified and packaged once: what the tests of the gate and of bundles look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from compiler.metrics import F1, Accuracy
from compiler.plan import ModelFiles, Package, VerifyExport
from compiler.recipe import Onnx
from compiler.tasks import Example
from compiler.tasks.text_classification import TextClassification
from runtimes import tasks
from runtimes.export.facts import GRAPH
from runtimes.verification.gate import ScoreFunction

LABELS = ("negative", "positive")
WORDS = [
    "the",
    "a",
    "movie",
    "film",
    "plot",
    "actor",
    "was",
    "is",
    "very",
    "not",
    "good",
    "bad",
    "great",
    "awful",
    "fine",
    "dull",
    "bright",
    "long",
    "short",
    "café",
    "end",
]
MAX_LENGTH = 48
TASK = TextClassification(labels=LABELS)
HEAD = tasks.module_of(TASK).head(TASK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """The folders of a tiny model from its weights to its bundle, and its held-out rows."""

    model: Path
    onnx_file: Path
    verified: Path
    bundle: Path
    texts: tuple[str, ...]
    targets: np.ndarray
    verify_step: VerifyExport
    package_step: Package


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    from runtimes.bundles.package import Parts, package
    from runtimes.export import Stage
    from runtimes.export.session import onnx_scores
    from runtimes.pytorch.loading import load_source
    from runtimes.pytorch.noise import float32_noise
    from runtimes.pytorch.onnx import export
    from runtimes.pytorch.onnx_format import traceable
    from runtimes.pytorch.scores import torch_scores
    from runtimes.rows.tokens import open_encoder
    from runtimes.saved import SavedModel
    from runtimes.verification.edges import HeldOut, Source, verify_export

    root = tmp_path_factory.mktemp("tiny")
    model = root / "model"
    save_bert(model)
    export(traceable(SavedModel(model), HEAD), root / GRAPH)
    encoder = open_encoder(model / "tokenizer.json", max_length=MAX_LENGTH)
    texts = sentences(120)
    source = torch_scores(SavedModel(model), HEAD)
    targets = labels_of(source, texts, model)
    verify_export(
        verify_step(),
        held_out=HeldOut(task=TASK, rows=labelled(texts, targets)),
        encoder=encoder,
        stages=[
            Stage("trained", lambda: source),
            Stage("onnx", lambda: onnx_scores(root / GRAPH)),
        ],
        source=Source(lambda batches: float32_noise(load_source(model), batches, HEAD)),
        out=root / "verified",
    )
    parts = Parts(
        written=root,
        graphs=(GRAPH,),
        model_folder=model,
        tokenizer_folder=model,
        verify_folder=root / "verified",
        key="0" * 64,
    )
    package(package_step(), parts, root / "bundle")
    return Tiny(
        model=model,
        onnx_file=root / GRAPH,
        verified=root / "verified",
        bundle=root / "bundle",
        texts=texts,
        targets=targets,
        verify_step=verify_step(),
        package_step=package_step(),
    )


@pytest.fixture
def bundle_copy(tiny: Tiny, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(tiny.bundle, tmp_path / "bundle"))


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """Writes a bundle's manifest anew: the hashes of its files as they are now, all else as it was."""
    from runtimes.bundles.manifest import read_manifest, seal

    def sealed(folder: Path) -> None:
        seal(folder, read_manifest(folder))

    return sealed


def sentences(count: int) -> tuple[str, ...]:
    """Lower-case texts of 1 to 30 words."""
    random = np.random.default_rng(0)
    return tuple(" ".join(random.choice(WORDS, random.integers(1, 31))) for _ in range(count))


def labels_of(source: ScoreFunction, texts: tuple[str, ...], model: Path) -> np.ndarray:
    """What the source decides, but for every tenth row: it is right nine times in ten."""
    from runtimes.rows.tokens import open_encoder
    from runtimes.verification.comparison import encoded, outputs_of

    encoder = open_encoder(model / "tokenizer.json", max_length=MAX_LENGTH)
    table = encoded(TASK, [Example(row={"text": text}, target=0) for text in texts], encoder)
    decided: np.ndarray = outputs_of(source, table, np.arange(len(texts)), 16).values.argmax(axis=1)
    decided[::10] = 1 - decided[::10]
    return decided


def labelled(texts: Sequence[str], targets: np.ndarray) -> list[dict[str, str]]:
    """Rows by role."""
    return [{"text": text, "label": LABELS[target]} for text, target in zip(texts, targets, strict=True)]


def save_bert(folder: Path) -> None:
    """A random BERT of two classes whose answers depend on its inputs, with a tokenizer that lower-cases."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from runtimes.pytorch.quiet import quiet

    vocabulary = save_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.3,
        pad_token_id=0,
    )
    config.num_labels = len(LABELS)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    center(model)
    with quiet():
        model.save_pretrained(folder)


def center(model) -> None:
    """Moves the head's bias so that both classes are decided."""
    import torch

    ids = torch.randint(5, model.config.vocab_size, (64, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        margins = model.eval()(ids).logits.diff(dim=1).flatten()
        model.classifier.bias[1] -= margins.median()


def save_tokenizer(folder: Path) -> int:
    """Size of the vocabulary of the WordPiece tokenizer.json that is written: whole words and single letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [word for word in WORDS if word not in letters]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *words,
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    )
    return len(vocabulary)


def verify_step() -> VerifyExport:
    return VerifyExport(
        id="verify",
        inputs=("prepare", "train", "export"),
        task=TASK,
        split="test",
        metrics=(Accuracy(), F1()),
        rows=0,
        tolerance_factor=8.0,
        max_excused=0.02,
        max_metric_drop=0.0,
        export=Onnx(opset=18),
        generation=None,
        model=ModelFiles(id="tiny", revision=None, files={}),
    )


def package_step() -> Package:
    return Package(
        id="package",
        inputs=("prepare", "export", "verify"),
        name="tiny-sentiment",
        task=TASK,
        tokenizer=ModelFiles(id="tiny", revision=None, files={}),
        max_length=MAX_LENGTH,
        columns={"text": "text", "label": "label"},
        generation=None,
    )
