"""MiniRocket, the control: fixed convolutions, and a logistic head that gives probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moola.models.base import estimator
from moola.models.controls.classical import SeriesClassifier
from moola.models.controls.kernels import (
    KERNEL_BARS,
    KERNEL_SIZES,
    ONE_AT_A_TIME,
    PARTS,
    check_kernels,
    kernel_layout,
    kernel_sizes,
    num_outputs,
)
from moola.models.controls.linear_head import LinearHead
from moola.models.controls.stored import Layout, Tensors
from moola.models.folds import forward_chaining_folds, stratified_folds


@estimator
class MiniRocketModel(SeriesClassifier):
    """MiniRocket (Dempster, Schmidt and Webb, 2021) with a logistic head.

    The transform is sktime's ``MiniRocketMultivariate``: X are OHLC windows, shape (n, T, 4), which
    are normalised first, or other series, shape (n, T, C), with T of at least 9; features are not
    looked at. The ridge penalty of the head is chosen by log-loss, on forward-chaining folds of
    windows (`gap_windows` left out between train and validation), on stratified folds of series,
    which have no order in time.

    Parameters
    ----------
    seed
        Of everything drawn at random.
    gap_windows
        Windows left out between the train and the validation part of a fold.
    num_kernels
        Numbers a window is turned into, rounded down to a multiple of 84.
    input_kind
        ``ohlc`` or ``series``.
    """

    model_name = "minirocket"
    least_bars = KERNEL_BARS
    most: ClassVar[Mapping[str, int]] = KERNEL_SIZES
    penalties: ClassVar[tuple[float, ...]] = (1e-5, 1e-4, 1e-3)
    series_penalties: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

    seed: int = 17
    gap_windows: int = 19
    num_kernels: int = 2000
    input_kind: str = "ohlc"

    @property
    def num_parameters(self) -> int:
        """Weights and biases of the head; before the fit, those of two classes."""
        if hasattr(self, "head_"):
            return self.head_.num_parameters
        return num_outputs(self.num_kernels) + 1

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        if self.input_kind == "ohlc":
            folds = forward_chaining_folds(target, gap_windows=self.gap_windows)
            penalties = self.penalties
        else:
            folds, penalties = stratified_folds(target, seed=self.seed), self.series_penalties
        self.head_ = LinearHead.fit(matrix, target, penalties=penalties, folds=folds)

    def _answers(self, matrix: NDArray) -> NDArray[np.float64]:
        return self.head_.proba(matrix)

    def _arrays(self) -> Tensors:
        return {**self.kernels_, **self.head_.tensors()}

    def _sizes(self) -> dict[str, int]:
        return kernel_sizes(self.kernels_)

    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of the kernels' arrays and of the head's."""
        sizes = {name: int(state[name]) for name in self.most}
        head = LinearHead.layout(num_outputs(self.num_kernels), num_classes)
        return {**kernel_layout(self.num_kernels, **sizes), **head}

    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        self.kernels_ = check_kernels(
            arrays,
            num_bars=self.inputs_.window_bars,
            num_channels=self.inputs_.num_channels,
            num_kernels=self.num_kernels,
        )
        self.head_ = LinearHead.from_tensors(arrays)

    def _fit_transform(self, windows: NDArray[np.float64]) -> NDArray[np.float32]:
        from sktime.transformations.rocket import MiniRocketMultivariate

        state = np.random.get_state()  # noqa: NPY002 - sktime seeds NumPy's global generator
        try:
            rocket = MiniRocketMultivariate(
                num_kernels=self.num_kernels, random_state=int(self.seed)
            )
            rocket.fit(windows)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        self.kernels_ = dict(zip(PARTS, rocket.parameters, strict=True))
        return self._transform(windows)

    def _transform(self, windows: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the share of positive outputs a kernel, shape (n, about num_kernels)."""
        from sktime.transformations.rocket import MiniRocketMultivariate

        rocket = MiniRocketMultivariate(num_kernels=self.num_kernels)
        rocket.parameters = tuple(self.kernels_[part] for part in PARTS)
        rocket._is_fitted = True
        with ONE_AT_A_TIME:
            transformed = rocket._transform(windows)
        return np.asarray(transformed, dtype=np.float32)
