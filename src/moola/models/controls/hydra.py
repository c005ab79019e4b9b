"""Hydra and MultiRocket: competing random convolutions beside pooled ones, one logistic head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv1d

from moola.models.base import estimator
from moola.models.controls.classical import SeriesClassifier, Tensors
from moola.models.controls.linear_head import LinearHead
from moola.models.folds import forward_chaining_folds, stratified_folds

Floats = NDArray[np.float64]
KERNEL_BARS, KERNELS, HALF = 9, 8, 32  # eight kernels compete in each of 2 x 32 groups
_BATCH = 256
_SPARSE = 4
_PARTS = (
    "num_channels_per_combination",
    "channel_indices",
    "dilations",
    "num_features_per_dilation",
    "biases",
)


@estimator
class HydraMultiRocketModel(SeriesClassifier):
    """Hydra (Dempster, Schmidt and Webb, 2023) beside MultiRocket (Tan et al., 2022).

    Hydra's kernels compete in groups: at each bar the kernel with the greatest answer is credited
    with it, and the one with the least is counted, at each dilation, on windows and on their first
    differences. MultiRocket's transform is sktime's ``MultiRocketMultivariate``. The head is a
    logistic regression in the place of the paper's ridge classifier, for it gives probabilities;
    its penalty is chosen by log-loss, on forward-chaining folds of windows (`gap_windows` left out
    between train and validation), on stratified folds of series.

    Parameters
    ----------
    seed
        Of everything drawn at random.
    gap_windows
        Windows left out between the train and the validation part of a fold.
    num_kernels
        Of MultiRocket, rounded down to a multiple of 84; each gives eight numbers.
    input_kind
        ``ohlc`` or ``series``.
    """

    model_name = "hydra_multirocket"
    least_bars = KERNEL_BARS + 1  # differences are one shorter
    penalties: ClassVar[tuple[float, ...]] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    series_penalties: ClassVar[tuple[float, ...]] = (1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)

    seed: int = 17
    gap_windows: int = 19
    num_kernels: int = 6250
    input_kind: str = "ohlc"

    @property
    def num_parameters(self) -> int | None:
        """Weights and biases of the head; None before the fit."""
        return self.head_.num_parameters if hasattr(self, "head_") else None

    def _fit_transform(self, windows: Floats) -> NDArray[np.float32]:
        from sktime.transformations.rocket import MultiRocketMultivariate

        self.competing_ = draw_competing(windows.shape[1], windows.shape[2], seed=self.seed)
        state = np.random.get_state()  # noqa: NPY002 - sktime seeds NumPy's global generator
        try:
            rocket = MultiRocketMultivariate(self.num_kernels, random_state=int(self.seed))
            rocket.fit(windows)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        self.kernels_ = {
            f"{part}_{which}": value
            for which, parts in enumerate((rocket.parameter, rocket.parameter1))
            for part, value in zip(_PARTS, parts, strict=True)
        }
        counts, pooled = competing(windows, self.competing_), self._pooled(windows)
        rare = (counts == 0).mean(axis=0) ** _SPARSE + 1e-8  # hardly any count: hardly any weight
        spread = np.concatenate([counts.std(axis=0) + rare, pooled.std(axis=0)])
        self.scale_ = np.where(spread > 1e-8, spread, 1.0)
        self.mean_ = np.concatenate([counts.mean(axis=0), pooled.mean(axis=0)])
        return self._scaled(counts, pooled)

    def _transform(self, windows: Floats) -> NDArray[np.float32]:
        return self._scaled(competing(windows, self.competing_), self._pooled(windows))

    def _scaled(self, counts: Floats, pooled: Floats) -> NDArray[np.float32]:
        """Return scaled counts, 0 where nothing was counted, and pooled answers, shape (n, d)."""
        scaled = (np.concatenate([counts, pooled], axis=1) - self.mean_) / self.scale_
        scaled[:, : counts.shape[1]] *= counts != 0
        return np.asarray(scaled, dtype=np.float32)

    def _pooled(self, windows: Floats) -> Floats:
        """Return MultiRocket's numbers, shape (n, about 8 num_kernels)."""
        from sktime.transformations.rocket import MultiRocketMultivariate

        rocket = MultiRocketMultivariate(self.num_kernels)
        rocket.parameter, rocket.parameter1 = (
            tuple(self.kernels_[f"{part}_{which}"] for part in _PARTS) for which in (0, 1)
        )
        rocket._is_fitted = True
        return np.asarray(rocket._transform(windows), dtype=np.float64)

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        if self.input_kind == "ohlc":
            folds = forward_chaining_folds(target, gap_windows=self.gap_windows)
            penalties = self.penalties
        else:
            folds, penalties = stratified_folds(target, seed=self.seed), self.series_penalties
        self.head_ = LinearHead.fit_wide(matrix, target, penalties=penalties, folds=folds)

    def _proba(self, matrix: NDArray) -> Floats:
        return self.head_.proba(matrix)

    def _state(self) -> tuple[Tensors, dict[str, Any]]:
        scaler = {"column_mean": self.mean_, "column_scale": self.scale_}
        arrays = {**self.competing_, **self.kernels_, **scaler, **self.head_.tensors()}
        return arrays, self.inputs_.to_dict()

    def _restore(self, tensors: Mapping[str, NDArray], values: Mapping[str, Any]) -> None:
        self._restore_inputs(values)
        self.competing_ = {k: tensors[k] for k in ("competing_kernels", "competing_channels")}
        self.kernels_ = {
            f"{p}_{which}": tensors[f"{p}_{which}"] for p in _PARTS for which in (0, 1)
        }
        self.mean_, self.scale_ = tensors["column_mean"], tensors["column_scale"]
        self.head_ = LinearHead.from_tensors(tensors)


