"""AdaLoRA: low-rank updates that lose the ranks which matter least (Zhang et al. 2023, arXiv:2303.10512)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.auto import Auto, Choice
from compiler.diagnostics import Diagnostic
from compiler.methods import targets
from compiler.methods.interface import Tuned, unknown_shapes
from compiler.methods.lora import LinearTargets, UpdateDropout, check_targets, updated, with_targets
from compiler.methods.targets import SavedModules
from compiler.placement import Runtime
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaLoRA:
    """Low-rank updates that lose their least important ranks on the way; the task head is trained in full."""

    type: Annotated[Literal["adalora"], About("As lora, and share the ranks out by importance (PyTorch).")] = "adalora"
    initial_rank: Annotated[int, About("Rank of each update at first.", minimum=2)] = 12
    target_rank: Annotated[int, About("Mean rank of the updates in the end; below initial_rank.", minimum=1)] = 8
    alpha: Annotated[
        float | Literal["auto"],
        About("Scale: an update counts alpha / initial_rank. auto: an update counts twice.", above=0),
    ] = "auto"
    dropout: UpdateDropout = 0.0
    target_modules: LinearTargets = "auto"
    modules_to_save: SavedModules = ()
    initial_share: Annotated[
        float, About("Share of the steps, at the beginning, in which all ranks stay.", minimum=0, below=1)
    ] = 0.1
    final_share: Annotated[
        float, About("Share of the steps, at the end, in which the ranks that are left stay.", minimum=0, below=1)
    ] = 0.3
    interval: Annotated[int, About("Steps between two times that ranks are taken, in between.", minimum=1)] = 1
    beta1: Annotated[float, About("How much of an importance is kept from step to step.", above=0, below=1)] = 0.85
    beta2: Annotated[float, About("The same of its uncertainty.", above=0, below=1)] = 0.85
    orthogonal_weight: Annotated[
        float, About("Weight in the loss of how far the two factors of updates are from orthonormal ones.", minimum=0)
    ] = 0.5

    def phases(self, num_steps: int) -> tuple[int, int]:
        """The steps in which all ranks stay, and those at the end in which no more are taken."""
        return int(self.initial_share * num_steps), int(self.final_share * num_steps)


LEARNING_RATE = Auto(
    5e-3, "method adalora: updates begin at nothing and are cut while they learn, so they stand high rates"
)
MERGES = True  # whether what it trains is merged into its base before an export
SAVES: Literal["model", "adapter"] = "adapter"
RUNTIMES: tuple[Runtime, ...] = ("pytorch",)


def check(recipe: Recipe, method: AdaLoRA, model: ModelFacts) -> Iterator[Diagnostic]:
    """Targets as for lora; ranks are left to be taken, and steps to take them in."""
    if not model.has_shapes:
        yield unknown_shapes(recipe)
        return
    yield from check_targets(recipe, method, model)
    if method.target_rank >= method.initial_rank:
        message = f"the target rank {method.target_rank} is not below the initial rank {method.initial_rank}"
        yield recipe.finding("R230", "/method/target_rank", message, f"at most {method.initial_rank - 1}, or use lora")
    if method.initial_share + method.final_share >= 1:
        message = f"the shares {method.initial_share} and {method.final_share} leave no steps to take ranks in"
        yield recipe.finding("R230", "/method/final_share", message, "together below 1")
    if recipe.training.unfreeze_every is not None:
        message = "adalora weighs every update after every step, and with unfreezing some have no gradient"
        yield recipe.finding("R230", "/training/unfreeze_every", message, "leave it out, or use lora")


def resolve(method: AdaLoRA, model: ModelFacts) -> tuple[AdaLoRA, tuple[Choice, ...]]:
    """The method as it runs, and what was chosen for it."""
    choices: list[Choice] = []
    if method.alpha == "auto":
        alpha = 2.0 * method.initial_rank
        method = replace(method, alpha=alpha)
        choices.append(Choice(pointer="/method/alpha", value=alpha, reason="twice the initial rank"))
    method, targeted = with_targets(method, model)
    return method, (*choices, *targeted)


def tuned(method: AdaLoRA, model: ModelFacts) -> Tuned:
    """The linear modules with an update: a rank has a number for each input and output, and one for itself."""
    modules = updated(method, model)
    sides = sum(1 + sum(model.sides(name)) for name in modules)
    return targets.tuned(model, modules, method.initial_rank * sides, method.modules_to_save)
