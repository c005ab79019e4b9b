"""Arrays of a stored model that is no net: which there must be, and what they may hold.

Whoever can register a version can write its arrays, and some of them are indices into others. So
all are checked before the first is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moola.errors import CheckpointError, shown

Tensors = dict[str, NDArray]
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # type and shape by name, as safetensors has it

F64, F32, I64, I32 = "F64", "F32", "I64", "I32"
LARGEST = 1e30  # of a number in float64: far from where products of a few overflow
_TYPES = {F64: np.float64, F32: np.float32, I64: np.int64, I32: np.int32}


def check_layout(arrays: Mapping[str, NDArray], layout: Layout) -> None:
    """Raise CheckpointError unless these arrays are there and no other, in type and shape."""
    if set(arrays) != set(layout):
        odd = sorted(set(arrays) ^ set(layout))
        raise CheckpointError(
            f"the arrays lack or add {len(odd)}, {shown(odd[0])} the first",
            limit=f"{', '.join(sorted(layout))}",
        )
    for name, (kind, shape) in layout.items():
        array = arrays[name]
        if array.dtype != _TYPES[kind] or array.shape != tuple(shape):
            raise CheckpointError(
                f"array {name} is {array.dtype} of shape {array.shape}", limit=f"{kind} {shape}"
            )


def check_within(name: str, array: NDArray, low: float, high: float) -> None:
    """Raise CheckpointError unless every number lies in [low, high]; NaN does not."""
    inside = (array >= low) & (array <= high)
    if not inside.all():
        value = array.reshape(-1)[int(np.argmin(inside))]
        raise CheckpointError(f"array {name} holds {value:g}", limit=f"{low:g} to {high:g}")


def require(holds: bool | np.bool_, problem: str, limit: str) -> None:
    """Raise CheckpointError with what is wrong and what would do, unless it holds."""
    if not holds:
        raise CheckpointError(problem, limit=limit)


def require_count(name: str, count: int, low: int, high: int) -> None:
    """Raise CheckpointError unless an array has from `low` to `high` rows."""
    wanted = f"{low}" if low == high else f"{low} to {high}"
    require(low <= count <= high, f"array {name} has {count} rows", wanted)
