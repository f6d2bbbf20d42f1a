"""The compiler as one function: a document and facts in, a plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from compiler.checks import check_placement
from compiler.diagnostics import Diagnostic, in_order, stop_on_error
from compiler.document import Document
from compiler.facts import DataFacts, Facts, FactSource, ModelFacts
from compiler.placement import Placement, Runtime, Target, place
from compiler.plan import Plan
from compiler.planning import plan
from compiler.planning_together import plan_together
from compiler.reading import read_recipe, read_several
from compiler.recipe import Recipe
from compiler.resolve import ResolvedRecipe, resolve
from compiler.tasks.multi_task import is_multi_task
from compiler.together import check_leaks, check_models, collected, gathered, projected, shared_training


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
    parts: Mapping[str, Compiled] = field(default_factory=dict)  # of several tasks, each as if it were alone


def compile_recipe(document: Document, facts: FactSource, target: Target, runtime: Runtime | None = None) -> Compiled:
    """The plan of a document. `runtime`: instead of the recipe's.

    Raises RecipeError with every finding of the pass that failed.
    """
    if is_multi_task(document.root):
        return compile_together(document, facts, target, runtime)
    recipe = read_recipe(document)
    stop_on_error(check_placement(recipe, target, runtime))
    return compiled_with(recipe, facts.gather(recipe), target, runtime)


def compile_together(document: Document, facts: FactSource, target: Target, runtime: Runtime | None) -> Compiled:
    """The plan of a document with several tasks. The first one stands for what they share. Raises RecipeError."""
    whole = read_several(document)
    recipes = projected(whole)
    stop_on_error(check_placement(next(iter(recipes.values())), target, runtime))
    found = gathered(recipes, facts)
    stop_on_error(check_models(whole, found))
    shared = shared_training(whole, found)
    alone = {
        name: partial(compiled_with, replace(recipe, training=shared.of(recipe.training)), found[name], target, runtime)
        for name, recipe in recipes.items()
    }
    parts = collected(alone)
    first = next(iter(parts.values()))
    findings = [one for part in parts.values() for one in part.findings]
    return replace(
        first,
        plan=plan_together(whole, {name: (recipes[name], part.plan) for name, part in parts.items()}, shared),
        findings=in_order([*findings, *check_leaks(recipes, found)]),
        parts=parts,
    )


def compiled_with(recipe: Recipe, found: Facts, target: Target, runtime: Runtime | None) -> Compiled:
    """A recipe of one task with its facts. Raises RecipeError."""
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
