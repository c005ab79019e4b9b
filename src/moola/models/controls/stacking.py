"""Stacking: members' out-of-fold answers, made on forward-chaining folds, weighed by a logit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moola.errors import BadInput, ConfigError
from moola.models.base import estimator
from moola.models.controls.classical import FlatClassifier, LogisticFeaturesModel
from moola.models.controls.linear_head import LinearHead
from moola.models.controls.stored import Layout, Tensors
from moola.models.controls.trees import RandomForestModel, XGBoostModel
from moola.models.folds import forward_chaining_folds

_MEMBERS: dict[str, type[FlatClassifier]] = {
    m.model_name: m for m in (LogisticFeaturesModel, RandomForestModel, XGBoostModel)
}
_LEAST = 1e-4


@estimator
class StackingModel(FlatClassifier):
    """Stacked generalisation (Wolpert, 1992) of flat models.

    Each member answers for windows later than those it was trained on (forward-chaining folds,
    `gap_windows` left out in between; folds are never random, which would leak neighbouring
    windows). A logistic regression weighs the log of these answers; the members are then trained
    on all windows.

    Parameters
    ----------
    seed
        Of everything drawn at random.
    gap_windows
        Windows left out between the train and the validation part of a fold.
    members
        Names of flat models, at least two of ``logreg``, ``rf`` and ``xgb``.
    """

    model_name = "stack"
    penalties: ClassVar[tuple[float, ...]] = (0.1,)

    seed: int = 17
    gap_windows: int = 19
    members: tuple[str, ...] = ("logreg", "rf")

    @property
    def num_parameters(self) -> int | None:
        """Numbers of all members and of the head; None before the fit."""
        if not hasattr(self, "head_"):
            return None
        return self.head_.num_parameters + sum(m.num_parameters or 0 for m in self.fitted_.values())

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        folds = forward_chaining_folds(
            target, gap_windows=self.gap_windows, every_class_in_val=False
        )
        rows = np.concatenate([np.zeros(0, np.int64), *(val for _, val in folds)])
        if len(np.unique(target[rows])) < len(self.classes_):
            raise BadInput(
                f"{len(target)} windows leave no forward-chaining folds whose validation parts "
                "hold every class",
                limit="out-of-fold answers for every class",
                remedy="Add windows, or check that the classes do not follow one another in time",
            )
        answers = [
            self._answers(self._trained(matrix[train], target[train]), matrix[val])
            for train, val in folds
        ]
        self.out_of_fold_ = rows
        self.head_ = LinearHead.fit(
            np.concatenate(answers), target[rows], penalties=self.penalties, folds=()
        )
        self.fitted_ = self._trained(matrix, target)

    def _trained(self, matrix: NDArray, target: NDArray[np.int64]) -> dict[str, FlatClassifier]:
        return {name: member.fit(matrix, target) for name, member in self._unfitted().items()}

    def _unfitted(self) -> dict[str, FlatClassifier]:
        unknown = [name for name in self.members if name not in _MEMBERS]
        if unknown or len(set(self.members)) < 2:
            raise ConfigError(
                f"members are {list(self.members)}",
                limit=f"at least two of {', '.join(_MEMBERS)}",
                remedy="Give two different members",
            )
        shared = {"seed": self.seed, "gap_windows": self.gap_windows}
        kinds = {name: _MEMBERS[name] for name in self.members}
        return {
            name: kind(**{k: v for k, v in shared.items() if k in kind._get_param_names()})
            for name, kind in kinds.items()
        }

    @staticmethod
    def _answers(members: Mapping[str, FlatClassifier], matrix: NDArray) -> NDArray[np.float64]:
        """Return the log-probability of each class by each member, shape (n, members * K)."""
        proba = [member.predict_proba(matrix) for member in members.values()]
        return np.log(np.clip(np.concatenate(proba, axis=1), _LEAST, 1.0))

    def _proba(self, rows: NDArray) -> NDArray[np.float64]:
        return self.head_.proba(self._answers(self.fitted_, rows))

    def _arrays(self) -> Tensors:
        arrays = self.head_.tensors()
        for name, member in self.fitted_.items():
            arrays |= {f"{name}.{k}": array for k, array in member._arrays().items()}
        return arrays

    def _sizes(self) -> dict[str, int]:
        return {
            f"{name}.{size}": number
            for name, member in self.fitted_.items()
            for size, number in member._sizes().items()
        }

    @property
    def most(self) -> Mapping[str, int]:  # type: ignore[override]
        """The largest sizes of the members' arrays."""
        members = self._unfitted().items()
        return {f"{name}.{size}": n for name, m in members for size, n in m.most.items()}

    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of the head's arrays and, by name, of the members'."""
        members = self._unfitted()
        layout = dict(LinearHead.layout(len(members) * num_classes, num_classes))
        for name, member in members.items():
            of_member = {"num_features": state["num_features"], **_of_member(name, state)}
            for key, entry in member.layout(num_classes, of_member).items():
                layout[f"{name}.{key}"] = entry
        return layout

    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        self.head_ = LinearHead.from_tensors(arrays)
        self.fitted_ = self._unfitted()
        for name, member in self.fitted_.items():
            member.classes_ = np.arange(len(self.classes_))
            member._restore_shape({"window_bars": None, "num_features": self.n_features_in_})
            member._take(_of_member(name, arrays))


def _of_member(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a member's own part of values by name."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
