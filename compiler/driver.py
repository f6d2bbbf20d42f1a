"""The compiler as one function: a document and facts in, a plan out."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.diagnostics import Diagnostic
from compiler.document import Document
from compiler.facts import DataFacts, FactSource, ModelFacts
from compiler.placement import Placement, Target, place
from compiler.plan import Plan
from compiler.planning import plan
from compiler.reading import read_recipe
from compiler.recipe import Recipe
from compiler.resolve import ResolvedRecipe, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A compiled recipe: each pass's result, where it may run, and the findings that did not stop it."""

    recipe: Recipe
    model: ModelFacts
    data: DataFacts
    resolved: ResolvedRecipe
    plan: Plan
    placement: Placement
    findings: tuple[Diagnostic, ...]


def compile_recipe(document: Document, facts: FactSource, target: Target) -> Compiled:
    """The plan of a document. Raises RecipeError with every finding of the pass that failed."""
    recipe = read_recipe(document)
    found = facts.gather(recipe)
    resolved = resolve(recipe, found.model, found.data, target)
    training = resolved.training
    return Compiled(
        recipe=recipe,
        model=found.model,
        data=found.data,
        resolved=resolved,
        plan=plan(resolved),
        placement=place(target, training.batch_size, training.micro_batch_size, recipe.runtime),
        findings=found.findings,
    )
