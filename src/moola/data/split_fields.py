"""Fields of a split file, read one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from moola.config.data import STRATEGIES
from moola.errors import DataError

AGAIN = "Make it again with `moola data split`"
LEAK = "Random and stratified splits put future bars into training"


def refuse_strategy(name: str, strategy: object) -> None:
    """Raise DataError for a strategy that is not forward in time."""
    if strategy not in STRATEGIES:
        raise DataError(
            f"split {name!r} has strategy {strategy!r}",
            limit=f"one of {', '.join(STRATEGIES)}",
            remedy=LEAK,
        )


def indices(values: Mapping[str, Any], key: str, name: str) -> NDArray[np.int64]:
    """Return a list of window numbers as int64; raises DataError if it is something else."""
    value = values.get(key)
    if not isinstance(value, list) or not all(type(i) is int for i in value):
        malformed(name, f"{key} is missing or holds something else", "a list of whole numbers")
    if any(i < 0 or i > 2**62 for i in value):
        malformed(name, f"{key} holds {min(value)} to {max(value)}", "window numbers from 0")
    return np.array(value, dtype=np.int64)


def text(values: Mapping[str, Any], key: str, name: str) -> str:
    """Return a text that is not empty; raises DataError if it is something else."""
    value = values.get(key)
    if not isinstance(value, str) or not value:
        malformed(name, f"{key} is {value!r}", "a text")
    return value


def malformed(name: str, problem: str, limit: str) -> NoReturn:
    """Raise DataError about a field of a split file."""
    raise DataError(f"split {name!r} is malformed: {problem}", limit=limit, remedy=AGAIN)
