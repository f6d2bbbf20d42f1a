"""What a model computes on the way, call by call, with the module that each is made in: the source of localisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from runtimes.localisation.alignment import tolerances
from runtimes.localisation.digest import MOST_KEPT, Digest, digest
from runtimes.localisation.values import HUGE, LARGEST_INDEX, Array, Recorded, Source
from runtimes.pytorch.precision import exact_float32
from runtimes.verification.tolerance import FLOOR_ULPS, NOISE_FACTOR

_SAME = frozenset(
    (
        "__get__",
        "clone",
        "contiguous",
        "cpu",
        "detach",
        "double",
        "dropout",
        "flatten",
        "float",
        "movedim",
        "permute",
        "reshape",
        "squeeze",
        "swapaxes",
        "t",
        "to",
        "transpose",
        "type",
        "type_as",
        "unflatten",
        "unsqueeze",
        "view",
    )
)
"""Calls that give what they are given, in another layout or type, where a model is evaluated."""
_TOLD = ("dim", "eps", "approximate")
"""Arguments that are told of a call."""


@dataclass(slots=True)
class _Call:
    """A value as it was computed, and from what."""

    layer: str
    operation: str
    kept: Any  # what is kept of the value
    needs: tuple[int, ...]
    parameters: tuple[str, ...]
    indices: tuple[Array, ...]


@dataclass(slots=True)
class _Pass:
    """What one pass of a model leaves. Tensors are let go when the model does so."""

    calls: list[_Call] = field(default_factory=list)
    modules: list[tuple[str, int]] = field(default_factory=list)
    numbers: Any = field(default_factory=WeakTensorKeyDictionary)  # tensor -> number of its value
    results: dict[str, int] = field(default_factory=dict)  # what the model answers -> number of its value


class _Recorder(TorchFunctionMode):
    """Keeps what torch's functions return while a model runs."""

    def __init__(self, model: nn.Module, keep: Callable[[int, Array], Any]) -> None:
        super().__init__()
        self.keep = keep
        self.found = _Pass()
        self.layers = [""]
        self.named: Any = WeakTensorKeyDictionary()  # tensor -> the names of the parameters that it is of
        for name, tensor in (*model.named_buffers(), *model.named_parameters()):
            self.named[tensor] = (name,)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        given = [*_tensors((args, kwargs or {}))]
        for result in _tensors(args[0]) if name == "__setitem__" else _tensors(found):
            self._record(name, (*args, *(kwargs or {}).items()), given, result)
        return found

    def _record(self, name: str, args: tuple[Any, ...], given: list[Tensor], result: Tensor) -> None:
        numbers = self.found.numbers
        parameters = tuple(dict.fromkeys(each for one in given for each in self.named.get(one, ())))
        needs = tuple(dict.fromkeys(numbers[one] for one in given if one in numbers))
        if not result.is_floating_point() or not result.numel():
            return
        floats = [one for one in given if one.is_floating_point()]
        if name in _SAME and len(floats) == 1 and floats[0].numel() == result.numel():
            if needs:
                numbers[result] = needs[0]
            elif parameters:
                self.named[result] = parameters
            return
        number = len(self.found.calls)
        self.found.calls.append(
            _Call(
                layer=self.layers[-1],
                operation=_operation(name, args),
                kept=self.keep(number, result.detach().numpy()),
                needs=needs,
                parameters=parameters,
                indices=tuple(_whole(given)),
            )
        )
        numbers[result] = number
        self.named.pop(result, None)

    def hooked(self, model: nn.Module) -> list[Any]:
        """The handles of hooks that say which module computes."""
        handles: list[Any] = []
        for name, module in model.named_modules():

            def enter(_: nn.Module, args: object, name: str = name) -> None:
                self.layers.append(name)

            def leave(_: nn.Module, args: object, found: Any, name: str = name) -> None:
                self.layers.pop()
                numbers = self.found.numbers
                first = next((numbers[one] for one in _tensors(found) if one in numbers), None)
                if first is not None:
                    self.found.modules.append((name, first))

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        return handles


