"""QUANT: quantiles over dyadic intervals of a window, and extremely randomised trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moola.models.base import estimator
from moola.models.controls.classical import SeriesClassifier
from moola.models.controls.stored import Layout, Tensors, require_count
from moola.models.controls.tree_arrays import TREE_SIZES, TreeArrays

Floats = NDArray[np.float64]
_SMOOTHED = 5


@estimator
class QuantModel(SeriesClassifier):
    """QUANT (Dempster, Schmidt and Webb, 2024).

    A window, its smoothed first and its second differences and the magnitude of its Fourier
    transform are cut into 1, 2, 4, ... intervals, and again shifted by half an interval. Each gives
    one quantile for each four values, every second less the interval's mean; trees choose among
    them. Nothing of this is fitted or random but the trees.

    Parameters
    ----------
    seed
        Of the trees.
    num_trees, min_leaf_windows
        Trees, and the fewest training windows of a leaf. The paper's leaves are pure
        (`min_leaf_windows` of 1); few noisy labels do not justify probabilities of 0 and 1.
    depth, values_per_quantile
        Halvings of a window, the whole one included, and interval values for each quantile.
    input_kind
        ``ohlc`` or ``series``.
    """

    model_name = "quant"
    least_bars = 4  # two second differences
    most: ClassVar[Mapping[str, int]] = TREE_SIZES

    seed: int = 17
    num_trees: int = 200
    min_leaf_windows: int = 10
    depth: int = 6
    values_per_quantile: int = 4
    input_kind: str = "ohlc"

    @property
    def num_parameters(self) -> int | None:
        """Numbers in all trees; None before the fit."""
        return self.trees_.num_parameters if hasattr(self, "trees_") else None

    def _fit_transform(self, windows: Floats) -> NDArray[np.float32]:
        return self._transform(windows)  # the intervals follow from a window's length

    def _transform(self, windows: Floats) -> NDArray[np.float32]:
        columns = [
            interval_quantiles(values, depth=self.depth, per_quantile=self.values_per_quantile)
            for values in representations(windows)
        ]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        from sklearn.ensemble import ExtraTreesClassifier

        forest = ExtraTreesClassifier(
            self.num_trees,
            criterion="entropy",
            max_features=0.1,
            min_samples_leaf=self.min_leaf_windows,
            random_state=self.seed,
        )
        self.trees_ = TreeArrays.of_forest(forest.fit(matrix, target))

    def _answers(self, matrix: NDArray) -> NDArray[np.float64]:
        return self.trees_.proba(matrix)

    def _arrays(self) -> Tensors:
        return dict(self.trees_.__dict__)

    def _sizes(self) -> dict[str, int]:
        return self.trees_.sizes

    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of the trees' arrays."""
        return TreeArrays.layout(num_classes, state)

    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        require_count("roots", len(arrays["roots"]), self.num_trees, self.num_trees)
        window = np.zeros((1, self.inputs_.num_channels, self.inputs_.window_bars))
        num_columns = self._transform(window).shape[1]
        self.trees_ = TreeArrays.of_stored(arrays, num_columns=num_columns, shares=True)


def representations(windows: Floats) -> Iterator[Floats]:
    """Yield windows, their first (smoothed) and second differences and their spectrum.

    Parameters
    ----------
    windows
        Shape (n, C, T), T at least 4.

    Yields
    ------
    ndarray
        Shape (n, C, L), L being T, T - 1, T - 2 and T // 2 + 1.
    """
    yield windows
    side = _SMOOTHED // 2
    steps = np.pad(np.diff(windows), [(0, 0), (0, 0), (side, side)], mode="edge")
    yield np.lib.stride_tricks.sliding_window_view(steps, _SMOOTHED, axis=2).mean(axis=3)
    yield np.diff(windows, n=2)
    yield np.abs(np.fft.rfft(windows))


def intervals(length: int, depth: int) -> list[tuple[int, int]]:
    """Return begin and end of the dyadic intervals of `length` values, and of the shifted ones."""
    spans = []
    for level in range(min(depth, int(np.log2(length)) + 1)):
        num = 2**level
        edges = np.linspace(0, length, num + 1).astype(int)
        pairs = np.stack([edges[:-1], edges[1:]], axis=1)
        spans += pairs.tolist()
        if num > 1 and np.sort(np.diff(edges))[(num - 1) // 2] > 1:
            spans += (pairs[:-1] + int(np.ceil(length / num / 2))).tolist()
    return [(int(begin), int(end)) for begin, end in spans]


def interval_quantiles(values: Floats, *, depth: int, per_quantile: int) -> Floats:
    """Return the quantiles of all intervals, intervals of one length at a time.

    Parameters
    ----------
    values
        Shape (n, C, L).
    depth, per_quantile
        As `QuantModel`.

    Returns
    -------
    ndarray
        Shape (n, d): 1 + (m - 1) // `per_quantile` quantiles of an interval of m values, evenly
        spaced from least to greatest (one: the median), every second less the interval's mean.
    """
    n, _, length = values.shape
    by_length: dict[int, list[int]] = {}
    for begin, end in intervals(length, depth):
        by_length.setdefault(end - begin, []).append(begin)
    columns = []
    for num, begins in by_length.items():
        rows = np.add.outer(begins, np.arange(num))
        inside = values[:, :, rows]  # (n, C, intervals, num)
        num_quantiles = 1 + (num - 1) // per_quantile
        shares = np.linspace(0, 1, num_quantiles) if num_quantiles > 1 else np.array([0.5])
        at = shares * (num - 1)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, num - 1)
        ordered = np.sort(inside, axis=3)
        low, high = ordered[..., below], ordered[..., above]
        quantiles = low + (high - low) * (at - below)
        quantiles[..., 1::2] -= inside.mean(axis=3, keepdims=True)
        columns.append(quantiles.reshape(n, -1))
    return np.concatenate(columns, axis=1)
