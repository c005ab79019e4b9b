"""Two-sample tests for windows that overlap: whether one set looks like the other.

Windows that share bars are not independent, so the p-value of a plain Kolmogorov-Smirnov test is
far too small. Here whole blocks of neighbouring windows are exchanged between the two samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.errors import DataError

MIN_BLOCKS = 5
_GRID = 1024  # values at which large samples are compared; smaller ones at all of theirs


@dataclass(frozen=True, kw_only=True)
class FeatureComparison:
    """One feature of two samples.

    Attributes
    ----------
    ks
        Largest distance of the two empirical distribution functions, in [0, 1].
    p, p_holm
        Block-permutation p-value, and the same after Holm's correction over all features.
    effect
        Difference of the means in pooled standard deviations (second less first sample).
    detectable_ks
        The 95 % quantile of `ks` under exchanged blocks: a smaller distance is not seen here.
    """

    name: str
    ks: float
    p: float
    p_holm: float
    effect: float
    detectable_ks: float


@dataclass(frozen=True, kw_only=True)
class SampleComparison:
    """How far a synthetic sample is from the real one, and how far the test can see.

    `p_value` is the smallest Holm-corrected p-value; `auc` that of a cross-validated classifier
    told to tell the samples apart (0.5: it cannot), every block whole in one fold; None if it was
    not asked for.
    """

    features: tuple[FeatureComparison, ...]
    p_value: float
    auc: float | None
    num_real: int
    num_synthetic: int
    num_blocks: int
    num_permutations: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        features = [asdict(f) for f in self.features]
        return {**asdict(self), "features": features, "can_detect": self.can_detect()}

    def can_detect(self) -> str:
        """Say in words what the test sees at this size."""
        detectable = [f.detectable_ks for f in self.features]
        return (
            f"{self.num_real} real and {self.num_synthetic} synthetic windows in "
            f"{self.num_blocks} blocks: a KS distance below {min(detectable):.2f} to "
            f"{max(detectable):.2f}, "
            "depending on the feature, cannot be told from chance"
        )


def compare_samples(
    real: NDArray[np.floating],
    synthetic: NDArray[np.floating],
    *,
    real_block: NDArray[np.int64],
    synthetic_block: NDArray[np.int64],
    names: tuple[str, ...],
    num_permutations: int = 999,
    random_state: int = 0,
    with_classifier: bool = True,
) -> SampleComparison:
    """Test whether two samples of features have one distribution.

    Parameters
    ----------
    real, synthetic
        Features, shape (n, d) and (m, d); NaN is refused.
    real_block, synthetic_block
        Block of neighbouring windows that each row (or the row it was made from) belongs to.
    names
        Names of the d features.
    num_permutations
        Exchanges of whole blocks.
    random_state
        Seed of the exchanges.
    with_classifier
        Whether to train the classifier, too.

    Returns
    -------
    SampleComparison
        Every feature with its p-value and what could have been seen.

    Raises
    ------
    DataError
        If a value is NaN or there are fewer than 5 blocks a sample.
    """
    if not (np.isfinite(real).all() and np.isfinite(synthetic).all()):
        raise DataError("a feature is NaN or infinite", limit="finite features")
    blocks = [np.unique(b, return_inverse=True)[1] for b in (real_block, synthetic_block)]
    sizes = [int(b.max()) + 1 if len(b) else 0 for b in blocks]
    if min(sizes) < MIN_BLOCKS:
        raise DataError(
            f"the samples hold {sizes[0]} and {sizes[1]} blocks of windows",
            limit=f"at least {MIN_BLOCKS} each",
            remedy="Take a longer train part or more synthetic windows",
        )
    features = _test_features(
        np.vstack([real, synthetic]).astype(np.float64),
        np.r_[blocks[0], blocks[1] + sizes[0]],
        _exchanges(sizes[0], sum(sizes), num_permutations, random_state),
        num_real=len(real),
        names=names,
    )
    return SampleComparison(
        features=features,
        p_value=min(f.p_holm for f in features),
        auc=classifier_auc(real, synthetic, real_block, synthetic_block)
        if with_classifier
        else None,
        num_real=len(real),
        num_synthetic=len(synthetic),
        num_blocks=sum(sizes),
        num_permutations=num_permutations,
    )


def _test_features(
    pooled: NDArray[np.float64],
    unit: NDArray[np.int64],
    chosen: NDArray[np.float64],
    *,
    num_real: int,
    names: tuple[str, ...],
) -> tuple[FeatureComparison, ...]:
    weight = chosen @ np.bincount(unit).astype(np.float64)
    distances = np.column_stack(
        [_distances(column, unit, chosen, weight) for column in pooled.T]
    )  # (1 + permutations, features)
    p = (distances >= distances[0] - 1e-12).mean(axis=0)
    return tuple(
        FeatureComparison(
            name=name,
            ks=float(distance[0]),
            p=float(raw),
            p_holm=float(corrected),
            effect=_effect(column, num_real),
            detectable_ks=float(np.quantile(distance[1:], 0.95)),
        )
        for name, distance, raw, corrected, column in zip(
            names, distances.T, p, holm(p), pooled.T, strict=True
        )
    )


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Holm's step-down correction of p-values, shape (d,).

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    # Not by `statsmodels`: its `multipletests` collects garbage in every call, for 40 ms.
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def classifier_auc(
    real: NDArray[np.floating],
    synthetic: NDArray[np.floating],
    real_block: NDArray[np.int64],
    synthetic_block: NDArray[np.int64],
) -> float:
    """Return the ROC-AUC of telling the samples apart, by 5 folds of whole blocks.

    A logistic regression on the features and their squares, so that a change of spread is seen as
    well as a change of place. 0.5: it cannot; below 0.5 happens when it learns nothing.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    F = np.vstack([real, synthetic]).astype(np.float64)
    F = np.hstack([F, F**2])
    target = np.r_[np.zeros(len(real), dtype=int), np.ones(len(synthetic), dtype=int)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    score = cross_val_predict(
        model,
        F,
        target,
        groups=np.r_[real_block, synthetic_block],
        cv=GroupKFold(5),
        method="decision_function",
    )
    return float(roc_auc_score(target, score))


def _exchanges(first: int, units: int, num: int, random_state: int) -> NDArray[np.float64]:
    """Which units are in the first sample, shape (1 + num, units); row 0 is what was observed."""
    rng = np.random.default_rng(random_state)
    chosen = np.zeros((1 + num, units))
    chosen[0, :first] = 1.0
    for row in chosen[1:]:
        row[rng.permutation(units)[:first]] = 1.0
    return chosen


def _distances(
    pooled: NDArray[np.float64],
    unit: NDArray[np.int64],
    chosen: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    """KS distance of every exchange, shape (1 + num,)."""
    grid = np.unique(pooled)
    if len(grid) > _GRID:
        grid = np.unique(np.quantile(grid, np.linspace(0, 1, _GRID), method="nearest"))
    cell = np.minimum(np.searchsorted(grid, pooled), len(grid) - 1)
    counts = np.zeros((chosen.shape[1], len(grid)))
    np.add.at(counts, (unit, cell), 1.0)
    below = np.cumsum(counts, axis=1)
    first = chosen @ below
    second = below.sum(axis=0) - first
    gap = first / weight[:, None] - second / (len(pooled) - weight)[:, None]
    return np.asarray(np.abs(gap).max(axis=1))


def _effect(pooled: NDArray[np.float64], num_first: int) -> float:
    a, b = pooled[:num_first], pooled[num_first:]
    spread = np.sqrt((a.var() + b.var()) / 2)
    difference = b.mean() - a.mean()
    return float(difference / max(spread, 1e-12))
