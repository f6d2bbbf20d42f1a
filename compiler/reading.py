"""Document -> Recipe, shape and meaning checked: all of the compiler that needs no facts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.checks import check_recipe
from compiler.diagnostics import Diagnostic, stop_on_error
from compiler.document import Document
from compiler.recipe import Recipe
from compiler.stages import StageText, check_common, check_order, check_stages, of_each, read_by_none, stages_of, told
from compiler.tasks.multi_task import MultiRecipe, is_multi_task
from compiler.together import check_several
from compiler.validate import check_shape, validate, validate_several


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadStage:
    """A stage as its author wrote it, and the recipe that it is by itself."""

    text: StageText
    recipe: Recipe
    unread: tuple[Diagnostic, ...] = ()  # keys beside the stages that nothing in this one reads

    def without(self, unread: tuple[Diagnostic, ...]) -> ReadStage:
        """The stage as if these keys, which nothing in it reads, did not stand beside the stages."""
        if not unread:
            return self
        found = (*self.unread, *unread)
        recipe = validate(self.text.without(found))
        return replace(self, recipe=replace(recipe, task=self.recipe.task), unread=found)


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
    unread = [(text, tuple(each for each in own if text.is_unread(each))) for text, own in found]
    rest = [(text, tuple(each for each in own if not text.is_unread(each))) for text, own in found]
    stop_on_error([*told(rest), *read_by_none(unread), *check_common(document, texts), *check_order(texts, recipes)])
    return tuple(
        ReadStage(text=text, recipe=recipe).without(own) for (text, own), recipe in zip(unread, recipes, strict=True)
    )
