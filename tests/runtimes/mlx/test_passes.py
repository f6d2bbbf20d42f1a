from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np

from runtimes.mlx.graph import Argument, Constant, DType, Graph, Input, Node, Parameter, Ref
from runtimes.mlx.lower import lower, unlowered
from runtimes.mlx.passes import simplify
from runtimes.mlx.passes.dead_code import remove_dead_code
from runtimes.mlx.passes.folding import fold_constants
from runtimes.mlx.passes.identities import remove_identities
from runtimes.mlx.passes.rms_norm import fuse_rms_norm
from tests.runtimes.mlx.running import graph_of

X = Input(dtype="float32", axes=("batch", 4))


def node(name: str, op: str, *args: Argument, dtype: str | None = "float32", **kwargs: Argument) -> Node:
    return Node(name=name, op=op, args=args, kwargs=kwargs, dtype=dtype, shape=("batch", 4), module="a.b")


def graph(*nodes: Node, output: str, **changes: object) -> Graph:
    settings: dict[str, object] = {
        "parameters": {"weight": Parameter(dtype="float32", shape=(4,), requires_grad=True)},
        "buffers": {},
        "constants": {},
        "inputs": {"x": X},
        "nodes": nodes,
        "outputs": {"out": Ref(output)},
        "mutated": {},
        **changes,
    }
    return Graph(**settings)  # type: ignore[arg-type]


def ops(found: Graph) -> list[str]:
    return [own.op for own in found.nodes]


def test_dead_code_goes_and_changed_buffers_stay() -> None:
    found = remove_dead_code(
        graph(
            node("one", "aten._assert_tensor_metadata.default", Ref("x"), dtype=None),
            node("two", "aten.exp.default", Ref("x")),
            node("three", "aten.add.Tensor", Ref("count"), 1),
            node("four", "aten.sin.default", Ref("two")),
            output="two",
            mutated={"count": Ref("three")},
        )
    )
    assert [own.name for own in found.nodes] == ["two", "three"]


def test_a_counter_of_batches_survives() -> None:
    resnet = graph_of("resnet")
    counters = {name for name in resnet.mutated if name.endswith("num_batches_tracked")}
    assert len(counters) == len(resnet.mutated) // 3 > 0


def test_identities_go_and_detach_stays() -> None:
    found = remove_identities(
        graph(
            node("a", "aten.clone.default", Ref("x")),
            node("b", "aten.slice.Tensor", Ref("a"), 0, 0, 2**63 - 1),
            node(
                "c",
                "aten._to_copy.default",
                Ref("b"),
                dtype="float32",
            ),
            node("d", "aten.detach.default", Ref("c")),
            node("e", "aten.dropout.default", Ref("d"), 0.5, False),
            node("f", "aten.add.Tensor", Ref("e"), 0),
            node("g", "aten.slice.Tensor", Ref("f"), 1, 1, 2**63 - 1),
            output="g",
        )
    )
    assert ops(found) == ["aten.detach.default", "aten.slice.Tensor"]
    assert found.nodes[0].args[0] == Ref("x")


def test_a_cast_that_changes_the_dtype_stays() -> None:
    cast = Node(name="a", op="aten._to_copy.default", args=(Ref("x"),), kwargs={"dtype": DType("int64")}, dtype="int64")
    assert ops(remove_identities(graph(cast, output="a"))) == ["aten._to_copy.default"]


def test_constants_are_computed_once() -> None:
    table = Constant(dtype="float32", value=np.arange(4, dtype=np.float32))
    found = fold_constants(
        graph(
            Node(name="a", op="aten.exp.default", args=(Ref("table"),), dtype="float32", shape=(4,)),
            Node(name="b", op="aten.rand.default", args=((4,),), dtype="float32", shape=(4,)),
            node("c", "aten.add.Tensor", Ref("x"), Ref("a")),
            node("d", "aten.add.Tensor", Ref("c"), Ref("b")),
            output="d",
            constants={"table": table},
        )
    )
    assert [own.name for own in found.nodes] == ["b", "c", "d"], "what draws is no constant"
    np.testing.assert_allclose(found.constants["a"].value.tolist(), np.exp(np.arange(4)), rtol=1e-6)