def trace(
    model: Any,
    inputs: Mapping[str, Tensor],
    arguments: Mapping[str, Any],
    results: Mapping[str, str],
    *,
    called: Any = None,
) -> Source:
    """Every value of a pass in float32, and how much of it is rounding, by another pass in float64 before it.

    `arguments`: of the model's forward, beside its inputs. `results`: what the graph answers, by what the model calls
    it. `called`: what is called in the model's place, which calls it. Leaves the model in float32. Beside what the
    model itself needs, memory is at most 12 bytes for each of the MOST_KEPT numbers of a value, and its answers whole.
    """
    call = called or model
    doubles = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    double = _run(model.double(), call, {**doubles, **arguments}, results, lambda _, array: digest(array))
    answered = {*double.results.values()}

    def keep(number: int, array: Array) -> tuple[Digest, float]:
        held = digest(np.array(array, np.float32), array.size if number in answered else MOST_KEPT)
        exact = double.calls[number].kept if number < len(double.calls) else None
        return held, 0.0 if exact is None else _noise(held, exact)

    single = _run(model.float(), call, {**inputs, **arguments}, results, keep)
    held, noises = zip(*(each.kept for each in single.calls), strict=True)
    same = [call.operation for call in single.calls] == [call.operation for call in double.calls]
    limits = tolerances(
        (each.scale for each in held), noises if same else (0.0,) * len(noises), NOISE_FACTOR, FLOOR_ULPS
    )
    parameters = {
        name: tensor.detach().float().numpy()
        for name, tensor in (*model.named_buffers(), *model.named_parameters())
        if tensor.is_floating_point()
    }
    return Source(
        values=tuple(
            Recorded(
                layer=call.layer,
                operation=call.operation,
                held=kept,
                needs=call.needs,
                parameters=tuple(name for name in call.parameters if name in parameters),
                indices=call.indices,
                allowed=limit,
            )
            for call, kept, limit in zip(single.calls, held, limits, strict=True)
        ),
        modules=tuple(single.modules),
        results=single.results,
        parameters=parameters,
    )


def _run(
    model: Any,
    called: Any,
    given: Mapping[str, Any],
    results: Mapping[str, str],
    keep: Callable[[int, Array], Any],
) -> _Pass:
    recorder = _Recorder(model, keep)
    handles = recorder.hooked(model)
    try:
        with torch.inference_mode(), exact_float32(), recorder:
            answer = called(**given)
    finally:
        for handle in handles:
            handle.remove()
    recorder.found.results.update({name: recorder.found.numbers[answer[own]] for own, name in results.items()})
    return recorder.found


def _noise(held: Digest, exact: Digest) -> float:
    """The largest |float32 - float64| of a value, over the numbers that are kept and are no infinities."""
    if held.shape != exact.shape:
        return 0.0
    numbers = held.numbers if held.numbers.size == exact.numbers.size else held.numbers[exact.places]
    return max(_largest(numbers, exact.numbers), _largest(held.statistics, exact.statistics))


def _largest(one: Array, two: Array) -> float:
    one = one.astype(np.float64)
    counted = (np.abs(one) < HUGE) & (np.abs(two) < HUGE)
    return float(np.abs(one[counted] - two[counted]).max(initial=0.0))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what a function is given, or returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)


def _whole(given: list[Tensor]) -> Iterator[Array]:
    """The whole numbers that a call is given, as far as they are few."""
    for tensor in given:
        if tensor.dtype in (torch.int64, torch.int32) and tensor.numel() <= LARGEST_INDEX:
            yield tensor.detach().numpy().copy()


def _operation(name: str, args: tuple[Any, ...]) -> str:
    """A call with what of its arguments is short: softmax(dim=-1)."""
    named = [one for one in args if isinstance(one, tuple) and len(one) == 2 and one[0] in _TOLD]
    shown = ", ".join(f"{argument}={value}" for argument, value in named)
    return f"{name}({shown})" if shown else name
