"""Bottleneck adapters as a method of PEFT: to import this module is what makes PEFT save and load them.

    import runtimes.pytorch.bottleneck
    model = peft.PeftModel.from_pretrained(base, "runs/NAME/adapter")

A projection's output y becomes y + up(f(down(dropout(y)))) (Houlsby et al. 2019, arXiv:1902.00751).
"""

# N = positions, O = outputs of a projection, U = units of an adapter

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, its weight the other way round

from compiler.methods.adapter import width

PEFT_TYPE = "BOTTLENECK"
PREFIX = "bottleneck_"
FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "swish": functional.silu,
    "tanh": Tensor.tanh,
}


@dataclass
class BottleneckConfig(PeftConfig):
    """What adapter_config.json says of bottleneck adapters."""

    target_modules: list[str] | str | None = None  # projections after which adapters stand
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    reduction_factor: int = 16
    non_linearity: str = "gelu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """The type's word; the targets as a set, as PEFT has them. Raises ValueError for an unknown function."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if self.non_linearity not in FUNCTIONS:
            raise ValueError(f"non_linearity is one of {', '.join(FUNCTIONS)}, not {self.non_linearity}")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A projection with adapters on its output, one after another where several are active."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.functions: dict[str, Callable[[Tensor], Tensor]] = {}
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.add(adapter_name, config)

    def add(self, name: str, config: BottleneckConfig) -> None:
        """Adds an adapter that changes nothing yet: what goes up is zero."""
        outputs = num_outputs(self.get_base_layer())
        units = width(outputs, config.reduction_factor)
        if units == 0:
            raise ValueError(f"an adapter {config.reduction_factor} times narrower than {outputs} outputs has no unit")
        up = nn.Linear(units, outputs)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[name], self.bottleneck_up[name] = nn.Linear(outputs, units), up
        self.bottleneck_dropout[name] = nn.Dropout(config.dropout)
        self.functions[name] = FUNCTIONS[config.non_linearity]
        self._move_adapter_to_device_of_base_layer(name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., O] of the projection's inputs."""
        out_NO: Tensor = self.base_layer(x, *args, **kwargs)
        for name in () if self.disable_adapters else self.active_adapters:
            if name in self.bottleneck_down:
                out_NO = out_NO + self._adapted(name, out_NO).to(out_NO.dtype)
        return out_NO

    def _adapted(self, name: str, out_NO: Tensor) -> Tensor:
        """What an adapter adds, [..., O]."""
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        given_NO = self._cast_input_dtype(out_NO, cast(Tensor, down.weight).dtype)
        hidden_NU = self.functions[name](down(self.bottleneck_dropout[name](given_NO)))
        return cast(Tensor, up(hidden_NU))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: what is not linear can't become part of a projection's weights."""
        raise ValueError("bottleneck adapters can't be merged into their base: they are not linear")


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters."""

    prefix = PREFIX
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  (BaseTuner's; targets are always named)

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        """Puts an adapter after a module. Raises ValueError when it is not linear."""
        config = cast(BottleneckConfig, peft_config)
        if isinstance(target, BottleneckLayer):
            target.add(adapter_name, config)
            return
        layer = BottleneckLayer(target, adapter_name, config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


def num_outputs(module: nn.Module) -> int:
    """The outputs of a linear module. Raises ValueError for others."""
    match module:
        case nn.Linear():
            return module.out_features
        case Conv1D():
            return int(module.nf)
        case _:
            raise ValueError(f"bottleneck adapters stand after linear modules, not after {type(module).__name__}")


def register() -> None:
    """Tells PEFT of the method. Its register_peft_method takes only the names that its own enumeration has."""
    name = cast(Any, PEFT_TYPE)
    PEFT_TYPE_TO_CONFIG_MAPPING[name] = BottleneckConfig
    PEFT_TYPE_TO_TUNER_MAPPING[name] = BottleneckModel
    PEFT_TYPE_TO_PREFIX_MAPPING[name] = PREFIX


register()
