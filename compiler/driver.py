"""The compiler as one function: a document and facts in, a plan out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from compiler import tasks
from compiler.checks import check_placement
from compiler.diagnostics import Diagnostic, RecipeError, in_order, stop_on_error
from compiler.document import Document
from compiler.facts import DataFacts, Facts, FactSource, Left, ModelFacts
from compiler.leaks import check_leaks
from compiler.placement import Placement, Runtime, Target, place
from compiler.plan import Plan
from compiler.planning import plan
from compiler.planning_together import plan_together
from compiler.reading import ReadStage, read_several, read_stages
from compiler.recipe import Recipe
from compiler.resolve import ResolvedRecipe, check_facts, resolve
from compiler.stages import StageText, read_by_none, told
from compiler.tasks.multi_task import is_multi_task
from compiler.together import check_leaks_between, check_models, collected, gathered, projected, shared_training


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledStage:
    """A compiled stage: each pass's result, where it may run, and the findings that did not stop it."""

    text: StageText
    recipe: Recipe
    model: ModelFacts
    data: DataFacts
    resolved: ResolvedRecipe
    placement: Placement
    unread: tuple[Diagnostic, ...]  # keys beside the stages that nothing in this one reads
    findings: tuple[Diagnostic, ...]
    parts: Mapping[str, CompiledStage] = field(default_factory=dict)  # of several tasks, each as if it were alone

    @property
    def left(self) -> ModelFacts:
        """The model that it leaves to a stage after it."""
        return tasks.left_by(self.resolved.task, self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A compiled recipe: its stages in order, one where it has none, and the plan of all."""

    stages: tuple[CompiledStage, ...]
    plan: Plan

    @property
    def recipe(self) -> Recipe:
        """The recipe, or that of the last stage."""
        return self.stages[-1].recipe

    @property
    def model(self) -> ModelFacts:
        """The model that the last stage starts from."""
        return self.stages[-1].model

    @property
    def data(self) -> DataFacts:
        """The rows of the last stage."""
        return self.stages[-1].data

    @property
    def resolved(self) -> ResolvedRecipe:
        """The last stage with nothing left open."""
        return self.stages[-1].resolved

    @property
    def placement(self) -> Placement:
        """Where the last stage may run."""
        return self.stages[-1].placement

    @property
    def placements(self) -> Mapping[str, Placement]:
        """Where each stage may run, by its name."""
        return {stage.text.name: stage.placement for stage in self.stages}

    @property
    def findings(self) -> tuple[Diagnostic, ...]:
        """The findings that did not stop it."""
        return in_order(found for stage in self.stages for found in stage.findings)


def compile_recipe(document: Document, facts: FactSource, target: Target, runtime: Runtime | None = None) -> Compiled:
    """The plan of a document. `runtime`: instead of the recipe's.

    Raises RecipeError with every finding of the pass that failed.
    """
    if is_multi_task(document.root):
        return compile_together(document, facts, target, runtime)
    read = read_stages(document)
    stop_on_error(told([(stage.text, tuple(check_placement(stage.recipe, target, runtime))) for stage in read]))
    stages: list[CompiledStage] = []
    for number, stage in enumerate(read):
        try:
            stages.append(_compiled(stage, stages, facts, target, runtime))
        except RecipeError as error:
            found = [*map(stage.text.located, error.diagnostics), *_further(read[number + 1 :], facts)]
            raise RecipeError(in_order(found)) from None
    stop_on_error(read_by_none([(stage.text, stage.unread) for stage in stages]))
    return Compiled(stages=tuple(stages), plan=plan(*(stage.resolved for stage in stages)))


def compile_together(document: Document, facts: FactSource, target: Target, runtime: Runtime | None) -> Compiled:
    """The plan of a document with several tasks. The first one stands for what they share. Raises RecipeError."""
    whole = read_several(document)
    recipes = projected(whole)
    stop_on_error(check_placement(next(iter(recipes.values())), target, runtime))
    found = gathered(recipes, facts)
    stop_on_error(check_models(whole, found))
    shared = shared_training(whole, found)

    def alone(name: str) -> CompiledStage:
        recipe = replace(recipes[name], training=shared.of(recipes[name].training))
        stage = ReadStage(text=StageText(document=recipe.document), recipe=recipe)
        return _compiled_with(stage, found[name], (), target, runtime)

    parts = collected({name: partial(alone, name) for name in recipes})
    plans = {name: (recipes[name], plan(part.resolved)) for name, part in parts.items()}
    first = next(iter(parts.values()))
    findings = [*(one for part in parts.values() for one in part.findings), *check_leaks_between(recipes, found)]
    stage = replace(first, findings=in_order(findings), parts=parts)
    return Compiled(stages=(stage,), plan=plan_together(whole, plans, shared))


def _compiled(
    stage: ReadStage, before: Sequence[CompiledStage], facts: FactSource, target: Target, runtime: Runtime | None
) -> CompiledStage:
    """A stage that starts from the model that those before it left. Raises RecipeError about its own document."""
    left = Left(model=before[-1].left, tasks=tuple(each.resolved.task for each in before)) if before else None
    compiled = _compiled_with(stage, facts.gather(stage.recipe, left), before, target, runtime)
    others = {_called(each.text): each.data for each in before}
    leaks = check_leaks(compiled.recipe, compiled.data, _called(stage.text), others)
    return replace(compiled, findings=(*compiled.findings, *map(stage.text.located, leaks)))


def _called(stage: StageText) -> str:
    return f'the stage "{stage.name}"'


def _compiled_with(
    stage: ReadStage, found: Facts, before: Sequence[CompiledStage], target: Target, runtime: Runtime | None
) -> CompiledStage:
    stop_on_error(check_head(replace(stage.recipe, task=found.task), found.model, before))
    stage = _as_read(replace(stage, recipe=replace(stage.recipe, task=found.task)), found)
    recipe = stage.recipe
    resolved = resolve(recipe, found.model, found.data, target)
    training = resolved.training
    return CompiledStage(
        text=stage.text,
        recipe=recipe,
        model=found.model,
        data=found.data,
        resolved=replace(resolved, stage=stage.text.name, choices=stage.text.said(resolved.choices)),
        placement=place(
            target,
            training.batch_size,
            training.micro_batch_size,
            runtime or recipe.runtime,
            gradient_checkpointing=training.gradient_checkpointing,
        ),
        unread=stage.unread,
        findings=tuple(map(stage.text.located, found.findings)),
    )


def _as_read(stage: ReadStage, found: Facts) -> ReadStage:
    """The stage without what stands beside the stages and nothing reads in this one, now that its facts are known."""
    if stage.text.own is None:
        return stage
    wrong = check_facts(stage.recipe, found.model, found.data)
    return stage.without(tuple(each for each in wrong if stage.text.is_unread(each)))


def check_head(recipe: Recipe, model: ModelFacts, before: Sequence[CompiledStage]) -> Iterator[Diagnostic]:
    """No stage before one that writes gave the model another head."""
    if not tasks.tells_next_token(recipe.task, model):
        return
    other = next((each for each in before if not tasks.tells_next_token(each.recipe.task, model)), None)
    if other is not None:
        message = f'the stage "{other.text.name}" leaves the head of its task, and none that tells the next token'
        yield recipe.finding("R240", "/task", message, "put it before that stage")


def _further(stages: Sequence[ReadStage], facts: FactSource) -> Iterator[Diagnostic]:
    """What is wrong with the rows of the stages after one that failed, as far as it can be told without its model."""
    for stage in stages:
        try:
            facts.gather(stage.recipe)
        except RecipeError as error:
            yield from (stage.text.located(each) for each in error.diagnostics if each.code.startswith("R3"))
