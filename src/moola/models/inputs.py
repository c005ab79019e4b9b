"""What a model takes: windows, and features beside them; checked, then scaled by train's figures.

``ohlc`` windows are price bars, shape (n, T, 4); their 20 features are computed unless the caller
gives others. ``series`` windows are any numbers, shape (n, T, C), and have only the features that
are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moola.config.base import check_choice
from moola.data.features import features20
from moola.data.windows import check_windows, normalise
from moola.errors import BadInput

INPUT_KINDS = ("ohlc", "series")
MAX_FEATURES = 20
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The shape of a model's inputs and the figures they are scaled by.

    Attributes
    ----------
    kind
        ``ohlc`` or ``series``.
    window_bars, num_channels
        T and C of training.
    given
        Whether the features came with the windows instead of being computed.
    feature_mean, feature_scale
        Of the training windows, shape (F,), F at most 20.
    channel_mean, channel_scale
        Of the training series, shape (C,); 0 and 1 for ``ohlc``, whose windows are normalised one
        by one.
    """

    kind: str
    window_bars: int
    num_channels: int
    given: bool
    feature_mean: NDArray[np.float32]
    feature_scale: NDArray[np.float32]
    channel_mean: NDArray[np.float32]
    channel_scale: NDArray[np.float32]

    @classmethod
    def learn(
        cls, X: NDArray, features: NDArray | None, *, kind: str
    ) -> tuple[Self, NDArray[np.float32], NDArray[np.float32]]:
        """Check training inputs; return their figures, the windows and the features.

        Parameters
        ----------
        X
            Windows, shape (n, T, C).
        features
            Shape (n, F), F at most 20; None: computed of bars, none of other series.
        kind
            ``ohlc`` or ``series``.

        Returns
        -------
        tuple
            The figures, the windows as float32, and the features, shape (n, F), float32.

        Raises
        ------
        BadInput
            If shapes or values cannot be used.
        """
        X = check_input(X, kind)
        feature_matrix = _features(X, features, kind)
        if kind == "series":
            channel_mean, channel_scale = _figures(X.reshape(-1, X.shape[2]))
        else:
            channel_mean, channel_scale = np.zeros(4, np.float32), np.ones(4, np.float32)
        mean, scale = _figures(feature_matrix)
        inputs = cls(
            kind=kind,
            window_bars=int(X.shape[1]),
            num_channels=int(X.shape[2]),
            given=features is not None,
            feature_mean=mean,
            feature_scale=scale,
            channel_mean=channel_mean,
            channel_scale=channel_scale,
        )
        return inputs, X, feature_matrix

    @property
    def num_features(self) -> int:
        """Features beside a window."""
        return len(self.feature_mean)

    def check(
        self, X: NDArray, features: NDArray | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return windows and features of the shape of training, or raise BadInput."""
        X = check_input(X, self.kind, window_bars=self.window_bars, num_channels=self.num_channels)
        if self.given and features is None:
            raise BadInput(
                "no features are given",
                limit=f"shape ({len(X)}, {self.num_features}), as in training",
                remedy="Pass the features the model was trained with",
            )
        if not self.given and features is not None:
            raise BadInput(
                "features are given to a model that was trained without",
                limit="windows alone",
                remedy="Leave them out, or train with features",
            )
        return X, _features(X, features, self.kind, num_features=self.num_features)

    def windows(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scaled windows, shape (n, T, C)."""
        if self.kind == "ohlc":
            return normalise(X)
        return np.asarray((X - self.channel_mean) / self.channel_scale, dtype=np.float32)

    def scaled_features(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features by train's mean and standard deviation, shape (n, F)."""
        return np.asarray((features - self.feature_mean) / self.feature_scale, dtype=np.float32)

    def recomputed(self, X: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray:
        """Return the features of changed windows; those that were given stay."""
        return before if self.given or self.kind == "series" else features20(X)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, the scaler's under ``scaler``."""
        scaler = {"mean": _numbers(self.feature_mean), "scale": _numbers(self.feature_scale)}
        if self.kind == "series":
            scaler |= {
                "channel_mean": _numbers(self.channel_mean),
                "channel_scale": _numbers(self.channel_scale),
            }
        shape = {"window_bars": self.window_bars, "features_given": self.given}
        return {**shape, "scaler": scaler}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, kind: str) -> Self:
        """Read what `to_dict` returned; raises KeyError where something is missing."""
        scaler = {k: np.asarray(v, dtype=np.float32) for k, v in values["scaler"].items()}
        ohlc = kind == "ohlc"
        channel_mean = np.zeros(4, np.float32) if ohlc else scaler["channel_mean"]
        return cls(
            kind=kind,
            window_bars=int(values["window_bars"]),
            num_channels=len(channel_mean),
            given=bool(values.get("features_given", False)),
            feature_mean=scaler["mean"],
            feature_scale=scaler["scale"],
            channel_mean=channel_mean,
            channel_scale=np.ones(4, np.float32) if ohlc else scaler["channel_scale"],
        )


def check_input(
    X: NDArray, kind: str, *, window_bars: int | None = None, num_channels: int | None = None
) -> NDArray[np.float32]:
    """Return windows as float32, shape (n, T, C), or raise BadInput naming the first fault."""
    check_choice("input_kind", kind, INPUT_KINDS)
    if kind == "ohlc":
        return check_windows(X, window_bars=window_bars)
    X = np.asarray(X)
    if X.ndim != 3 or X.dtype.kind not in "fiu" or not X.shape[1] or not X.shape[2]:
        raise BadInput(
            f"series have shape {X.shape} and type {X.dtype}",
            limit="numbers of shape (n, T, C)",
            remedy="Put time on the second axis, channels on the third",
        )
    if not len(X):
        raise BadInput(
            "the batch holds no series", limit="at least 1", remedy="Leave out empty batches"
        )
    for name, axis, wanted in (("bars", 1, window_bars), ("channels", 2, num_channels)):
        if wanted is not None and X.shape[axis] != wanted:
            raise BadInput(
                f"series have {X.shape[axis]} {name}",
                limit=f"{wanted} {name}, as in training",
                remedy="Cut them as the training series were",
            )
    with np.errstate(over="ignore"):
        X = X.astype(np.float32, copy=False)
    bad = ~np.isfinite(X).all(axis=(1, 2))
    if bad.any():
        raise BadInput(
            f"series {int(np.argmax(bad))} holds a value that is NaN or infinite",
            limit="finite numbers",
            remedy="Fill or drop it",
        )
    return X


def check_features(
    features: NDArray, num_windows: int, *, num_features: int | None = None
) -> NDArray[np.float32]:
    """Return features as float32, shape (n, F) with F at most 20, or raise BadInput."""
    array = np.asarray(features)
    width = f"1 to {MAX_FEATURES}" if num_features is None else str(num_features)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or len(array) != num_windows:
        raise BadInput(
            f"features have shape {array.shape} and type {array.dtype}",
            limit=f"numbers of shape ({num_windows}, {width})",
            remedy="Give one row of numbers a window",
        )
    fits = array.shape[1] == num_features if num_features else 1 <= array.shape[1] <= MAX_FEATURES
    if not fits:
        raise BadInput(
            f"windows have {array.shape[1]} features",
            limit=f"{width}{', as in training' if num_features else ''}",
            remedy=f"Choose at most {MAX_FEATURES}, the same in training and prediction",
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise BadInput(
            f"the features of window {int(np.argmax(bad))} hold NaN or infinity",
            limit="finite numbers",
            remedy="Fill or drop it",
        )
    return array


def _features(
    X: NDArray[np.float32], features: NDArray | None, kind: str, *, num_features: int | None = None
) -> NDArray[np.float32]:
    if features is not None:
        return check_features(features, len(X), num_features=num_features)
    return features20(X) if kind == "ohlc" else np.zeros((len(X), 0), np.float32)


def _figures(matrix: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation of each column, 1 in the place of (nearly) 0."""
    mean, std = matrix.mean(axis=0), matrix.std(axis=0)
    return mean.astype(np.float32), np.where(std > _LEAST_SPREAD, std, 1.0).astype(np.float32)


def _numbers(values: NDArray[np.float32]) -> list[float]:
    return [float(v) for v in values]
