"""Classifiers as they lie on a hub, and graphs of them as other tools write them: by torch's own exporter."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import rows, save_encoder

LABELS = ("negative", "positive")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def save_classifier(folder: Path, **changes: Any) -> Path:
    """A random BERT with a head of its own whose answers differ, saved by transformers; `changes` to its config."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from runtimes.pytorch.quiet import quiet

    encoder = folder.with_name(f"{folder.name}-encoder")
    save_encoder(encoder)
    names = changes.pop("labels", LABELS)
    with quiet():
        torch.manual_seed(1)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            encoder,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
            **changes,
        )
        with torch.no_grad():
            model.classifier.weight.normal_(0, 1)
        model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copyfile(encoder / name, folder / name)
    shutil.rmtree(encoder)
    return folder


def write_rows(path: Path, count: int = 60) -> Path:
    """Labelled rows with columns of names of their own."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count)), encoding="utf-8")
    return path


def export_classifier(model_folder: Path, out: Path, *, varies: bool = True, scripted: bool = False) -> Path:
    """The graph of a classifier by torch.onnx, frozen to 2 rows of 16 tokens unless its axes vary.

    `scripted`: by the exporter that optimum calls, which names and lays out everything otherwise.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from runtimes.pytorch.quiet import quiet

    class Logits(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
            return self.model(input_ids=input_ids, **given).logits

    names = ("input_ids", "attention_mask", "token_type_ids")
    ids = torch.arange(32).reshape(2, 16) + 5
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
    by_name: Any = dict.fromkeys(names, {0: "batch", 1: "sequence"} if scripted else axes)
    sizes: dict[str, Any] = {"dynamic_axes" if scripted else "dynamic_shapes": by_name} if varies else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx's own, about its own
        model: Any = AutoModelForSequenceClassification.from_pretrained(model_folder, attn_implementation="eager")
        torch.onnx.export(
            Logits(model.eval()),
            inputs,
            str(out),
            dynamo=not scripted,
            input_names=list(names),
            output_names=["logits"],
            external_data=False,
            **sizes,
            verbose=False,
        )
    return out


def changed(graph: Path, out: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a graph in which something is changed."""
    import onnx

    model = onnx.load(graph)
    change(model.graph)
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)
    return out


def take_int32(graph: Any) -> None:
    """Lets the inputs be of 32 bits."""
    import onnx

    casts = []
    for value in graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.INT32
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == value.name:
                    node.input[place] = f"{value.name}.wide"
        casts.append(onnx.helper.make_node("Cast", [value.name], [f"{value.name}.wide"], to=onnx.TensorProto.INT64))
    for node in reversed(casts):
        graph.node.insert(0, node)


def scale_a_weight(graph: Any) -> None:
    """Makes the largest matrix but one a hundredth larger."""
    import onnx

    matrices = [weight for weight in graph.initializer if len(weight.dims) == 2]
    weight = sorted(matrices, key=lambda each: int(np.prod(each.dims)))[-2]
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.05)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def rename(before: str, after: str) -> Callable[[Any], None]:
    """Calls an input or output otherwise."""

    def change(graph: Any) -> None:
        for value in (*graph.input, *graph.output):
            value.name = after if value.name == before else value.name
        for node in graph.node:
            node.input[:] = [after if name == before else name for name in node.input]
            node.output[:] = [after if name == before else name for name in node.output]

    return change