def rms_norm(eps: Argument = 1e-6, axis: int = -1) -> Graph:
    return graph(
        node("square", "aten.pow.Tensor_Scalar", Ref("x"), 2),
        node("mean", "aten.mean.dim", Ref("square"), (axis,), True),
        node("shifted", "aten.add.Tensor", Ref("mean"), eps),
        node("scale", "aten.rsqrt.default", Ref("shifted")),
        node("normed", "aten.mul.Tensor", Ref("x"), Ref("scale")),
        node("out", "aten.mul.Tensor", Ref("weight"), Ref("normed")),
        output="out",
    )


def test_a_written_out_rms_norm_becomes_one_operation_with_the_same_result() -> None:
    found = remove_dead_code(fuse_rms_norm(rms_norm()))
    assert [(own.op, own.args) for own in found.nodes] == [
        ("aten.rms_norm.default", (Ref("x"), (4,), Ref("weight"), 1e-6))
    ]
    weight = {"weight": mx.array([1.0, 2.0, -1.0, 0.5])}
    x = {"x": mx.array([[1.0, 2.0, 3.0, -4.0], [1e-4, 0.0, 0.0, 0.0]])}
    fused, written = (lower(own)(weight, {}, x, None)[0]["out"] for own in (found, rms_norm()))
    np.testing.assert_allclose(np.array(fused), np.array(written), rtol=1e-5)


@pytest.mark.parametrize("other", [rms_norm(axis=0), rms_norm(eps=Ref("x"))])
def test_what_only_looks_like_an_rms_norm_stays(other: Graph) -> None:
    assert fuse_rms_norm(other).nodes == other.nodes


@pytest.mark.parametrize(("name", "norms"), [("llama", 5), ("qwen3", 9), ("t5", 12)])
def test_the_norms_of_real_models_are_found(name: str, norms: int) -> None:
    found = graph_of(name)
    assert ops(found).count("aten.rms_norm.default") == norms
    assert "aten.rsqrt.default" not in ops(found)


@pytest.mark.parametrize(("name", "layers"), [("llama", 2), ("bert", 0)])
def test_keys_that_heads_share_are_not_repeated(name: str, layers: int) -> None:
    attentions = [own for own in graph_of(name).nodes if own.op == "aten.scaled_dot_product_attention.default"]
    assert len(attentions) == 2
    assert sum(own.kwargs.get("enable_gqa") is True for own in attentions) == layers
    repeats = [own for own in graph_of(name).nodes if own.op == "aten.expand.default" and len(own.shape or ()) == 5]
    assert repeats == []


def test_no_check_no_copy_and_no_cast_to_itself_is_left() -> None:
    for name in ("bert", "llama", "resnet"):
        assert not {own for own in ops(graph_of(name)) if "assert" in own or "clone" in own or "alias" in own}


def test_what_has_no_lowering_is_named_with_its_module() -> None:
    strange = graph(
        node("a", "aten.fft_fft.default", Ref("x")),
        Node(name="b", op="aten.nonzero.default", args=(Ref("x"),), module="a.c", shape=("u0", 2), dtype="int64"),
        node("d", "aten.fft_fft.default", Ref("a")),
        output="d",
    )
    assert unlowered(strange) == (
        ("aten.fft_fft.default", "a.b"),
        ("aten.nonzero.default", "a.c"),
    )
    masked = Node(name="a", op="aten.index.Tensor", args=(Ref("x"), (Ref("x"),)), module="a.c", shape=("u0",))
    assert unlowered(graph(masked, output="a")) == (("aten.index.Tensor", "a.c"),)
    assert unlowered(simplify(strange)) == (("aten.fft_fft.default", "a.b"),), "dead code needs no lowering"
