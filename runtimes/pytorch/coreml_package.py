"""What stands in a Core ML package, compared with the model that it was made from: it is read here, not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runtimes.errors import RunError, first_line
from runtimes.pytorch.coreml import Taken, Wrapped, example, package_tools
from runtimes.pytorch.quiet import quiet
from runtimes.verification.gate import Findings, compare_each

HALF = "_to_fp16"
"""What coremltools adds to the name of a weight that it has rounded."""
RELATIVE, SMALLEST = 2.0**-11, 2.0**-23
"""Half precision has 11 bits, and coremltools lets no weight that is not zero become less than this."""


def open_package(folder: Path) -> Any:
    """A package, not loaded by Core ML. Raises RunError E507."""
    coremltools = package_tools()
    with quiet():
        try:
            return coremltools.models.MLModel(str(folder), skip_model_load=True)
        except Exception as error:  # coremltools' errors share no base
            raise RunError("E507", f"{folder} is no Core ML package: {first_line(error)}", "export it again") from error


def num_operations(package: Any) -> int:
    """Operations of its program that are no constants."""
    [function] = package.get_spec().mlProgram.functions.values()
    [block] = function.block_specializations.values()
    return sum(each.type != "const" for each in block.operations)


def compare_package(model: Wrapped, folder: Path, precision: str) -> Iterator[Findings]:
    """The package's inputs and outputs, and each of its weights, against the model's."""
    package = open_package(folder)
    faults = [*_interface_faults(model, package.get_spec().description)]
    yield compare_each(faults, len(model.taken) + len(model.head.results), name="interface")
    wanted, held = used_weights(model), weights_in(package)
    faults = [fault for name, weight in wanted.items() if (fault := _fault(name, weight, held, precision))]
    yield compare_each(faults, len(wanted), name="weights")


def _interface_faults(model: Wrapped, description: Any) -> Iterator[str]:
    inputs = {each.name: each.type.multiArrayType for each in description.input}
    if names := {*inputs} ^ {taken.name for taken in model.taken}:
        yield f"inputs: {', '.join(sorted(names))} on one side alone"
    for taken in model.taken:
        if taken.name in inputs and not _fits(taken, inputs[taken.name]):
            yield f"{taken.name}: another type or shape than the model's"
    outputs = {each.name: each.type.multiArrayType for each in description.output}
    if names := {*outputs} ^ {*model.head.results}:
        yield f"outputs: {', '.join(sorted(names))} on one side alone"
    for name, output in outputs.items():
        if output.dataType != output.FLOAT32:
            yield f"{name}: not in float32"


def _fits(taken: Taken, array: Any) -> bool:
    """Whether an input takes one row and more, of one token and more where it is of tokens."""
    bounds = [(each.lowerBound, each.upperBound) for each in array.shapeRange.sizeRanges]
    free, fixed = bounds[: 1 if taken.shape else 2], bounds[1:] if taken.shape else []
    open_ended = len(free) == (1 if taken.shape else 2) and all(low == 1 and high > 1 for low, high in free)
    same = array.dataType == (array.FLOAT32 if taken.shape else array.INT32)
    return open_ended and same and fixed == [(size, size) for size in taken.shape]


def used_weights(model: Wrapped) -> dict[str, npt.NDArray[Any]]:
    """The parameters that its results depend on, by their names."""
    with torch.enable_grad():
        results = model(*example(model))
        parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        total = torch.stack([each.sum() for each in results]).sum()
        found: tuple[Tensor | None, ...] = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
    return {
        name: each.detach().numpy()
        for (name, each), gradient in zip(parameters.items(), found, strict=True)
        if gradient is not None
    }


def weights_in(package: Any) -> dict[str, npt.NDArray[Any]]:
    """The constants of a package by name, those that were rounded by the name of the weight that they were."""
    from coremltools.optimize.coreml import get_weights_metadata

    with quiet():
        found = get_weights_metadata(package, weight_threshold=1)
    return {name.removesuffix(HALF): np.asarray(each.val) for name, each in found.items()}


def _fault(name: str, weight: npt.NDArray[Any], held: Mapping[str, npt.NDArray[Any]], precision: str) -> str | None:
    """What is wrong with a weight in the package; None where nothing is."""
    found = held.get(name.replace(".", "_"))
    own = name.removeprefix("model.")
    if found is None:
        return f"{own} is not there"
    if found.shape != weight.shape:
        return f"{own} has the shape {list(found.shape)}, not {list(weight.shape)}"
    allowed = 0.0 if precision == "fp32" else np.maximum(np.abs(weight) * RELATIVE, SMALLEST)
    if not (np.abs(found.astype(np.float32) - weight) <= allowed).all():
        return f"{own} has other values"
    return None
