"""The kernels of MiniRocket and MultiRocket as arrays: compiled code uses them without a check."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from moola.models.controls.stored import F32, I32, LARGEST, Layout, check_within, require

PARTS = (
    "num_channels_per_combination",
    "channel_indices",
    "dilations",
    "num_features_per_dilation",
    "biases",
)
# Compiled code that runs in threads of its own may end the process when two threads call it.
ONE_AT_A_TIME = Lock()

KERNELS, KERNEL_BARS = 84, 9
MOST_DILATIONS = 32
_MOST_CHANNELS = 9  # that one kernel adds up
KERNEL_SIZES = {
    "num_dilations": MOST_DILATIONS,
    "num_channel_indices": MOST_DILATIONS * KERNELS * _MOST_CHANNELS,
}


def num_outputs(num_kernels: int) -> int:
    """Return how many kernels and biases are drawn where so many are asked for."""
    return max(1, num_kernels // KERNELS) * KERNELS


def kernel_sizes(kernels: Mapping[str, NDArray]) -> dict[str, int]:
    """Return the sizes that are drawn, of the five arrays by `PARTS`."""
    return {
        "num_dilations": len(kernels["dilations"]),
        "num_channel_indices": len(kernels["channel_indices"]),
    }


def kernel_layout(num_kernels: int, num_dilations: int, num_channel_indices: int) -> Layout:
    """Return type and shape of the five arrays, by `PARTS`."""
    return {
        "num_channels_per_combination": (I32, (num_dilations * KERNELS,)),
        "channel_indices": (I32, (num_channel_indices,)),
        "dilations": (I32, (num_dilations,)),
        "num_features_per_dilation": (I32, (num_dilations,)),
        "biases": (F32, (num_outputs(num_kernels),)),
    }


def check_kernels(
    kernels: Mapping[str, NDArray], *, num_bars: int, num_channels: int, num_kernels: int
) -> dict[str, NDArray]:
    """Return the five arrays if every index that is made of them is inside a window.

    Parameters
    ----------
    kernels
        Laid out as `kernel_layout` says.
    num_bars, num_channels
        T and C of the windows the kernels are used on.
    num_kernels
        As many as were asked for.

    Raises
    ------
    CheckpointError
        If a channel is not there, a dilated kernel is longer than a window, or counts do not add
        up.
    """
    counts, dilations = kernels["num_channels_per_combination"], kernels["dilations"]
    check_within("num_channels_per_combination", counts, 1, min(num_channels, _MOST_CHANNELS))
    check_within("channel_indices", kernels["channel_indices"], 0, num_channels - 1)
    total, stated = int(counts.sum(dtype=np.int64)), len(kernels["channel_indices"])
    require(
        total == stated,
        f"array num_channels_per_combination adds up to {total}",
        f"{stated}, the length of channel_indices",
    )
    check_within("dilations", dilations, 1, (num_bars - 1) // (KERNEL_BARS - 1))
    require((np.diff(dilations) > 0).all(), "array dilations does not ascend", "each one once")
    features = kernels["num_features_per_dilation"]
    each = num_outputs(num_kernels) // KERNELS
    check_within("num_features_per_dilation", features, 1, each)
    total = int(features.sum(dtype=np.int64))
    require(total == each, f"array num_features_per_dilation adds up to {total}", str(each))
    check_within("biases", kernels["biases"], -LARGEST, LARGEST)
    return {part: kernels[part] for part in PARTS}
