"""What the models that are no nets share: of at most 20 features, and of windows as they are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from moola.data.features import features20
from moola.data.windows import check_windows
from moola.errors import BadInput, CheckpointError
from moola.models.base import WindowClassifier, estimator
from moola.models.class_labels import checked_labels
from moola.models.controls.linear_head import LinearHead
from moola.models.controls.stored import Layout, Tensors, check_layout
from moola.models.folds import forward_chaining_folds
from moola.models.inputs import MAX_FEATURES, Inputs, check_features
from moola.models.weights.checkpoint import save_checkpoint

_PREDICT_BATCH = 512  # a window may become 50,000 numbers on its way
_LEAST_PROBABILITY = float(np.finfo(np.float64).tiny)  # its logarithm is finite


class ClassicalClassifier(WindowClassifier, BaseEstimator):
    """Base of the models that are not nets: ``fit``, ``predict_proba``, ``save`` and ``load``.

    A subclass turns what it is given into a checked matrix (`_matrix`), fits it (`_fit_matrix`),
    and gives and takes back its state as arrays. `most` are the sizes of these arrays that training
    decides, by name, and the largest of each that is stored.
    """

    most: ClassVar[Mapping[str, int]] = {}

    @abstractmethod
    def _matrix(self, X: NDArray, features: NDArray | None, *, fit: bool) -> NDArray:
        """Return checked rows of numbers; with `fit`, learn what later ones are checked by."""

    @abstractmethod
    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        """Fit class indices 0 to K - 1."""

    @abstractmethod
    def _proba(self, rows: NDArray) -> NDArray[np.float64]:
        """Return class probabilities of what `_matrix` returned, shape (n, K)."""

    @abstractmethod
    def _arrays(self) -> Tensors:
        """Return the fitted arrays."""

    def _sizes(self) -> dict[str, int]:
        """Return the sizes that `most` names."""
        return {}

    @abstractmethod
    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of every stored array, by name.

        Parameters
        ----------
        num_classes
            K.
        state
            What `save` states beside the arrays, checked.
        """

    @abstractmethod
    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        """Take back what `_arrays` returned, laid out as `layout` says.

        Raises CheckpointError for values that training does not write.
        """

    @abstractmethod
    def _shape_state(self) -> dict[str, Any]:
        """Return what later inputs are checked and scaled by, JSON-ready."""

    @abstractmethod
    def _restore_shape(self, values: Mapping[str, Any]) -> None:
        """Take back what `_shape_state` returned."""

    def fit(self, X: NDArray, y: NDArray, *, features: NDArray | None = None) -> Self:
        """Train; see the class for the shapes of X. `features` take the place of the 20 computed.

        Parameters
        ----------
        X
            Windows, or a matrix of features.
        y
            Any sortable labels, shape (n,).
        features
            Shape (n, F), F at most 20, beside windows.

        Returns
        -------
        Self
            The estimator.

        Raises
        ------
        BadInput
            If shapes, values, labels or parameters cannot be used; the estimator is then what it
            was before.
        """
        with self._rollback_on_error():
            matrix = self._matrix(X, features, fit=True)
            self.classes_, target = checked_labels(matrix, _labels(y))
            self._fit_matrix(matrix, target)
        return self

    def predict_proba(self, X: NDArray, *, features: NDArray | None = None) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K), columns as ``classes_``."""
        check_is_fitted(self, "classes_")
        rows = self._matrix(X, features, fit=False)
        starts = range(0, len(rows), _PREDICT_BATCH)
        return np.concatenate([self._proba(rows[i : i + _PREDICT_BATCH]) for i in starts])

    def logits(self, X: NDArray) -> NDArray[np.float64]:
        """Return the logarithms of the probabilities, shape (n, K), finite where one is 0."""
        return np.asarray(np.log(np.maximum(self.predict_proba(X), _LEAST_PROBABILITY)))

    def save(self, folder: Path, *, extra: dict[str, Any] | None = None) -> str:
        """Write ``model.safetensors`` and ``config.json``; return the weights' SHA-256.

        Raises CheckpointError if the model is larger than what is read back.
        """
        check_is_fitted(self, "classes_")
        sizes = self._sizes()
        for name, most in self.most.items():
            if sizes[name] > most:
                raise CheckpointError(
                    f"model {self.model_name} has {sizes[name]} {name}",
                    limit=f"at most {most}",
                    remedy="Train on fewer windows",
                )
        config = {
            "model": self.model_name,
            "params": self.get_params(),
            "classes": self.classes_.tolist(),
            "state": {**self._shape_state(), **sizes},
            **(extra or {}),
        }
        arrays = self._arrays()
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
        return save_checkpoint(folder, tensors, config)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read what ``save`` wrote; raises CheckpointError if it does not fit.

        Every array is checked before it is used. `device` is there for the nets' sake: these models
        run on the CPU.
        """
        with cls._reading(folder) as (checkpoint, params):
            model = cls(**params)
            state = checkpoint.config["state"]
            model.classes_ = np.asarray(checkpoint.config["classes"])
            model._restore_shape(state)
            arrays = {k: t.numpy() for k, t in checkpoint.tensors.items()}
            check_layout(arrays, model.layout(len(model.classes_), state))
            model._take(arrays)
        return model


