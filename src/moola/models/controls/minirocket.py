"""MiniRocket, the control: fixed convolutions, and a logistic head that gives probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moola.models.base import estimator
from moola.models.controls.classical import SeriesClassifier, Tensors
from moola.models.controls.linear_head import LinearHead
from moola.models.folds import forward_chaining_folds, stratified_folds

_PARTS = (
    "num_channels_per_combination",
    "channel_indices",
    "dilations",
    "num_features_per_dilation",
    "biases",
)


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
    least_bars = 9  # the length of a kernel
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
        return max(84, self.num_kernels // 84 * 84) + 1

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        if self.input_kind == "ohlc":
            folds = forward_chaining_folds(target, gap_windows=self.gap_windows)
            penalties = self.penalties
        else:
            folds, penalties = stratified_folds(target, seed=self.seed), self.series_penalties
        self.head_ = LinearHead.fit(matrix, target, penalties=penalties, folds=folds)

    def _proba(self, matrix: NDArray) -> NDArray[np.float64]:
        return self.head_.proba(matrix)

    def _state(self) -> tuple[Tensors, dict[str, Any]]:
        return {**self.kernels_, **self.head_.tensors()}, self.inputs_.to_dict()

    def _restore(self, tensors: Mapping[str, NDArray], values: Mapping[str, Any]) -> None:
        self._restore_inputs(values)
        self.kernels_ = {part: tensors[part] for part in _PARTS}
        self.head_ = LinearHead.from_tensors(tensors)

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
        self.kernels_ = dict(zip(_PARTS, rocket.parameters, strict=True))
        return self._transform(windows)

    def _transform(self, windows: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the share of positive outputs a kernel, shape (n, about num_kernels)."""
        from sktime.transformations.rocket import MiniRocketMultivariate

        rocket = MiniRocketMultivariate(num_kernels=self.num_kernels)
        rocket.parameters = tuple(self.kernels_[part] for part in _PARTS)
        rocket._is_fitted = True
        transformed = rocket._transform(windows)
        return np.asarray(transformed, dtype=np.float32)
