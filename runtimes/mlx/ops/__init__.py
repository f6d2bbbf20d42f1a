"""What each operation of torch is on MLX: two tables from its name to a function of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runtimes.mlx.ops import (
    attention,
    creation,
    elementwise,
    indexing,
    losses,
    norms,
    pooling,
    products,
    random,
    reductions,
    shapes,
    sizes,
)

Lowering = Callable[..., Any]

LOWERINGS: Mapping[str, Lowering] = {
    **attention.TABLE,
    **creation.TABLE,
    **elementwise.TABLE,
    **indexing.TABLE,
    **losses.TABLE,
    **norms.TABLE,
    **pooling.TABLE,
    **products.TABLE,
    **random.TABLE,
    **reductions.TABLE,
    **shapes.TABLE,
    **sizes.TABLE,
}
# Those that take a key before their arguments.
DRAWING: frozenset[str] = frozenset({*attention.TABLE, *random.TABLE})
