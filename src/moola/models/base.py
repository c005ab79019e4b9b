"""What every estimator has, net or not: labels of answers, a fit that fails without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin

from moola.errors import CheckpointError, MoolaError, one_line
from moola.models.weights.checkpoint import Checkpoint, read_checkpoint


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

    def predict(self, X: NDArray, *, features: NDArray | None = None) -> NDArray:
        """Return the most probable label of each window, shape (n,)."""
        best = self.predict_proba(X, features=features).argmax(axis=1)
        return np.asarray(self.classes_[best])

    @contextmanager
    def _as_before_on_failure(self) -> Iterator[None]:
        """Run a fit; whatever is raised in it, the estimator is then what it was before."""
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