def draw_competing(num_channels: int, num_bars: int, *, seed: int) -> Tensors:
    """Draw Hydra's kernels and the channels that each group adds up.

    Parameters
    ----------
    num_channels, num_bars
        C and T; T at least 10.
    seed
        Of NumPy's default generator.

    Returns
    -------
    dict
        ``competing_kernels``, float32, shape (dilations, 2, groups, kernels, 9), of mean 0 and
        absolute sum 1; ``competing_channels``, shape (dilations, 2, groups, channels of one).
    """
    rng = np.random.default_rng(seed)
    num_dilations = int(np.log2((num_bars - 1) / (KERNEL_BARS - 1))) + 1
    shape = (num_dilations, 2, HALF)
    kernels = rng.standard_normal((*shape, KERNELS, KERNEL_BARS))
    kernels -= kernels.mean(axis=-1, keepdims=True)
    kernels /= np.abs(kernels).sum(axis=-1, keepdims=True)
    added = 1 if num_channels == 1 else int(np.clip(num_channels // 2, 2, 8))
    channels = rng.integers(0, num_channels, (*shape, added))
    return {"competing_kernels": kernels.astype(np.float32), "competing_channels": channels}


def competing(windows: Floats, drawn: Tensors) -> Floats:
    """Return the square roots of what each kernel was credited with.

    Parameters
    ----------
    windows
        Scaled, shape (n, C, T).
    drawn
        As `draw_competing` returns it.

    Returns
    -------
    ndarray
        Shape (n, dilations x 2 x 2 x groups x kernels): sums of the greatest answers (below 0: 0)
        and counts of the least, of windows and of their first differences.
    """
    kernels = torch.from_numpy(drawn["competing_kernels"])
    channels = torch.from_numpy(drawn["competing_channels"])
    counts = []
    for start in range(0, len(windows), _BATCH):
        part = torch.from_numpy(windows[start : start + _BATCH]).float()
        columns = [
            credited
            for level in range(len(kernels))
            for which, values in enumerate((part, part.diff(dim=2)))
            for credited in _credited(values, kernels[level, which], channels[level, which], level)
        ]
        counts.append(torch.cat(columns, dim=1).clamp(min=0).sqrt().numpy())
    return np.concatenate(counts).astype(np.float64)


def _credited(
    values: torch.Tensor, kernels: torch.Tensor, channels: torch.Tensor, level: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums of the greatest and counts of the least answers, shape (n, groups x kernels)."""
    mixed, dilation = values[:, channels].sum(dim=2), 2**level  # (n, groups, T)
    answers = conv1d(
        mixed,
        kernels.reshape(HALF * KERNELS, 1, KERNEL_BARS),
        dilation=dilation,
        padding=dilation * (KERNEL_BARS // 2),
        groups=HALF,
    ).reshape(len(values), HALF, KERNELS, -1)
    (greatest, which), least = answers.max(dim=2), answers.argmin(dim=2)
    none = torch.zeros(len(values), HALF, KERNELS)
    sums = none.scatter_add(2, which, greatest)
    counts = none.scatter_add(2, least, torch.ones_like(greatest))
    return sums.flatten(1), counts.flatten(1)
