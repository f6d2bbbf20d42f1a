"""Document -> Recipe, shape and meaning checked: all of the compiler that needs no facts."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.checks import check_recipe
from compiler.diagnostics import stop_on_error
from compiler.document import Document
from compiler.recipe import Recipe
from compiler.stages import StageText, check_common, check_order, check_stages, of_each, read_by_some, stages_of, told
from compiler.tasks.multi_task import MultiRecipe, is_multi_task
from compiler.together import check_several
from compiler.validate import check_shape, validate, validate_several


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadStage:
    """A stage as its author wrote it, and the recipe that it is by itself."""

    text: StageText
    recipe: Recipe


def read_several(document: Document) -> MultiRecipe:
    """The recipe of several tasks in a document, checked without facts. Raises RecipeError."""
    recipe = validate_several(document)
    stop_on_error(check_several(recipe))
    return recipe


def read_any(document: Document) -> Recipe | MultiRecipe:
    """The recipe in a document, checked without facts. Raises RecipeError."""
    return read_several(document) if is_multi_task(document.root) else read_recipe(document)


def read_recipe(document: Document) -> Recipe:
    """The recipe in a document, checked without facts; of one with stages the last of them. Raises RecipeError."""
    return read_stages(document)[-1].recipe


def read_stages(document: Document) -> tuple[ReadStage, ...]:
    """The recipes of a document's stages, checked without facts; one where it has none. Raises RecipeError."""
    check_shape(document)
    stop_on_error(check_stages(document))
    texts = stages_of(document)
    recipes = of_each(texts, lambda stage: validate(stage.document))
    found = [(text, tuple(check_recipe(recipe))) for text, recipe in zip(texts, recipes, strict=True)]
    stop_on_error([*told(read_by_some(found)), *check_common(document, texts), *check_order(texts, recipes)])
    return tuple(ReadStage(text=text, recipe=recipe) for text, recipe in zip(texts, recipes, strict=True))