class FlatClassifier(ClassicalClassifier):
    """Base of the models of features: X is a matrix of shape (n, d), d at most 20, or windows.

    From OHLC windows in price units, shape (n, T, 4), the 20 features are computed. What was
    trained on windows wants windows of as many bars.
    """

    window_bars_: int | None

    def _matrix(self, X: NDArray, features: NDArray | None, *, fit: bool) -> NDArray:
        windows = (
            np.asarray(X).ndim == 3 if fit else getattr(self, "window_bars_", None) is not None
        )
        if windows:
            X = check_windows(X, window_bars=None if fit else self.window_bars_)
            if fit:
                self.window_bars_ = int(X.shape[1])
            X = features20(X) if features is None else check_features(features, len(X))
        elif features is not None:
            raise BadInput(
                f"features are given beside an X of shape {np.asarray(X).shape}",
                limit="windows of shape (n, T, 4)",
                remedy="Give the features as X, or windows as X",
            )
        elif fit:
            self.window_bars_ = None
        return self._checked(X, fit=fit)

    def _checked(self, matrix: NDArray, *, fit: bool) -> NDArray[np.float64]:
        try:
            rows = validate_data(self, matrix, reset=fit, dtype=np.float64)
        except ValueError as error:
            raise _readable(error) from None
        if rows.shape[1] > MAX_FEATURES:
            raise BadInput(
                f"X has {rows.shape[1]} features",
                limit=f"at most {MAX_FEATURES}",
                remedy="Choose fewer",
            )
        return np.asarray(rows)

    @property
    def num_parameters(self) -> int | None:
        """Numbers fitted; None before the fit, where they depend on the data."""
        return None

    def _shape_state(self) -> dict[str, Any]:
        return {"window_bars": self.window_bars_, "num_features": int(self.n_features_in_)}

    def _restore_shape(self, values: Mapping[str, Any]) -> None:
        self.window_bars_ = values["window_bars"]
        self.n_features_in_ = int(values["num_features"])


class SeriesClassifier(ClassicalClassifier):
    """Base of the models of windows as they are: OHLC windows, which are normalised, or series.

    X has shape (n, T, 4), or with `input_kind` ``series`` (n, T, C); features are not looked at.
    """

    least_bars: ClassVar[int]
    input_kind: str
    inputs_: Inputs

    @abstractmethod
    def _fit_transform(self, windows: NDArray[np.float64]) -> NDArray[np.float32]:
        """Learn what the transform needs from scaled windows, shape (n, C, T); transform them."""

    @abstractmethod
    def _transform(self, windows: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the numbers that scaled windows, shape (n, C, T), are turned into, (n, d)."""

    @abstractmethod
    def _answers(self, matrix: NDArray) -> NDArray[np.float64]:
        """Return class probabilities of transformed windows, shape (n, K)."""

    def _proba(self, rows: NDArray) -> NDArray[np.float64]:
        return self._answers(self._transform(rows))

    def _matrix(self, X: NDArray, features: NDArray | None, *, fit: bool) -> NDArray:
        if features is not None:
            raise BadInput(
                f"features are given to {self.model_name}",
                limit="windows alone",
                remedy="Leave them out, or use logreg or enhanced_simple_lstm",
            )
        if not fit:
            return self._channels_first(self.inputs_.check(X)[0])
        self.inputs_, windows, _ = Inputs.learn(X, None, kind=self.input_kind)
        if self.inputs_.window_bars < self.least_bars:
            raise BadInput(
                f"windows have {self.inputs_.window_bars} bars",
                limit=f"at least {self.least_bars} for {self.model_name}",
                remedy="Use longer windows",
            )
        self._set_shape()
        return self._fit_transform(self._channels_first(windows))

    def _shape_state(self) -> dict[str, Any]:
        return self.inputs_.to_dict()

    def _restore_shape(self, values: Mapping[str, Any]) -> None:
        self.inputs_ = Inputs.from_dict(values, kind=self.input_kind)
        self._set_shape()

    def _set_shape(self) -> None:
        self.window_bars_ = self.inputs_.window_bars
        self.n_features_in_ = self.inputs_.num_channels

    def _channels_first(self, windows: NDArray[np.float32]) -> NDArray[np.float64]:
        scaled = self.inputs_.windows(windows)
        return np.ascontiguousarray(scaled.transpose(0, 2, 1), dtype=np.float64)


@estimator
class LogisticFeaturesModel(FlatClassifier):
    """Logistic regression on the features.

    The strength of the ridge penalty is chosen by log-loss on forward-chaining folds of the
    training windows, with `gap_windows` left out between train and validation; where they are too
    few for a fold, it is the middle one (``head_.num_folds`` is 0).
    """

    model_name = "logreg"
    penalties: ClassVar[tuple[float, ...]] = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)

    seed: int = 17
    gap_windows: int = 19

    @property
    def num_parameters(self) -> int:
        """Weights and biases; before the fit, those of 20 features and two classes."""
        return self.head_.num_parameters if hasattr(self, "head_") else MAX_FEATURES + 1

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        folds = forward_chaining_folds(target, gap_windows=self.gap_windows)
        self.head_ = LinearHead.fit(matrix, target, penalties=self.penalties, folds=folds)

    def _proba(self, rows: NDArray) -> NDArray[np.float64]:
        return self.head_.proba(rows)

    def _arrays(self) -> Tensors:
        return self.head_.tensors()

    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of the head's arrays."""
        return LinearHead.layout(int(state["num_features"]), num_classes)

    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        self.head_ = LinearHead.from_tensors(arrays)


def _labels(y: NDArray) -> NDArray:
    try:
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
    except ValueError as error:
        raise _readable(error) from None
    return np.asarray(labels)


def _readable(error: ValueError) -> BadInput:
    """Return scikit-learn's complaint, in its own words, as one of Moola's errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return BadInput(
        lines[0], limit="finite numbers, one row a window", remedy=lines[-1] if lines[1:] else None
    )
