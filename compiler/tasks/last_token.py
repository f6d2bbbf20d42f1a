"""What tasks have in common that answer for a whole text: a decoder answers by the text's last token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compiler.diagnostics import Diagnostic

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


def check_padding(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """A decoder has a padding token, by which it tells where a text ends."""
    if model.architecture == "decoder" and model.padding is None:
        message = f"the model is a decoder ({model.model_type}) without a pad_token_id"
        hint = "choose an encoder, or name its padding token in config.json"
        yield recipe.finding("R410", "/model/id", message, hint)
