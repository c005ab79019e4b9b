"""Results of a paired comparison. Every difference is candidate minus baseline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Candidate minus baseline in one metric.

    Attributes
    ----------
    metric
        Its name.
    estimate
        The difference; None where the metric is undefined.
    low, high
        Ends of the interval; None with `reason` where there is none.
    p_value
        Two-sided, against no difference; None without an interval.
    minimum_detectable
        Smallest true difference detected with 80 % power at this n; None without an interval.
    power
        Power to detect a true difference, by its size; for log-loss (of a better candidate) and
        accuracy, empty without an interval.
    margin
        Largest negligible difference.
    higher_is_better
        Sign convention of the metric.
    superior, inferior
        The whole interval lies on the candidate's, or on the baseline's, side of 0.
    non_inferior
        The whole interval lies on the better side of the margin.
    equivalent
        The whole interval lies inside plus and minus the margin (two one-sided tests, each at
        half of one minus the confidence: stricter than the customary 90 % interval).
    reason
        Why something is None.
    """

    metric: str
    estimate: float | None
    low: float | None
    high: float | None
    p_value: float | None
    minimum_detectable: float | None
    power: dict[str, float]
    margin: float
    higher_is_better: bool
    superior: bool
    inferior: bool
    non_inferior: bool
    equivalent: bool
    reason: str | None = None

    def interval(self) -> dict[str, float | None]:
        """Return ``{"estimate", "low", "high"}``."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The comparison of a candidate with a baseline on the same windows.

    Attributes
    ----------
    num_windows, block_length
        n, and windows per block: those that share bars, or more where the differences depend on
        each other for longer.
    effective_windows
        Number of blocks without shared bars.
    persistence
        Upper confidence limit of the first autocorrelation of the log-loss differences.
    horizons_apart
        Every label is known before the next window is predicted.
    confidence
        Two-sided, of every interval.
    deltas
        `Delta` for ``log_loss brier accuracy pr_auc ece``.
    mcnemar_p
        Exact McNemar test of equal accuracy. It treats windows as independent, so it is only a
        second opinion. 1 without discordant windows.
    num_only_candidate, num_only_baseline
        Windows that only the candidate, or only the baseline, classifies correctly.
    identical_predictions
        No probability differs by more than 1e-6.
    identical_labels
        The most probable class is the same in every window.
    """

    num_windows: int
    block_length: int
    effective_windows: float
    persistence: float
    horizons_apart: bool
    confidence: float
    deltas: dict[str, Delta]
    mcnemar_p: float
    num_only_candidate: int
    num_only_baseline: int
    identical_predictions: bool
    identical_labels: bool

    @property
    def minimum_detectable(self) -> dict[str, float | None]:
        """Smallest true difference of each metric detected with 80 % power at this n."""
        return {name: delta.minimum_detectable for name, delta in self.deltas.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return asdict(self)
