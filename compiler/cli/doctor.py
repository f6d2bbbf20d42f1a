"""recipe doctor: what is installed here, which devices there are, and what each extra enables."""

from __future__ import annotations

import importlib.util
import json
import platform
from importlib import metadata
from typing import Any

import click

from compiler import __version__
from compiler.placement import this_machine

# Extra -> its packages, and what it enables.
EXTRAS = {
    "torch": (("torch", "transformers", "peft", "accelerate"), "recipe run: tuning on PyTorch"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "ONNX export and its gate"),
    "mlx": (("mlx", "torch", "transformers", "peft"), "recipe run --runtime mlx: tuning on MLX"),
    "bitsandbytes": (("bitsandbytes",), "adamw with running means in 8 bits or paged, on PyTorch"),
    "coreml": (("coremltools", "torch", "transformers"), "Core ML packages; their gate on macOS"),
    "image": (("pillow",), "tasks that read images"),
    "predict": (("onnxruntime",), "recipe predict and recipe verify on a bundle"),
    "serve": (("onnxruntime", "starlette", "uvicorn"), "recipe predict --serve: a bundle over HTTP"),
    "predict-mlx": (("mlx",), "recipe predict and recipe verify on a bundle with a function for MLX"),
}


@click.command(epilog="Examples:  recipe doctor    recipe doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(as_json: bool) -> None:
    """Show versions, devices, and what each extra enables."""
    report = examine()
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"recipec {report['recipec']}, Python {report['python']}, {report['system']}")
    click.echo(f"devices: {', '.join(report['devices'])}")
    for name, extra in report["extras"].items():
        state = "ready" if extra["ready"] else f"missing {', '.join(extra['missing'])}: pip install 'recipec[{name}]'"
        found = ", ".join(f"{package} {version}" for package, version in extra["found"].items())
        click.echo(f"  [{name}] {extra['enables']}: {state}" + (f" ({found})" if found else ""))


def examine() -> dict[str, Any]:
    """What is here, as JSON."""
    return {
        "recipec": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "target": this_machine().kind,
        "devices": _devices(),
        "extras": {name: _extra(packages, enables) for name, (packages, enables) in EXTRAS.items()},
    }


def _extra(packages: tuple[str, ...], enables: str) -> dict[str, object]:
    found = {package: version for package in packages if (version := _version(package))}
    missing = [package for package in packages if package not in found]
    return {"enables": enables, "ready": not missing, "found": found, "missing": missing}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return ["unknown without torch"]
    from runtimes.pytorch.devices import describe_devices

    return describe_devices()
