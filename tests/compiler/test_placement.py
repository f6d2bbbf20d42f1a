"""Placement: told from the system and the command line, outside every key."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from compiler.checks import check_placement
from compiler.placement import Runtime, Target, parse_target, place, this_machine, unkept_limit
from tests.handmade import CPU, read


@pytest.mark.parametrize(
    ("text", "kind", "memory"),
    [
        ("cpu", "cpu", None),
        ("cuda", "cuda", None),
        ("mps", "mps", None),
        ("cuda:80GiB", "cuda", 80),
        ("CUDA:8gib", "cuda", 8),
    ],
)
def test_a_target_is_a_device_and_perhaps_its_memory(text: str, kind: str, memory: int | None) -> None:
    target = parse_target(text)
    assert (target.kind, target.memory_gib) == (kind, memory)


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda:", "cuda:80", "cuda:80GB", "cuda:0GiB", "cuda:-1GiB", " cpu", "cpu\n"]
)
def test_what_is_no_target_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="write cpu, cuda, mps"):
        parse_target(text)


def test_this_machine_has_a_target_with_a_reason() -> None:
    target = this_machine()
    assert target.kind in ("cpu", "cuda", "mps")
    assert target.reason


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_devices_are_not_there(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert this_machine().kind != "cuda"


@pytest.mark.skipif(not Path("/proc/driver/nvidia/version").exists(), reason="needs an NVIDIA driver")
def test_a_loaded_driver_is_a_cuda_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert this_machine().kind == "cuda"


@pytest.mark.parametrize(("written", "expected"), [(None, 32), (8, 8), (32, 32), (64, 32)])
def test_a_micro_batch_is_at_most_the_batch(written: int | None, expected: int) -> None:
    assert place(CPU, 32, written).micro_batch_size == expected


def test_a_placement_says_why() -> None:
    placement = place(Target(kind="mps", memory_gib=None, reason="Apple silicon"), 32, None)
    assert (placement.device, placement.device_reason) == ("mps", "Apple silicon")
    assert (placement.engine, placement.engine_reason) == ("mlx", "the fast runtime of Apple silicon")
    assert (place(CPU, 32, None).engine, place(CPU, 32, None).engine_reason) == ("pytorch", "the usual runtime on cpu")


@pytest.mark.parametrize("runtime", ["pytorch", "mlx"])
def test_a_runtime_that_is_named_is_taken_on_every_target(runtime: Literal["pytorch", "mlx"]) -> None:
    for target in (CPU, Target(kind="mps", memory_gib=None, reason="Apple silicon")):
        placement = place(target, 32, None, runtime)
        assert (placement.engine, placement.engine_reason) == (runtime, "asked for")


def test_the_memory_that_was_asked_for_is_said_and_kept_to() -> None:
    assert place(parse_target("cuda:80GiB"), 32, None).memory_gib == 80
    assert place(parse_target("cuda"), 32, None).memory_gib is None
    assert place(parse_target("cuda:80GiB"), 32, None).device_reason == "asked for, 80 GiB"
    assert place(parse_target("cuda"), 32, None).device_reason == "asked for"


@pytest.mark.parametrize(
    ("text", "runtime"),
    [("cpu:8GiB", "mlx"), ("mps:8GiB", "auto"), ("mps:8GiB", "pytorch"), ("cuda:8GiB", "auto"), ("cpu", "auto")],
)
def test_a_limit_that_is_kept_to_is_taken(text: str, runtime: Literal["auto"] | Runtime) -> None:
    assert unkept_limit(parse_target(text), runtime) == ""


def test_a_limit_that_nothing_keeps_to_is_a_finding() -> None:
    target = parse_target("cpu:8GiB")
    [found] = check_placement(read(), target, None)
    assert (found.code, found.pointer) == ("R217", "/runtime")
    assert found.message == "pytorch can't be held to 8 GiB on cpu"
    assert found.hint == "write --target cpu without a limit, or --runtime mlx"
    assert not list(check_placement(read(), target, "mlx"))


def test_checkpointing_is_part_of_a_placement_and_off_when_nobody_asks() -> None:
    assert not place(CPU, 32, None).gradient_checkpointing
    assert place(CPU, 32, None, gradient_checkpointing=True).gradient_checkpointing


@pytest.mark.parametrize(
    ("text", "runtime", "optimizer", "pointers"),
    [
        ("cuda", None, {"state": "8-bit", "paged": True}, []),
        ("cpu", None, {"state": "8-bit"}, []),
        ("cpu", None, {"state": "8-bit", "paged": True}, ["/training/optimizer/paged"]),
        ("mps", "pytorch", {"state": "8-bit"}, ["/training/optimizer/state"]),
        ("mps", None, {"state": "8-bit", "paged": True}, ["/training/optimizer/state", "/training/optimizer/paged"]),
        ("cpu", "mlx", {"state": "32-bit", "paged": False}, []),
    ],
)
def test_running_means_are_held_where_bitsandbytes_runs(
    text: str, runtime: Runtime | None, optimizer: dict[str, object], pointers: list[str]
) -> None:
    recipe = read(training={"optimizer": {"type": "adamw", **optimizer}})
    found = list(check_placement(recipe, parse_target(text), runtime))
    assert [(each.code, each.pointer) for each in found] == [("R222", pointer) for pointer in pointers]
    assert all(f"was chosen on {text}" in each.message and "need pytorch on cuda" in each.message for each in found)
