"""Devices that this installation of MLX computes on."""

from __future__ import annotations

import os

import mlx.core as mx

from runtimes.errors import RunError


def require_device(kind: str) -> None:
    """Nothing when MLX can compute there. Raises RunError E407 with what to do otherwise."""
    if kind != "cpu" and not mx.is_available(mx.Device(mx.gpu)):
        message = f"the placement asks for {kind}, and this installation of MLX computes on the CPU alone"
        raise RunError("E407", message, "run with --target cpu, or install mlx on macOS, or mlx[cuda13] on Linux")


def use_device(kind: str) -> None:
    """Computes on a kind of device from now on. Raises RunError E407 when MLX has none here."""
    require_device(kind)
    os.environ.setdefault("MLX_ENABLE_TF32", "0")  # float32 is float32; MLX reads it at its first product on CUDA
    mx.set_default_device(mx.Device(mx.cpu if kind == "cpu" else mx.gpu))


def use_nearest(kind: str) -> None:
    """Computes on a kind of device from now on, or on the CPU where MLX has none of it here."""
    use_device(kind if mx.is_available(mx.Device(mx.gpu)) else "cpu")
