"""The controls on the UCR sets that ship with sktime, beside the published accuracies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.config.base import check_choice
from moola.errors import BadInput, ConfigError
from moola.models.catalogue import get_model

# MiniRocket: Dempster, Schmidt and Webb (KDD 2021), default split, mean over seeds. QUANT: the
# authors' repository, resample 0, which is the default split. Hydra with MultiRocket: the authors'
# repository, mean over 30 resamples.
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "minirocket": {"ItalyPowerDemand": 0.9689, "GunPoint": 0.9933, "ArrowHead": 0.8629},
    "quant": {
        "ItalyPowerDemand": 0.9670,
        "GunPoint": 0.9867,
        "ArrowHead": 0.8286,
        "OSULeaf": 0.8760,
    },
    "hydra_multirocket": {"GunPoint": 0.9987, "ArrowHead": 0.8971, "OSULeaf": 0.9690},
}
OF_THE_PAPER: Mapping[str, Mapping[str, Any]] = {
    "minirocket": {"num_kernels": 10_000},
    "quant": {"min_leaf_windows": 1},
    "hydra_multirocket": {},
}
RESAMPLED = ("hydra_multirocket",)
TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class UcrResult:
    """Accuracy on one set.

    Attributes
    ----------
    num_train, num_test, num_classes, num_bars
        Of the set.
    accuracies
        On the test part, one a seed.
    resampled
        Whether every seed but the first splits the set anew, by class, as the authors' figure did.
    published
        The authors', None where the set is not among the checked ones.
    """

    name: str
    num_train: int
    num_test: int
    num_classes: int
    num_bars: int
    accuracies: tuple[float, ...]
    published: float | None
    resampled: bool = False

    @property
    def accuracy(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.accuracies))

    @property
    def slack(self) -> float:
        """How far the mean may be from the published one: resamples have their own chance."""
        if not self.resampled or len(self.accuracies) < 2:
            return TOLERANCE
        return (
            TOLERANCE + 2.0 * float(np.std(self.accuracies, ddof=1)) / len(self.accuracies) ** 0.5
        )

    @property
    def holds(self) -> bool:
        """Whether the mean is within `slack` of the published figure, if there is one."""
        return self.published is None or abs(self.accuracy - self.published) <= self.slack


def shipped_sets() -> tuple[str, ...]:
    """Return the names of the classification sets with a default split inside sktime's wheel."""
    spec = find_spec("sktime")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "datasets" / "data"
    parts = ("TRAIN", "TEST")
    return tuple(
        sorted(
            folder.name
            for folder in data.iterdir()
            if all((folder / f"{folder.name}_{part}.ts").exists() for part in parts)
        )
    )


def bench_ucr(
    names: Sequence[str] = (),
    *,
    model: str = "minirocket",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    on_done: Callable[[str, int, int], None] = lambda name, done, total: None,
    **params: Any,
) -> tuple[UcrResult, ...]:
    """Train a control on the train part of each set and score it on the test part.

    Parameters
    ----------
    names
        Sets that ship with sktime; empty: those with a published figure.
    model
        One of `PUBLISHED`.
    seeds
        One training each.
    on_done
        Called with a set, the seeds done and their number.
    params
        Of the model, over the paper's.

    Returns
    -------
    tuple of UcrResult
        In the order of `names`.

    Raises
    ------
    ConfigError
        If a name is not among :func:`shipped_sets`, or the model is none of these.
    BadInput
        If a set's series differ in length.
    """
    check_choice("model", model, tuple(PUBLISHED))
    names = names or tuple(PUBLISHED[model])
    shipped = shipped_sets()
    for name in names:
        if name not in shipped:
            raise ConfigError(
                f"set is {name!r}",
                limit=f"one of {', '.join(shipped)}",
                remedy="Nothing is downloaded: name a set that ships with sktime",
            )
    results = []
    for name in names:
        parts = _part(name, "train"), _part(name, "test")
        accuracies = []
        for seed in seeds:
            (X, y), (X_test, y_test) = parts
            if model in RESAMPLED and seed != seeds[0]:
                X, y, X_test, y_test = _resampled(parts, seed)
            estimator = get_model(
                model, seed=seed, input_kind="series", **{**OF_THE_PAPER[model], **params}
            )
            accuracies.append(float((estimator.fit(X, y).predict(X_test) == y_test).mean()))
            on_done(name, len(accuracies), len(seeds))
        (X, y), (X_test, _) = parts
        results.append(
            UcrResult(
                name=name,
                num_train=len(X),
                num_test=len(X_test),
                num_classes=len(np.unique(y)),
                num_bars=X.shape[1],
                accuracies=tuple(accuracies),
                published=PUBLISHED[model].get(name),
                resampled=model in RESAMPLED,
            )
        )
    return tuple(results)


def _resampled(
    parts: tuple[tuple[NDArray, NDArray], ...], seed: int
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Split a whole set anew into parts of the same size, with the same share of each class."""
    from sklearn.model_selection import train_test_split

    X, y = (np.concatenate(both) for both in zip(*parts, strict=True))
    train, test = train_test_split(
        np.arange(len(X)), train_size=len(parts[0][0]), stratify=y, random_state=seed
    )
    return X[train], y[train], X[test], y[test]


def _part(name: str, part: str) -> tuple[NDArray, NDArray]:
    """Return one part of a set: series of shape (n, T, C), labels of shape (n,)."""
    from sktime.datasets import load_UCR_UEA_dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            X, y = load_UCR_UEA_dataset(name, split=part, return_X_y=True, return_type="numpy3D")
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"set {name} cannot be read as one array: {error}",
                limit="series of equal length",
                remedy="Choose another set",
            ) from None
    return np.asarray(X, dtype=np.float64).transpose(0, 2, 1), np.asarray(y)
