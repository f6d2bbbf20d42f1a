"""Saved models as PyTorch reads them: whole, float32, on CPU, in evaluation mode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from peft import PeftModel
from safetensors import safe_open
from transformers import PreTrainedModel

from compiler.adapter_names import own_names
from runtimes.errors import RunError, first_line
from runtimes.pytorch.methods import require_known
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.virtual import answering_for_rows, called_as_inner, configuration_of
from runtimes.saved import SavedModel
from runtimes.tasks.interface import Head

ADAPTER = "adapter_model.safetensors"
SEQUENCE_CLASSIFIER = "AutoModelForSequenceClassification"


class SourceError(RunError):
    """A saved model can't be loaded whole, or doesn't compute."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("E502", message, hint)


def load_saved(saved: SavedModel, head: Head, *, attention: str | None = None) -> PreTrainedModel:
    """The saved model; where an adapter is not merged into it, its modules are inside. Raises SourceError."""
    if saved.adapter is None:
        return load_source(saved.folder, auto_class=head.auto_class, attention=attention)
    adapted = load_adapter(saved.folder, require_known(saved.adapter).folder, head, attention=attention)
    if configuration_of(adapted) is not None:
        return cast(PreTrainedModel, called_as_inner(answering_for_rows(adapted)))
    return cast(PreTrainedModel, adapted.get_base_model())


def load_source(
    model_folder: Path, *, auto_class: str = SEQUENCE_CLASSIFIER, attention: str | None = None
) -> PreTrainedModel:
    """The saved model, float32, on CPU, in eval mode; SourceError when a weight is not in the folder.

    transformers would fill a missing head with random numbers and go on.
    """
    _check_folder(model_folder)
    model, info = _read(model_folder, auto_class, attn_implementation=attention)
    if missing := sorted(info["missing_keys"]):
        raise SourceError(
            f"{model_folder}: the weights lack {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}",
            f"give the folder of a tuned model, saved with the head that {auto_class} reads",
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_adapter(base_folder: Path, adapter_folder: Path, head: Head, *, attention: str | None = None) -> PeftModel:
    """A base model with a peft adapter that is not merged, float32, on CPU, in eval mode. Raises SourceError."""
    base = _load_base(base_folder, adapter_folder, head, attention)
    with quiet():
        try:
            model = PeftModel.from_pretrained(base, str(adapter_folder))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise SourceError(f"{adapter_folder}: peft can't load it: {first_line(error)}") from error
    loaded: PeftModel = model.float().eval()
    return loaded


def _check_folder(model_folder: Path) -> None:
    for pattern in ("config.json", "*.safetensors"):
        if next(model_folder.glob(pattern), None) is None:
            raise SourceError(
                f"{model_folder}: no {pattern} there",
                "a saved model is a folder with config.json and safetensors weights; pickled weights are not read",
            )


def _load_base(base_folder: Path, adapter_folder: Path, head: Head, attention: str | None) -> Any:
    """The base model, float32; whatever its folder lacks must be in the adapter's."""
    options = {**head.config, "attn_implementation": attention, "ignore_mismatched_sizes": True}
    model, info = _read(base_folder, head.auto_class, **options)
    random = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    brought = _adapter_names(adapter_folder)
    if lacking := sorted(name for name in random if name not in brought):
        raise SourceError(
            f"{', '.join(lacking[:4])} are neither in {base_folder} nor in {adapter_folder}",
            "save the adapter with its head (peft's modules_to_save)",
        )
    return model


def _read(folder: Path, auto_class: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """The model of a folder in float32, and what transformers says of its loading. Raises SourceError."""
    with quiet():
        try:
            model, info = getattr(transformers, auto_class).from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise SourceError(f"{folder}: {auto_class} can't load it: {first_line(error)}") from error
    return model, info


def _adapter_names(adapter_folder: Path) -> set[str]:
    """The names of the base model's own weights that an adapter replaces."""
    try:
        json.loads((adapter_folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(adapter_folder / ADAPTER, framework="np") as file:
            names = list(file.keys())
    except (OSError, ValueError) as error:
        raise SourceError(f"{adapter_folder}: not an adapter: {first_line(error)}") from error
    return {own for name in names for own in own_names(name)}
