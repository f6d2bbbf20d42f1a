"""Back ends by name: what a step needs of a framework, imported when a step needs it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from compiler import methods
from compiler.moments import PACKAGE, unheld, wanted
from compiler.placement import Placement
from compiler.plan import Train, TrainTogether
from compiler.tasks import Task
from runtimes.errors import RunError
from runtimes.generation.decoding import Decoder
from runtimes.protocol import Batch, Engine
from runtimes.saved import SavedModel
from runtimes.survival import Change
from runtimes.verification.gate import ScoreFunction
from runtimes.verification.tolerance import Noise

# Engine of the placement -> its module, and the one that knows its devices.
MODULES: Mapping[str, str] = {"pytorch": "runtimes.pytorch.backend", "mlx": "runtimes.mlx.backend"}
DEVICES: Mapping[str, str] = {"pytorch": "runtimes.pytorch.devices", "mlx": "runtimes.mlx.devices"}


class Backend(Protocol):
    """What a back end's module holds."""

    def load_engine(
        self, step: Train, model_folder: Path, init_file: Path, placement: Placement, adapter: Path | None = None
    ) -> Engine:
        """The engine of a train step; new parameters get their first values from `init_file`, which is written once.

        `adapter`: a folder whose values they have in place of these.
        """
        ...

    def load_together(self, step: TrainTogether, model_folder: Path, folder: Path, placement: Placement) -> Engine:
        """The engine of several tasks; the first values of what is a task's own are kept in a folder in `folder`."""
        ...

    def check_model(self, step: Train, model_folder: Path) -> str:
        """A line about how the model is run. Raises RunError when it can't be trained; no weights are loaded."""
        ...

    def scores(self, task: Task, saved: SavedModel, device: str) -> ScoreFunction:
        """The outputs of a saved model, in float32."""
        ...

    def decoder(self, task: Task, saved: SavedModel, device: str) -> Decoder[Any]:
        """A saved model that writes, in float32."""
        ...

    def merge(self, step: Train, base: Path, adapter: Path, out: Path) -> None:
        """Writes a base model with the adapter of a train step merged into it."""
        ...

    def changes(self, before: SavedModel, after: Path) -> Iterator[Change]:
        """The weights of the model that training began with, as it held them, beside those of a saved model."""
        ...

    def float32_noise(
        self, task: Task, saved: SavedModel, batches: Iterable[Batch], before_each: Callable[[], None] = lambda: None
    ) -> Noise:
        """The float32 rounding noise of a saved model's outputs. `before_each` batch is called, and may raise."""
        ...


def backend(name: str) -> Backend:
    """The back end of a name."""
    return cast(Backend, importlib.import_module(MODULES[name]))


def require_runtime(step: Train, name: str) -> None:
    """Nothing when a step's method runs on a back end. Raises RunError E409 when it does not."""
    runtimes = methods.module_of(step.method).RUNTIMES
    if name not in runtimes:
        message = f'the method "{step.method.type}" runs on {", ".join(runtimes)}, and the plan was placed on {name}'
        raise RunError("E409", message, f"run it with --runtime {runtimes[0]}")


def require_moments(step: Train, placement: Placement) -> None:
    """Nothing where the optimizer's running means can be held as a plan says. Raises RunError E409, or E402."""
    for key, message in unheld(step.optimizer, placement.engine, placement.device):
        found = f"{message}, and the plan was placed on {placement.engine}, {placement.device}"
        raise RunError("E409", found, f'run it there, or without "{key}" in /training/optimizer')
    if wanted(step.optimizer) and importlib.util.find_spec(PACKAGE) is None:
        message = f"running means are held like this by the package {PACKAGE}"
        raise RunError("E402", message, 'install it: pip install "recipec[bitsandbytes]"')


def require_device(placement: Placement) -> None:
    """Nothing when a placement's device is here, as the CPU always is. Raises RunError E407 when it is not."""
    if placement.device != "cpu":
        importlib.import_module(DEVICES[placement.engine]).require_device(placement.device)
