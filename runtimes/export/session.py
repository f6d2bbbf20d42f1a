"""The onnxruntime session that is deployed, and that the gate measures: one way to open it, all options stated."""

# Axes: B = rows, T = tokens, C = outputs of a row

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from runtimes.errors import RunError, first_line
from runtimes.export.adapters import Activated, activate
from runtimes.export.facts import Provider
from runtimes.protocol import Batch
from runtimes.rows.readings import read_outputs
from runtimes.tasks.interface import Reading
from runtimes.verification.gate import ScoreFunction

LOG_ERRORS = 3
_CPU, _COREML = "CPUExecutionProvider", "CoreMLExecutionProvider"


@dataclass(frozen=True, slots=True)
class Session:
    """An open graph. `adapter`: what every run is given besides."""

    file: Path
    inner: Any
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    adapter: Activated | None = None

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The open graphs: this one."""
        return (self,)

    def outputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The results for a padded batch, [B, ...], several of them stacked along a last axis. Raises RunError.

        Arrays that the graph does not take are left out.
        """
        results = self.each(inputs)
        return results[0] if len(results) == 1 else np.stack(results, axis=-1)

    def each(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Each of the results for a padded batch, [B, ...]. Raises RunError."""
        if lacking := [name for name in self.inputs if name not in inputs]:
            raise failure(self.file, f"takes {', '.join(lacking)}, which nothing gives")
        try:
            given = {name: inputs[name] for name in self.inputs}
            results = self.inner.run([*self.results], given, self.adapter and self.adapter.options)
        except Exception as error:  # onnxruntime's errors share no base
            raise failure(self.file, f"does not run: {first_line(error)}") from error
        return [np.asarray(result, dtype=np.float32) for result in results]

    def values(self, names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name, of the session's own arrays. Raises RunError."""
        try:
            found = self.inner.run_with_ort_values(names, given, self.adapter and self.adapter.options)
        except Exception as error:  # onnxruntime's errors share no base
            raise failure(self.file, f"does not run: {first_line(error)}") from error
        return dict(zip(names, found, strict=True))


def open_session(
    onnx_file: Path,
    *,
    threads: int = 0,
    results: tuple[str, ...] = ("logits",),
    adapter: Path | None = None,
    provider: Provider = "cpu",
) -> Session:
    """The session of a graph; `threads` of the CPU, 0: one for each core. Raises RunError.

    `results`: what it has to give; nothing of a part of a model. `adapter`: a file that is activated in it.
    `provider`: what computes; E508 where it is not here.
    """
    providers = _providers(provider)
    try:
        inner = onnxruntime.InferenceSession(str(onnx_file), sess_options=session_options(threads), providers=providers)
    except Exception as error:  # onnxruntime's errors share no base
        raise failure(onnx_file, f"does not load: {first_line(error)}") from error
    if lacking := {*results} - {output.name for output in inner.get_outputs()}:
        raise failure(onnx_file, f"has no output named {', '.join(sorted(lacking))}")
    inputs = tuple(value.name for value in inner.get_inputs())
    return Session(onnx_file, inner, inputs, results, None if adapter is None else activate(adapter, inner))


def _providers(provider: Provider) -> list[Any]:
    """What onnxruntime is told to compute with: the CPU, also for what another can't. Raises RunError E508."""
    if provider == "cpu":
        return [_CPU]
    if _COREML not in (found := onnxruntime.get_available_providers()):
        message = f"onnxruntime {onnxruntime.__version__} has no {_COREML} on this machine, but {', '.join(found)}"
        hint = "leave --provider out; on macOS, pip install onnxruntime brings one that has it"
        raise RunError("E508", message, hint)
    return [(_COREML, {"ModelFormat": "MLProgram"}), _CPU]


def session_options(threads: int) -> Any:
    """Every option that changes a result or an output stream."""
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = LOG_ERRORS
    return options


def onnx_scores(
    onnx_file: Path, *, threads: int = 0, results: tuple[str, ...] = ("logits",), reading: Reading = "logits"
) -> ScoreFunction:
    """What is read of the results for batches by the deployed session."""
    session = open_session(onnx_file, threads=threads, results=results)

    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        return read_outputs(reading, session.outputs(batch.inputs), batch.targets)

    return scores


def ort_value(array: npt.NDArray[Any]) -> Any:
    """An array as onnxruntime holds it."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def failure(onnx_file: Path, message: str) -> RunError:
    """What a graph does wrong."""
    return RunError("E604", f"{onnx_file}: the graph {message}", "export it again")
