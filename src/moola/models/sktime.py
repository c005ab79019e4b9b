"""Moola's models as sktime classifiers: panels of shape (n, channels, T).

Where a panel names its channels, they are told apart by name, never by place: the columns of a
frame may come in any order, and another order when the model answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sktime.classification.base import BaseClassifier
from sktime.datatypes import convert

from moola.errors import BadInput, ConfigError
from moola.models.catalogue import get_model

OHLC = ("open", "high", "low", "close")


class MoolaClassifier(BaseClassifier):
    """Any model of Moola that takes windows, as a sktime ``BaseClassifier``.

    Parameters
    ----------
    model
        Name in the registry, or the full path of a legacy model.
    config
        Its parameters.
    input_kind
        ``series``: any numbers, any channels; ``ohlc``: four channels, open, high, low and close
        in price units, from which the 20 features are computed. Models of features alone
        (``logreg``, ``rf``, ``hgb``, ``xgb``, ``stack``) take ``ohlc`` only. Frames whose columns
        bear these names (in any case) may have them in any order; arrays, and frames that sktime
        made of arrays (``var_0`` or ``dim_0`` to ``_3``, or 0 to 3), have them in this one.
    random_state
        Seed of the model; None takes the one of `config`, or the model's own.

    Attributes
    ----------
    estimator_
        The fitted model.
    channels_
        Names of the channels it was fitted on, in its order; None where they had none.

    Raises
    ------
    BadInput
        In `fit` and `predict`, where channels cannot be told: a name twice, names that are not
        those of open, high, low and close, or others than in `fit`; names in one and none in the
        other.

    Examples
    --------
    >>> from sktime.datasets import load_unit_test
    >>> from moola.models.sktime import MoolaClassifier
    >>> X_train, y_train = load_unit_test(split="train", return_X_y=True)
    >>> X_test, y_test = load_unit_test(split="test", return_X_y=True)
    >>> classifier = MoolaClassifier("minirocket", {"num_kernels": 336}, random_state=0)
    >>> classifier.fit(X_train, y_train)
    MoolaClassifier(...)
    >>> bool(classifier.score(X_test, y_test) > 0.8)
    True
    """

    _tags = {  # noqa: RUF012 - the name and kind sktime reads
        "X_inner_mtype": ["pd-multiindex", "numpy3D"],
        "capability:multivariate": True,
        "capability:predict_proba": True,
        "capability:random_state": True,
        "property:randomness": "derandomized",
    }

    def __init__(
        self,
        model: str = "minirocket",
        config: Mapping[str, Any] | None = None,
        input_kind: str = "series",
        random_state: int | None = None,
    ):
        self.model = model
        self.config = config
        self.input_kind = input_kind
        self.random_state = random_state
        super().__init__()

    def _fit(self, X: NDArray | pd.DataFrame, y: NDArray) -> Self:
        seed = {} if self.random_state is None else {"seed": int(self.random_state)}
        estimator = get_model(self.model, **{**(self.config or {}), **seed})
        if "input_kind" in estimator.get_params():
            estimator.set_params(input_kind=self.input_kind)
        elif self.input_kind != "ohlc":
            raise ConfigError(
                f"model {self.model} is used with input_kind {self.input_kind!r}",
                limit="input_kind 'ohlc': its features are made of price bars",
                remedy="Use minirocket, quant or a net for other series",
            )
        names = _names(X)
        ohlc = self.input_kind == "ohlc"
        self.channels_ = _ohlc_names(names) if ohlc and names is not None else names
        self.estimator_ = estimator.fit(_time_second(X, self.channels_), y)
        return self

    def _predict(self, X: NDArray | pd.DataFrame) -> NDArray:
        return np.asarray(self.estimator_.predict(self._told_apart(X)))

    def _predict_proba(self, X: NDArray | pd.DataFrame) -> NDArray[np.float64]:
        return np.asarray(self.estimator_.predict_proba(self._told_apart(X)))

    def _told_apart(self, X: NDArray | pd.DataFrame) -> NDArray:
        """Return windows, shape (n, T, channels), with the channels as the model knows them."""
        names, fitted = _names(X), self.channels_
        if self.input_kind == "ohlc":
            return _time_second(X, None if names is None else _ohlc_names(names))
        if (names is None and fitted is None) or X.shape[1] == 1:
            return _time_second(X, None)
        if names is None or fitted is None:
            named, unnamed = ("fit", "predict") if names is None else ("predict", "fit")
            raise BadInput(
                f"channels have names in {named} and none in {unnamed}",
                limit="names in both or in neither",
                remedy=f"Give {unnamed} a frame with columns {names or fitted}",
            )
        if set(names) != set(fitted):
            raise BadInput(f"channels are {names}", limit=f"those of fit: {fitted}")
        return _time_second(X, fitted)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return small configurations for sktime's own checks."""
        tiny = {"hidden_size": 4, "num_layers": 1, "n_epochs": 2, "batch_size": 16}
        return [
            {"model": "minirocket", "config": {"num_kernels": 84}},
            {"model": "enhanced_simple_lstm", "config": tiny},
        ]


def _names(X: NDArray | pd.DataFrame) -> list[Any] | None:
    """Return the names of a panel's channels; None where they are only numbers of places."""
    if not isinstance(X, pd.DataFrame):
        return None
    names = list(X.columns)
    if len(set(names)) < len(names):
        raise BadInput(f"channels are {names}", limit="each name once")
    numbers = range(len(names))
    made_up = [list(numbers), *([f"{word}_{i}" for i in numbers] for word in ("var", "dim"))]
    return None if names in made_up else names


def _ohlc_names(names: list[Any]) -> list[Any]:
    """Return the names of open, high, low and close, in this order."""
    by_name = {str(name).strip().lower(): name for name in names}
    if set(by_name) != set(OHLC) or len(names) != len(OHLC):
        raise BadInput(
            f"channels are {names}",
            limit=f"{', '.join(OHLC)} in any order, or no names and in this one",
            remedy="Rename the columns",
        )
    return [by_name[name] for name in OHLC]


def _time_second(X: NDArray | pd.DataFrame, channels: list[Any] | None) -> NDArray:
    """Return windows, shape (n, T, channels), with channels by name where they have names."""
    if isinstance(X, pd.DataFrame):
        X = convert(X if channels is None else X[channels], "pd-multiindex", "numpy3D", "Panel")
    return np.asarray(X).transpose(0, 2, 1)
