"""Document -> Recipe, shape and meaning checked: all of the compiler that needs no facts."""

from __future__ import annotations

from compiler.checks import check_recipe
from compiler.diagnostics import stop_on_error
from compiler.document import Document
from compiler.recipe import Recipe
from compiler.validate import validate


def read_recipe(document: Document) -> Recipe:
    """The recipe in a document, checked without facts. Raises RecipeError."""
    recipe = validate(document)
    stop_on_error(check_recipe(recipe))
    return recipe
