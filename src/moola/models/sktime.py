"""Moola's models as sktime classifiers: panels of shape (n, channels, T)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sktime.classification.base import BaseClassifier

from moola.errors import ConfigError
from moola.models.registry import get_model


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
        (``logreg``, ``rf``, ``hgb``, ``xgb``, ``stack``) take ``ohlc`` only.
    random_state
        Seed of the model; None takes the one of `config`, or the model's own.

    Attributes
    ----------
    estimator_
        The fitted model.

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
        "X_inner_mtype": "numpy3D",
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

    def _fit(self, X: NDArray, y: NDArray) -> Self:
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
        self.estimator_ = estimator.fit(_time_second(X), y)
        return self

    def _predict(self, X: NDArray) -> NDArray:
        return np.asarray(self.estimator_.predict(_time_second(X)))

    def _predict_proba(self, X: NDArray) -> NDArray[np.float64]:
        return np.asarray(self.estimator_.predict_proba(_time_second(X)))

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return small configurations for sktime's own checks."""
        tiny = {"hidden_size": 4, "num_layers": 1, "n_epochs": 2, "batch_size": 16}
        return [
            {"model": "minirocket", "config": {"num_kernels": 84}},
            {"model": "enhanced_simple_lstm", "config": tiny},
        ]


def _time_second(X_NCT: NDArray) -> NDArray:
    return np.asarray(X_NCT).transpose(0, 2, 1)
