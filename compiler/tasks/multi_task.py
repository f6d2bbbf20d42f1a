"""multi-task: several tasks on one model, each with a head, rows, a loss and metrics of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from compiler.document import Document, Node
from compiler.methods import Full, Method
from compiler.metrics import Metric
from compiler.recipe import NAME, Dataset, Export, Loss, Model, Recipe, Training, Verify
from compiler.tasks import TextClassification, TextRegression
from compiler.typed import About

MULTI_TASK = "multi-task"
_TRAINING, _VERIFY = Training(), Verify()
METHODS = ("full", "head", "freeze", "lora")
"""The methods whose parameters are all in the model or in its heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportional:
    """Each task has as many steps as its rows fill."""

    type: Annotated[Literal["proportional"], About("Each task has as many steps as its rows fill.")] = "proportional"


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """Shares are those of the rows to the power of 1 / temperature (Arivazhagan et al. 2019, arXiv:1907.05019)."""

    type: Annotated[Literal["temperature"], About("Small tasks have more steps than their rows fill.")] = "temperature"
    temperature: Annotated[
        float, About("1 is proportional; the higher, the more equal are the tasks.", minimum=1, maximum=100)
    ] = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobin:
    """The tasks take turns, so each has as many steps as another."""

    type: Annotated[Literal["round-robin"], About("The tasks take turns.")] = "round-robin"


Sampling = Proportional | Temperature | RoundRobin


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedWeights:
    """A task's loss counts as its weight says."""

    type: Annotated[Literal["fixed"], About("A task's loss counts as its weight says.")] = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """Weights are learnt, as the inverse of each task's variance (Kendall et al. 2018, arXiv:1705.07115)."""

    type: Annotated[Literal["uncertainty"], About("Weights are learnt: the inverse of each task's variance.")] = (
        "uncertainty"
    )
    learning_rate: Annotated[
        float, About("Of the log-variances, which are learnt by gradient descent.", above=0, maximum=1)
    ] = 0.02


LossWeights = FixedWeights | Uncertainty


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTask:
    """One of the tasks."""

    task: Annotated[TextClassification | TextRegression, About("What its head is to do.")]
    dataset: Annotated[Dataset, About("Its rows.")]
    loss: Annotated[Loss | None, About("What is minimised. Follows from the task when it is not named.")] = None
    metrics: Annotated[tuple[Metric, ...], About("What is measured. Default by the task.")] = ()
    weight: Annotated[float, About("How much its loss counts beside the others.", above=0, maximum=1000)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTask:
    """Several tasks on one encoder, each with a head of its own. Rows, loss and metrics stand in each task."""

    type: Annotated[Literal["multi-task"], About("Several tasks on one encoder.")] = "multi-task"
    tasks: Annotated[
        Mapping[str, OneTask], About("Two or more, each under the name that its answers and outputs have.")
    ]
    sampling: Annotated[Sampling, About("How many steps of an epoch each task has.")] = Proportional()
    loss_weights: Annotated[LossWeights, About("How the tasks' losses are weighed.")] = FixedWeights()


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiRecipe:
    """A recipe of several tasks: what they share."""

    recipe: Annotated[Literal[1], About("The version of the language.")]
    name: Annotated[str, About("The name of the run's folder: letters, digits, dot, dash, underscore.", pattern=NAME)]
    description: Annotated[str, About("For people.")] = ""
    task: Annotated[MultiTask, About("What the model is to do.")]
    model: Annotated[Model, About("The pretrained model. A bare string is its id.")]
    method: Annotated[Method, About("What is trained.")] = Full()
    training: Annotated[Training, About("How it is trained.")] = _TRAINING
    runtime: Annotated[
        Literal["auto", "pytorch", "mlx"], About("What runs the plan. auto: mlx on Apple silicon, else pytorch.")
    ] = "auto"
    export: Annotated[tuple[Export, ...], About("What is written for deployment.")] = ()
    verify: Annotated[Verify, About("What the gate asks of an export.")] = _VERIFY
    document: Document = field(compare=False, repr=False, metadata={"hidden": True})


ROOT: Any = Recipe | MultiRecipe
"""What a recipe's file may hold."""


def is_multi_task(root: Node) -> bool:
    """Whether a recipe's text, its shorthand written out or not, is of several tasks."""
    task = root.get("task")
    named = task.get("type") if task is not None else None
    return MULTI_TASK in ((task and task.value), (named and named.value))
