"""The compiler as one function: a document and facts in, a plan out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.checks import check_placement
from compiler.diagnostics import Diagnostic, stop_on_error
from compiler.document import Document
from compiler.facts import DataFacts, FactSource, ModelFacts
from compiler.placement import Placement, Runtime, Target, place
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


def compile_recipe(document: Document, facts: FactSource, target: Target, runtime: Runtime | None = None) -> Compiled:
    """The plan of a document. `runtime`: instead of the recipe's.

    Raises RecipeError with every finding of the pass that failed.
    """
    recipe = read_recipe(document)
    stop_on_error(check_placement(recipe, target, runtime))
    found = facts.gather(recipe)
    recipe = replace(recipe, task=found.task)
    resolved = resolve(recipe, found.model, found.data, target)
    training = resolved.training
    return Compiled(
        recipe=recipe,
        model=found.model,
        data=found.data,
        resolved=resolved,
        plan=plan(resolved),
        placement=place(
            target,
            training.batch_size,
            training.micro_batch_size,
            runtime or recipe.runtime,
            gradient_checkpointing=training.gradient_checkpointing,
        ),
        findings=found.findings,
    )
