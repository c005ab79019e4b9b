"""Hydra and MultiRocket: competing random convolutions beside pooled ones, one logistic head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv1d

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
from moola.models.controls.stored import F32, F64, I64, LARGEST, Layout, Tensors, check_within
from moola.models.folds import forward_chaining_folds, stratified_folds

Floats = NDArray[np.float64]
KERNELS, HALF = 8, 32  # eight kernels compete in each of 2 x 32 groups
_BATCH = 256
_SPARSE = 4
_SMALLEST_SCALE = 1e-9  # training puts 1 in the place of what is below 1e-8


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
    most: ClassVar[Mapping[str, int]] = {
        f"{size}_{which}": most for which in (0, 1) for size, most in KERNEL_SIZES.items()
    }
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
            for part, value in zip(PARTS, parts, strict=True)
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
            tuple(self._kernels_of(which).values()) for which in (0, 1)
        )
        rocket._is_fitted = True
        with ONE_AT_A_TIME:
            return np.asarray(rocket._transform(windows), dtype=np.float64)

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        if self.input_kind == "ohlc":
            folds = forward_chaining_folds(target, gap_windows=self.gap_windows)
            penalties = self.penalties
        else:
            folds, penalties = stratified_folds(target, seed=self.seed), self.series_penalties
        self.head_ = LinearHead.fit_wide(matrix, target, penalties=penalties, folds=folds)

    def _answers(self, matrix: NDArray) -> Floats:
        return self.head_.proba(matrix)

    def _arrays(self) -> Tensors:
        scaler = {"column_mean": self.mean_, "column_scale": self.scale_}
        return {**self.competing_, **self.kernels_, **scaler, **self.head_.tensors()}

    def _sizes(self) -> dict[str, int]:
        return {
            f"{size}_{which}": number
            for which in (0, 1)
            for size, number in kernel_sizes(self._kernels_of(which)).items()
        }

    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of both transforms' arrays, of their scaler and of the head."""
        num_channels = len(state["scaler"].get("channel_mean", "OHLC"))
        kernels, channels = _competing_shapes(num_channels, int(state["window_bars"]))
        num_columns = kernels[0] * 2 * 2 * HALF * KERNELS + 8 * num_outputs(self.num_kernels)
        layout: dict[str, Any] = {
            "competing_kernels": (F32, kernels),
            "competing_channels": (I64, channels),
            "column_mean": (F64, (num_columns,)),
            "column_scale": (F64, (num_columns,)),
            **LinearHead.layout(num_columns, num_classes),
        }
        for which in (0, 1):
            sizes = {size: int(state[f"{size}_{which}"]) for size in KERNEL_SIZES}
            of_kernels = kernel_layout(self.num_kernels, **sizes)
            layout |= {f"{part}_{which}": entry for part, entry in of_kernels.items()}
        return layout

    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        bars, channels = self.inputs_.window_bars, self.inputs_.num_channels
        check_within("competing_kernels", arrays["competing_kernels"], -1, 1)
        check_within("competing_channels", arrays["competing_channels"], 0, channels - 1)
        check_within("column_mean", arrays["column_mean"], -LARGEST, LARGEST)
        check_within("column_scale", arrays["column_scale"], _SMALLEST_SCALE, LARGEST)
        self.competing_ = {k: arrays[k] for k in ("competing_kernels", "competing_channels")}
        self.kernels_ = {}
        for which in (0, 1):  # windows, and their first differences, which are one bar shorter
            kernels = check_kernels(
                {part: arrays[f"{part}_{which}"] for part in PARTS},
                num_bars=bars - which,
                num_channels=channels,
                num_kernels=self.num_kernels,
            )
            self.kernels_ |= {f"{part}_{which}": value for part, value in kernels.items()}
        self.mean_, self.scale_ = arrays["column_mean"], arrays["column_scale"]
        self.head_ = LinearHead.from_tensors(arrays)

    def _kernels_of(self, which: int) -> Tensors:
        return {part: self.kernels_[f"{part}_{which}"] for part in PARTS}


def _competing_shapes(
    num_channels: int, num_bars: int
) -> tuple[tuple[int, int, int, int, int], tuple[int, int, int, int]]:
    """Return the shapes of Hydra's kernels and channels, see `draw_competing`."""
    num_dilations = int(np.log2((num_bars - 1) / (KERNEL_BARS - 1))) + 1
    added = 1 if num_channels == 1 else int(np.clip(num_channels // 2, 2, 8))
    groups = (num_dilations, 2, HALF)
    return (*groups, KERNELS, KERNEL_BARS), (*groups, added)


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
    of_kernels, of_channels = _competing_shapes(num_channels, num_bars)
    kernels = rng.standard_normal(of_kernels)
    kernels -= kernels.mean(axis=-1, keepdims=True)
    kernels /= np.abs(kernels).sum(axis=-1, keepdims=True)
    channels = rng.integers(0, num_channels, of_channels)
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
