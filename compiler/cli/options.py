"""Options that several commands share, and the values that they become."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from compiler.facts import LocalFacts
from compiler.placement import Target, parse_target, this_machine

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number in a range; click's own takes NaN, which is in every one, and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises BadParameter."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


def recipe_options(command: F) -> F:
    """--set, --allow: how a recipe is read."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="/POINTER=VALUE",
        help="Override a value, for instance --set /training/epochs=1. An object merges into the one that is there; "
        'a list or a word replaces; "-" appends to a list: --set /metrics/-=matthews. Can be repeated.',
    )(command)
    return click.option(
        "--allow",
        "allowed",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="A folder outside of the project that the recipe may read. Can be repeated.",
    )(command)


def target_option(command: F) -> F:
    """--target: the kind of device that the plan is for."""
    return click.option(
        "--target",
        metavar="DEVICE[:MEMORY]",
        callback=_target,
        help="cpu, cuda, mps, or with the most memory that training may take: cuda:80GiB. MLX keeps to it on every "
        "device, PyTorch on cuda and mps. Default: this machine.",
    )(command)


def runtime_option(command: F) -> F:
    """--runtime: what runs the plan, over what the recipe says."""
    return click.option(
        "--runtime",
        type=click.Choice(["pytorch", "mlx"]),
        help="What runs the plan. Default: the recipe's; auto is mlx on Apple silicon, else pytorch.",
    )(command)


def provider_option(command: F) -> F:
    """--provider: what onnxruntime computes with."""
    return click.option(
        "--provider",
        type=click.Choice(["cpu", "coreml"]),
        default="cpu",
        show_default=True,
        help="What onnxruntime computes with; coreml: Core ML where it can, on macOS.",
    )(command)


def runs_option(command: F) -> F:
    """--runs: the folder of runs."""
    return click.option(
        "--runs",
        "runs_folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("runs"),
        show_default=True,
        help="The folder of runs.",
    )(command)


def _target(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Target:
    try:
        return parse_target(value) if value else this_machine()
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def given_options(names: Collection[str]) -> list[str]:
    """Of some parameters of the command that runs, the options that its command line has, as --help shows them."""
    context = click.get_current_context()
    return [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]


def mirror_folder() -> Path | None:
    """The mirror of the hub that RECIPE_MIRROR names."""
    folder = os.environ.get("RECIPE_MIRROR")
    return Path(folder) if folder else None


def cache_folder() -> Path:
    """Where hashes of files and lengths of rows are remembered."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "recipec"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def fact_source(allowed: tuple[Path, ...]) -> LocalFacts:
    """The facts about files here, in the mirror, in the hub's cache and on the hub."""
    return LocalFacts(
        mirror=mirror_folder(),
        cache=cache_folder(),
        allowed=allowed,
        offline=offline(),
    )
