"""Document -> Recipe, shape and meaning checked: all of the compiler that needs no facts."""

from __future__ import annotations

from compiler.checks import check_recipe
from compiler.diagnostics import stop_on_error
from compiler.document import Document
from compiler.recipe import Recipe
from compiler.tasks.multi_task import MultiRecipe, is_multi_task
from compiler.together import check_several
from compiler.validate import validate, validate_several


def read_recipe(document: Document) -> Recipe:
    """The recipe of one task in a document, checked without facts. Raises RecipeError."""
    recipe = validate(document)
    stop_on_error(check_recipe(recipe))
    return recipe


def read_several(document: Document) -> MultiRecipe:
    """The recipe of several tasks in a document, checked without facts. Raises RecipeError."""
    recipe = validate_several(document)
    stop_on_error(check_several(recipe))
    return recipe


def read_any(document: Document) -> Recipe | MultiRecipe:
    """The recipe in a document, checked without facts. Raises RecipeError."""
    return read_several(document) if is_multi_task(document.root) else read_recipe(document)
