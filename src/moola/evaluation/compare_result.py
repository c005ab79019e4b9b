"""What a paired comparison finds. Every difference is candidate minus baseline."""

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
        Two-sided, of no difference; None where there is no interval.
    minimum_detectable
        Size of a true difference that would be found with a power of 80 % at this n; None where
        there is no interval.
    power
        How often a true difference of this size would be found at this n, by size; for log-loss
        (of a better candidate) and accuracy, empty where there is no interval.
    margin
        Difference small enough not to matter.
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
    """What a paired comparison of a candidate with a baseline found.

    Attributes
    ----------
    num_windows, block_length
        n, and the windows of a block: those that share bars, or as many as the differences
        remember, whichever is more.
    effective_windows
        Blocks that share no bar: n over the windows that share bars.
    persistence
        Greatest first autocorrelation of the log-loss differences that they leave likely.
    horizons_apart
        Every label is known before the next window is answered.
    confidence
        Two-sided, of every interval.
    deltas
        `Delta` for ``log_loss brier accuracy pr_auc ece``.
    mcnemar_p
        Exact McNemar test of equal accuracy; takes windows for independent, hence only a second
        opinion. 1 where no window is answered differently.
    num_only_candidate, num_only_baseline
        Windows only the one, or only the other, classifies correctly.
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
        """Smallest true difference of each metric found with a power of 80 % at this n."""
        return {name: delta.minimum_detectable for name, delta in self.deltas.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return asdict(self)
