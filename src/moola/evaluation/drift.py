"""Drift of served windows from the training windows, in features and scores."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from moola.config.base import check_count
from moola.data.audit.twosample import compare_samples
from moola.errors import DataError

NUM_BINS = 10
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class DriftRow:
    """The drift of one feature or score.

    Attributes
    ----------
    psi
        Population stability index over ten bins of equal training frequency.
    psi_noise
        95 % quantile of the index without drift, at an effective sample size of one per block.
    ks, p, p_holm
        Kolmogorov-Smirnov distance, its block-permutation p-value, and the same after Holm's
        correction over all rows.
    effect
        Difference of the means in pooled standard deviations (served less trained).
    drifted
        Whether `p_holm` is below 0.05 and `psi` above `psi_noise`.
    """

    name: str
    psi: float
    psi_noise: float
    ks: float
    p: float
    p_holm: float
    effect: float
    drifted: bool


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """All rows, with the sizes of the samples."""

    rows: tuple[DriftRow, ...]
    num_train: int
    num_served: int
    num_blocks: tuple[int, int]

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the features and scores that drifted."""
        return tuple(row.name for row in self.rows if row.drifted)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "rows": [asdict(r) for r in self.rows], "drifted": self.drifted}


def drift_report(
    train: NDArray[np.floating],
    served: NDArray[np.floating],
    *,
    names: tuple[str, ...],
    block_length: int,
    num_permutations: int = 999,
    random_state: int = 0,
) -> DriftReport:
    """Compare served features and scores with those of the training windows.

    Parameters
    ----------
    train, served
        Rows in time order, shape (n, d) and (m, d); NaN is refused.
    names
        Names of the d columns.
    block_length
        Number of neighbouring windows that may depend on each other.
    num_permutations
        Permutations of whole blocks, at least d / 0.05.
    random_state
        Seed of the permutations.

    Raises
    ------
    DataError
        If a value is NaN or a sample has fewer than 5 blocks.
    ConfigError
        If the smallest possible p-value of so few permutations could not survive the correction.
    """
    check_count("num_permutations", num_permutations, low=math.ceil(len(names) / ALPHA))
    blocks = [np.arange(len(sample)) // block_length for sample in (train, served)]
    compared = compare_samples(
        train,
        served,
        real_block=blocks[0],
        synthetic_block=blocks[1],
        names=names,
        num_permutations=num_permutations,
        random_state=random_state,
        with_classifier=False,
    )
    num_blocks = (int(blocks[0][-1]) + 1, int(blocks[1][-1]) + 1)
    spread = sum(1 / n for n in num_blocks)
    rows = []
    for k, feature in enumerate(compared.features):
        index = population_stability_index(train[:, k], served[:, k])
        noise = float(chi2.ppf(1 - ALPHA, len(_edges(train[:, k], NUM_BINS))) * spread)
        rows.append(
            DriftRow(
                name=feature.name,
                psi=index,
                psi_noise=noise,
                ks=feature.ks,
                p=feature.p,
                p_holm=feature.p_holm,
                effect=feature.effect,
                drifted=feature.p_holm < ALPHA and index > noise,
            )
        )
    return DriftReport(
        rows=tuple(rows), num_train=len(train), num_served=len(served), num_blocks=num_blocks
    )


def population_stability_index(
    train: NDArray[np.floating], served: NDArray[np.floating], *, num_bins: int = NUM_BINS
) -> float:
    """Return the sum over bins of (s - t) ln(s / t), t and s the shares of the two samples.

    Bins hold equal shares of `train`; a value that would fill several of them has its own. Half a
    window is added to each count, so that empty bins give a finite index. Without drift the index
    is approximately chi-squared, with one degree of freedom fewer than bins, times (1 / n + 1 / m).

    References
    ----------
    B. Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University
    (2018).
    """
    if not len(train) or not len(served):
        sizes = f"{len(train)} training and {len(served)} served windows"
        raise DataError(f"there are {sizes}", limit="at least one each")
    edges = _edges(train, num_bins)
    shares = []
    for sample in (train, served):
        counts = np.bincount(np.searchsorted(edges, sample, side="right"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (len(sample) + 0.5 * len(counts)))
    t, s = shares
    return float(((s - t) * np.log(s / t)).sum())


def _edges(train: NDArray[np.floating], num_bins: int) -> NDArray[np.floating]:
    """Return the inner edges of the bins."""
    quantiles = np.quantile(train, np.linspace(0, 1, num_bins + 1)[1:-1])
    edges, counts = np.unique(quantiles, return_counts=True)
    above = np.nextafter(edges[counts > 1], np.inf)
    return np.union1d(edges, above)
