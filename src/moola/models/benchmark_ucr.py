"""MiniRocket on the UCR sets that ship with sktime, beside the published accuracies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moola.errors import BadInput, ConfigError
from moola.models.minirocket import MiniRocketModel

# Dempster, Schmidt and Webb (KDD 2021), results on the default split, mean of resamples' seeds.
PUBLISHED = {"ItalyPowerDemand": 0.9689, "GunPoint": 0.9933, "ArrowHead": 0.8629}
TOLERANCE = 0.02
NUM_KERNELS = 10_000  # the paper's


@dataclass(frozen=True, kw_only=True)
class UcrResult:
    """Accuracy on one set's default split.

    Attributes
    ----------
    num_train, num_test, num_classes, num_bars
        Of the set.
    accuracies
        On the test part, one a seed.
    published
        The paper's, None where the set is not among the checked ones.
    """

    name: str
    num_train: int
    num_test: int
    num_classes: int
    num_bars: int
    accuracies: tuple[float, ...]
    published: float | None

    @property
    def accuracy(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.accuracies))

    @property
    def holds(self) -> bool:
        """Whether the mean is within the tolerance of the published figure, if there is one."""
        return self.published is None or abs(self.accuracy - self.published) <= TOLERANCE


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
    names: Sequence[str] = tuple(PUBLISHED),
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    num_kernels: int = NUM_KERNELS,
    on_done: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> tuple[UcrResult, ...]:
    """Train MiniRocket on the train part of each set and score it on the test part.

    Parameters
    ----------
    names
        Sets that ship with sktime.
    seeds
        One training each.
    num_kernels
        Of MiniRocket.
    on_done
        Called with a set, the seeds done and their number.

    Returns
    -------
    tuple of UcrResult
        In the order of `names`.

    Raises
    ------
    ConfigError
        If a name is not among :func:`shipped_sets`.
    BadInput
        If a set's series differ in length.
    """
    known = shipped_sets()
    for name in names:
        if name not in known:
            raise ConfigError(
                f"set is {name!r}",
                limit=f"one of {', '.join(known)}",
                remedy="Nothing is downloaded: name a set that ships with sktime",
            )
    results = []
    for name in names:
        X_train, y_train = _part(name, "train")
        X_test, y_test = _part(name, "test")
        accuracies = []
        for seed in seeds:
            model = MiniRocketModel(seed=seed, num_kernels=num_kernels, input_kind="series")
            accuracies.append(float((model.fit(X_train, y_train).predict(X_test) == y_test).mean()))
            on_done(name, len(accuracies), len(seeds))
        results.append(
            UcrResult(
                name=name,
                num_train=len(X_train),
                num_test=len(X_test),
                num_classes=len(np.unique(y_train)),
                num_bars=X_train.shape[1],
                accuracies=tuple(accuracies),
                published=PUBLISHED.get(name),
            )
        )
    return tuple(results)


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
