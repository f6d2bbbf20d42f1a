"""Virtual tokens: what the methods have in common that train vectors before each row and leave the model as it is.

They take positions of the model, so rows have fewer; and they stand before each row, so rows do not share a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from compiler import tasks
from compiler.diagnostics import Diagnostic
from compiler.methods.interface import Tuned
from compiler.typed import About
from compiler.weights import word_embeddings

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.methods import Method
    from compiler.recipe import Recipe

LEAST = 2
"""Tokens that a row must have room for."""
_SEQUENCES = frozenset(["bart", "encoder-decoder", "mt5", "t5"])
"""Encoder-decoders whose encoder takes vectors as PEFT gives them; mT5 is T5's code. Tests run the others."""
_A = {"encoder-decoder": "an encoder-decoder", "vision": "a vision model"}
_OTHERS = 'use the method "full", "freeze", "head" or "lora"'


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualTokens:
    """What the methods that train virtual tokens have in common."""

    type: str
    num_virtual_tokens: Annotated[
        int, About("Virtual tokens before each row; they take positions of the model.", minimum=1)
    ] = 20


def beside_rows(method: Method, model: ModelFacts) -> ModelFacts:
    """The model as rows find it: without the positions of virtual tokens, and each row alone after them."""
    if not isinstance(method, VirtualTokens):
        return model
    left = None if model.max_positions is None else model.max_positions - method.num_virtual_tokens
    return replace(model, max_positions=left if left is None else max(1, left), packs=False)


def check_virtual(
    recipe: Recipe, method: VirtualTokens, model: ModelFacts, *, vectors: bool = True
) -> Iterator[Diagnostic]:
    """Virtual tokens stand before the tokens of a text, leave it room, and do not stand in a folder for mlx-lm.

    `vectors`: they are given to the model as tokens are, and not to its layers.
    """
    kind, takes = model.architecture, vectors and model.model_type in _SEQUENCES
    if kind in _A and kind in tasks.module_of(recipe.task).ARCHITECTURES and not takes:
        message = f'the method "{method.type}" has no place in {_A[kind]} of this kind ({model.model_type})'
        more = f", or one of {', '.join(sorted(_SEQUENCES))}" if vectors and kind == "encoder-decoder" else ""
        yield recipe.finding("R250", "/method", message, _OTHERS + more)
    if kind == "encoder-decoder" and takes and recipe.training.neftune_alpha is not None:
        message = 'nothing reads "neftune_alpha" where the encoder is given vectors in place of tokens'
        yield recipe.finding("R202", "/training/neftune_alpha", message, "remove it", key=True)
    if model.max_positions is not None and model.max_positions < LEAST:
        pointer = "/method/num_virtual_tokens"
        message = f"{method.num_virtual_tokens} virtual tokens leave no room for rows in the model's positions"
        yield recipe.finding("R251", pointer if recipe.wrote(pointer) is not None else "/method", message, "use fewer")
    for index, export in enumerate(recipe.export):
        if export.format == "mlx" and tasks.is_language_model(recipe.task, model.architecture):
            message = f'a folder for mlx-lm has no place for what the method "{method.type}" trains'
            yield recipe.finding("R218", f"/export/{index}", message, 'write {"format": "onnx"}')


def check_whole_texts(recipe: Recipe, method: VirtualTokens, model: ModelFacts) -> Iterator[Diagnostic]:
    """A decoder that answers by a text's last token finds it by token ids, and virtual tokens have none."""
    if model.architecture == "decoder" and tasks.module_of(recipe.task).PACKING == "none":
        message = f"a decoder ({model.model_type}) finds the last token by its id, and is given vectors here"
        yield recipe.finding("R250", "/method", message, 'choose an encoder, or use the method "prefix"')


def tuned(model: ModelFacts, count: int) -> Tuned:
    """What is trained: so many numbers beside the model, where its sizes are known."""
    return Tuned(
        modules=("prompt_embeddings",), parameters=count if model.has_shapes else None, total=model.num_parameters
    )


def embedding_size(model: ModelFacts) -> int:
    """The size of a token's vector, which may be smaller than the model's (ALBERT)."""
    [*sizes] = (size for _, size in word_embeddings(model.shapes).values())
    return sizes[0] if sizes else model.hidden_size
