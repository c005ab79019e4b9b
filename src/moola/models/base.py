"""The base of every estimator, net or not: parameters, labels, a fit that can be rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin

from moola.errors import CheckpointError, MoolaError, one_line
from moola.models.weights.checkpoint import Checkpoint, read_checkpoint

_Class = TypeVar("_Class", bound=type)


@dataclass_transform(kw_only_default=True, eq_default=False)
def estimator(cls: _Class) -> _Class:
    """Make a keyword-only dataclass of an estimator: its fields are its parameters.

    scikit-learn reads parameters from the constructor's signature, which the dataclass writes;
    equality and representation remain scikit-learn's.
    """
    return dataclass(kw_only=True, eq=False, repr=False)(cls)  # type: ignore[return-value]


class WindowClassifier(ClassifierMixin):
    """Base of all estimators of windows; scikit-learn's ``BaseEstimator`` is its sibling.

    Attributes
    ----------
    classes_
        Labels in sorted order, shape (K,).
    """

    model_name: ClassVar[str]
    classes_: NDArray

    def predict_proba(self, X: NDArray, *, features: NDArray | None = None) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K), columns as ``classes_``."""
        raise NotImplementedError

    def logits(self, X: NDArray) -> NDArray[np.float64]:
        """Return logits, or the logarithms of probabilities, shape (n, K)."""
        raise NotImplementedError

    def predict(self, X: NDArray, *, features: NDArray | None = None) -> NDArray:
        """Return the most probable label of each window, shape (n,)."""
        best = self.predict_proba(X, features=features).argmax(axis=1)
        return np.asarray(self.classes_[best])

    @contextmanager
    def _rollback_on_error(self) -> Iterator[None]:
        """Leave the estimator as it was before if anything is raised inside."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    @classmethod
    @contextmanager
    def _reading(cls, folder: Path) -> Iterator[tuple[Checkpoint, dict[str, Any]]]:
        """Yield a checkpoint and the constructor's arguments in it; CheckpointError if it is none.

        Errors that Moola raises on purpose pass as they are.
        """
        checkpoint = read_checkpoint(folder)
        try:
            params = checkpoint.config["params"].items()
            yield checkpoint, {k: tuple(v) if isinstance(v, list) else v for k, v in params}
        except MoolaError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} is not a {cls.model_name} checkpoint: {one_line(error)}"
            ) from None
