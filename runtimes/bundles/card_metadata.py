"""The metadata of a bundle's model card, in the hub's format, which the hub's own library writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from compiler.origin import Licence
from runtimes import tasks
from runtimes.bundles.bundle import holds_function
from runtimes.bundles.card import body
from runtimes.bundles.manifest import Manifest
from runtimes.bundles.provenance import Provenance

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_HUB_METRICS: Mapping[str, str] = {
    "auroc": "roc_auc",
    "entity-f1": "seqeval",
    "entity-precision": "seqeval",
    "entity-recall": "seqeval",
    "exact-match": "exact_match",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "r2": "r_squared",
    "spearman": "spearmanr",
}
"""Ours -> the hub's, where it has another word."""
_JAVASCRIPT = "transformers.js"


def card(name: str, manifests: Sequence[Manifest]) -> str:
    """The whole card: of one task, or of several in one graph. The same manifests give the same bytes."""
    return f"---\n{_metadata(name, manifests)}\n---\n{body(name, manifests)}"


def _metadata(name: str, manifests: Sequence[Manifest]) -> str:
    from huggingface_hub import ModelCardData

    cards = [tasks.module_of(each.task).card(each.task) for each in manifests]
    tags = {each.pipeline_tag for each in cards}
    kind = "mlx" if holds_function(manifests[0]) else "onnx"
    origin = manifests[0].provenance.origin
    results = [*chain.from_iterable(map(_results, manifests))]
    data = ModelCardData(
        **_licence(origin.licence),
        **_base(manifests[0].provenance),
        library_name=_JAVASCRIPT if _opens_in_javascript(manifests) else kind,
        pipeline_tag=tags.pop() if len(tags) == 1 else None,
        tags=[*dict.fromkeys([kind, "recipec", *(tag for each in cards for tag in each.tags)])],
        datasets=[*origin.datasets] or None,
        metrics=[*dict.fromkeys(result.metric_type for result in results)] or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml(line_break="\n")


def _opens_in_javascript(manifests: Sequence[Manifest]) -> bool:
    """Whether transformers.js answers as the bundle does: it opens graphs of one task, and loads no adapter."""
    first = manifests[0]
    pipeline = tasks.module_of(first.task).card(first.task).pipeline
    return bool(pipeline) and len(manifests) == 1 and not holds_function(first) and not first.adapter


def _licence(licence: Licence) -> dict[str, Any]:
    return {"license": licence.id, "license_name": licence.name or None, "license_link": licence.link or None}


def _base(provenance: Provenance) -> dict[str, Any]:
    """The base model, where the hub has it and its weights were begun with, and what this model is to it."""
    if not provenance.origin.on_hub or not provenance.reads_base:
        return {}
    relation = "finetune" if provenance.is_tuned else "quantized"  # its word for every conversion
    return {"base_model": provenance.origin.base_model, "base_model_relation": relation}


def _results(manifest: Manifest) -> Iterator[EvalResult]:
    """The figures of the graph, and of written texts those of the trained model."""
    from huggingface_hub import EvalResult

    evaluated, module = manifest.provenance.evaluated, tasks.module_of(manifest.task)
    datasets = manifest.provenance.origin.datasets
    dataset = datasets[0] if len(datasets) == 1 else manifest.name
    for name, value in {**evaluated.metrics, **manifest.exported}.items():
        kind = name.partition("_")[0]
        if kind == "loss" or not math.isfinite(value):
            continue
        yield EvalResult(
            task_type=module.card(manifest.task).pipeline_tag,
            task_name=manifest.part or None,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_config=manifest.part or None,  # the library joins what has all of these alike
            dataset_split=evaluated.split or None,
            metric_type=_HUB_METRICS.get(kind, kind),
            metric_name=name,
            metric_value=float(value),
        )
