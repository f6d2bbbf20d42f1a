from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np
import torch
from torch import Tensor, nn

from runtimes.mlx.graph import Graph, Input, Ref
from runtimes.mlx.lower import lower, value_and_grad
from runtimes.mlx.passes import simplify
from runtimes.mlx.trace import TraceError, trace, weightless
from tests.runtimes.mlx.architectures import ARCHITECTURES
from tests.runtimes.mlx.running import Values, arrays, graph_of, numbers

X = {"x": Input(dtype="float32", axes=("batch", "length"))}


def outputs_of(module: nn.Module, x: Tensor) -> Values:
    graph = simplify(trace(module, X))
    parameters = arrays(dict(module.named_parameters()))
    found, _ = lower(graph)(parameters, {}, {"x": mx.array(x.numpy())}, None)
    return numbers(found)


def test_writes_in_place_into_slices_are_values() -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shifted = x.new_zeros(x.shape)
            shifted[:, 1:] = x[:, :-1].clone()
            shifted[:, 0] = 7.0
            shifted.masked_fill_(shifted < 0, -1.0)
            return shifted

    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(outputs_of(Shift(), x)["0"], Shift()(x).numpy())


def test_constants_of_forward_and_tensors_that_are_no_buffers_have_their_values() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.arange(8.0)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale + torch.tensor([1.0, 2.0] * 4, device=x.device)

    x = torch.ones(3, 8)
    inputs = {"x": Input(dtype="float32", axes=("batch", 8))}
    found, _ = lower(simplify(trace(Scaled(), inputs)))({}, {}, arrays({"x": x}), None)
    np.testing.assert_array_equal(np.array(found["0"]), Scaled()(x).numpy())


@pytest.mark.parametrize("how", ["no_grad", "detach", "enabled"])
def test_no_gradient_comes_out_of_what_torch_does_not_differentiate(how: str) -> None:
    class Objective(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(how != "no_grad"):
                gate = (x * self.inside).sum()
            gate = gate.detach() if how == "detach" else gate
            return gate * self.outside

    module, x = Objective(), torch.ones(2, 3)
    module(x).backward()
    step = value_and_grad(lower(simplify(trace(module, X))), lambda outputs: outputs["0"])
    _, gradients = step(arrays(dict(module.named_parameters())), {}, {}, arrays({"x": x}), None)
    expected = 0.0 if module.inside.grad is None else module.inside.grad.item()
    assert gradients["inside"].item() == expected == (18.0 if how == "enabled" else 0.0)
    assert module.outside.grad is not None
    assert gradients["outside"].item() == module.outside.grad.item() == 12.0


def test_sizes_are_computed_when_the_graph_runs() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            half = x.shape[1] // 2
            return {"first": x[:, :half], "mean": x.sum() / (x.shape[0] * x.shape[1]), "rest": x.flatten()[half + 1 :]}

    x = torch.arange(20.0).reshape(2, 10)
    found, expected = outputs_of(Halves(), x), Halves()(x)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in expected.items()
    }


def test_an_axis_that_the_model_fixes_is_an_error() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(7, 2, device=x.device)

    with pytest.raises(TraceError, match="can't trace Fixed"):
        trace(Fixed(), X)


def test_a_model_without_weights_has_the_values_of_its_buffers() -> None:
    with weightless():
        objective = ARCHITECTURES["llama"].build()
    held = [parameter for parameter in objective.parameters() if not parameter.is_meta]
    assert all(parameter.ndim == 1 for parameter in held), "only the scales of norms, which torch makes as ones"
    expected = dict(ARCHITECTURES["llama"].build().model.named_buffers())["model.rotary_emb.inv_freq"]
    found = graph_of("llama").constants["model.rotary_emb.inv_freq"]
    np.testing.assert_array_equal(found.value, expected.numpy())


def test_a_buffer_without_values_is_named() -> None:
    with torch.device("meta"):
        objective = ARCHITECTURES["llama"].build()
    with pytest.raises(TraceError, match=r"inv_freq has no values; build the model inside weightless"):
        trace(objective, ARCHITECTURES["llama"].inputs, root="model")


def test_tracing_leaves_the_model_as_it_was() -> None:
    objective = ARCHITECTURES["qwen3"].build()
    before = {name: (id(value), value.device) for name, value in objective.state_dict(keep_vars=True).items()}
    trace(objective, ARCHITECTURES["qwen3"].inputs, root="model")
    assert before == {name: (id(value), value.device) for name, value in objective.state_dict(keep_vars=True).items()}


def test_tied_weights_are_one_parameter() -> None:
    graph = graph_of("qwen3")
    assert graph.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in graph.parameters
    readers = [node.op for node in graph.nodes if "model.embed_tokens.weight" in node.operands]
    assert sorted(readers) == ["aten.embedding.default", "aten.linear.default"]


def test_nodes_know_the_module_that_used_them() -> None:
    [node] = [node for node in graph_of("bert").nodes if "classifier.weight" in node.operands]
    assert (node.op, node.module, node.dtype) == ("aten.linear.default", "classifier", "float32")
    assert Ref("classifier.weight") in node.args
    sizes = {node.module for node in graph_of("bert").nodes if node.op == "aten.layer_norm.default"}
    assert "bert.encoder.layer.1.output.LayerNorm" in sizes


def test_outputs_have_the_names_of_the_objective() -> None:
    assert list(graph_of("bert").outputs) == ["loss_sum", "count", "logits"]


class Counter(nn.Module):
    """Counts its calls in a buffer, and reads another one that no file holds."""

    calls: Tensor
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x.sum() + self.table.sum()


def test_buffers_change_from_step_to_step_and_others_are_constants() -> None:
    graph: Graph = simplify(trace(Counter(), X))
    assert list(graph.buffers) == ["calls"]
    run = mx.compile(lower(graph))
    buffers = {"calls": mx.array(0, mx.int64)}
    for _ in range(3):
        outputs, buffers = run({}, buffers, {"x": mx.ones((2, 2))}, None)
    assert (buffers["calls"].item(), buffers["calls"].dtype) == (3, mx.int64)
    assert outputs["0"].item() == 7.0
