"""The audit of synthetic windows: where they come from, and whether they look like real ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moola.data.audit.moments import MOMENT_NAMES, window_moments
from moola.data.audit.trail import Check, name_windows
from moola.data.audit.twosample import SampleComparison, compare_samples
from moola.data.features import FEATURE_NAMES, features20
from moola.data.splits import Split
from moola.data.store.sets import WindowSet
from moola.data.synthetic import SyntheticSet
from moola.data.windows import check_windows
from moola.errors import BadInput

MIN_P = 0.1
MAX_AUC = 0.6  # of a classifier that tells synthetic windows from real ones
STATISTICS = (*FEATURE_NAMES, *MOMENT_NAMES)


def synthetic_quality(
    synthetic: SyntheticSet,
    labeled: WindowSet,
    train: NDArray[np.int64],
    *,
    num_permutations: int = 999,
    random_state: int = 0,
) -> SampleComparison:
    """Test synthetic windows against the real train windows, statistic by statistic.

    The 20 features and the moments of both are computed from the windows, never read from a file. A
    block is a stretch of
    the time line as long as a window with its label horizon; a synthetic window belongs to the
    block of its parent. Raises DataError where train holds too few blocks.
    """
    first = labeled.times.first
    span = int((labeled.times.label_end - first).max()) + 1
    return compare_samples(
        window_statistics(labeled.X_ohlc[train]),
        window_statistics(synthetic.X_ohlc),
        real_block=first[train] // span,
        synthetic_block=first[synthetic.parent] // span,
        names=STATISTICS,
        num_permutations=num_permutations,
        random_state=random_state,
    )


def window_statistics(X_NTC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return features and moments of windows, shape (n, 28), in the order of ``STATISTICS``."""
    return np.column_stack([features20(X_NTC), window_moments(X_NTC)])


def synthetic_checks(
    synthetic: SyntheticSet, labeled: WindowSet, split: Split
) -> tuple[list[Check], SampleComparison | None]:
    """Check that a synthetic set may be appended to the train part of a split.

    The quality is tested only if everything else holds; a p below 0.1 fails, and so does a
    classifier's ROC-AUC above 0.6.
    """
    outside = np.setdiff1d(synthetic.parent, split.train)
    exists = synthetic.parent[(synthetic.parent >= 0) & (synthetic.parent < len(labeled))]
    same = (synthetic.labeled, synthetic.labeled_sha256) == (labeled.name, labeled.sha256)
    faults = _content_faults(synthetic, labeled) if same and len(exists) == len(synthetic) else []
    checks = [
        Check(
            name="synthetic windows were made from this set",
            passed=same,
            detail=f"{synthetic.name} was made from {synthetic.labeled} "
            f"{synthetic.labeled_sha256[:12]}, "
            f"the set is {labeled.name} {labeled.sha256[:12]}",
        ),
        Check(
            name="synthetic windows were made from train windows only",
            passed=not len(outside),
            detail=name_windows(outside, f"{len(synthetic)} windows, all parents in train"),
        ),
        Check(
            name="synthetic windows are valid and labelled as their parents",
            passed=not faults,
            detail="; ".join(faults) or f"{len(synthetic)} windows",
        ),
    ]
    if not all(c.passed for c in checks):
        return checks, None
    report = synthetic_quality(synthetic, labeled, split.train)
    worst = min(report.features, key=lambda f: f.p_holm)
    checks.append(
        Check(
            name=f"synthetic windows look like real ones (p of at least {MIN_P:g}, AUC of at most "
            f"{MAX_AUC:g})",
            passed=report.p_value >= MIN_P and report.auc is not None and report.auc <= MAX_AUC,
            detail=f"smallest Holm-corrected p is {report.p_value:.3f} ({worst.name}, KS "
            f"{worst.ks:.3f}, effect {worst.effect:+.2f}), classifier AUC {report.auc:.3f}; "
            f"{report.can_detect()}",
        )
    )
    return checks, report


def _content_faults(synthetic: SyntheticSet, labeled: WindowSet) -> list[str]:
    faults = []
    if synthetic.X_ohlc.shape[1:] != labeled.X_ohlc.shape[1:]:
        return [f"windows of shape {synthetic.X_ohlc.shape[1:]}, real {labeled.X_ohlc.shape[1:]}"]
    try:
        check_windows(synthetic.X_ohlc)
    except BadInput as error:
        faults.append(str(error))
    assert labeled.y is not None
    wrong = np.flatnonzero(synthetic.y != labeled.y[synthetic.parent])
    if len(wrong):
        faults.append(name_windows(wrong, "") + " have another label than their parents")
    if not faults and not np.array_equal(synthetic.X_feats20, features20(synthetic.X_ohlc)):
        faults.append("stored features are not those of the windows")
    return faults
