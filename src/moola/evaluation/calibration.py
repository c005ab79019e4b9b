"""Calibration: reliability bins, and the errors a calibrated model would show by chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter
from scipy.special import ndtr

from moola.errors import BadInput
from moola.evaluation.binning import (
    CalibrationErrors,
    Scheme,
    assign_bins,
    bin_sums,
    default_num_bins,
    errors_from_sums,
)
from moola.evaluation.dependence import persistence
from moola.evaluation.predictions import clean_predictions, clean_probabilities


@dataclass(frozen=True, kw_only=True)
class CalibrationBins:
    """A reliability diagram in numbers. Lists have one entry for each bin that holds windows.

    Attributes
    ----------
    scheme
        ``equal_mass`` or ``equal_width``.
    class_index
        The class whose probability is binned; None: the top label's, against whether it is right.
    num_windows
        n.
    left, right
        Edges; a bin is ``(left, right]``.
    count
        Windows.
    predicted, observed
        Mean probability and share of windows in which the event happened.
    band_low, band_high
        Consistency band: the range of `observed` under perfect calibration, windows taken as
        independent.
    confidence
        Of the band.
    ece, ece_plugin, mce
        Errors over these bins: debiased (``ece`` of `compute_metrics`), plug-in, and of the worst
        bin.
    """

    scheme: Scheme
    class_index: int | None
    num_windows: int
    left: list[float]
    right: list[float]
    count: list[int]
    predicted: list[float]
    observed: list[float]
    band_low: list[float]
    band_high: list[float]
    confidence: float
    ece: float
    ece_plugin: float
    mce: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values, for ``bins.json``."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EceNull:
    """ECE that a perfectly calibrated model with these probabilities shows by chance.

    Attributes
    ----------
    mean, p95
        Mean and 95 % quantile of the debiased ECE (``ece`` of `compute_metrics`).
    plugin_mean, plugin_p95
        The same of the plug-in ECE in the same bins.
    num_simulations
        Number of simulated label sets.
    num_bins
        Requested number of bins.
    """

    mean: float
    p95: float
    plugin_mean: float
    plugin_p95: float
    num_simulations: int
    num_bins: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return asdict(self)


def calibration_bins(
    y: ArrayLike,
    proba: ArrayLike,
    *,
    num_bins: int | None = None,
    scheme: Scheme = "equal_mass",
    class_index: int | None = None,
    confidence: float = 0.95,
    num_simulations: int = 1000,
    seed: int = 0,
) -> CalibrationBins:
    """Bin predictions and compare them with the observed shares, without empty bins.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and probabilities, shape (n, K).
    num_bins
        None: about one per ten windows, at most 15.
    scheme
        ``equal_mass`` or ``equal_width``.
    class_index
        The class whose probability is binned; None: the top label's.
    confidence
        Two-sided, of the consistency band (Bröcker and Smith 2007).
    num_simulations, seed
        Number of label sets simulated for the band, and the seed.

    Raises
    ------
    BadInput
        On predictions no metric should be computed from, or an option out of range.
    """
    labels, matrix = clean_predictions(y, proba)
    if not 0.0 < confidence < 1.0:
        raise BadInput(f"confidence is {confidence}", limit="a number inside (0, 1)")
    forecast, event = _forecast(labels, matrix, class_index)
    wanted_bins = default_num_bins(labels.size) if num_bins is None else num_bins
    bins, edges = assign_bins(forecast, num_bins=wanted_bins, scheme=scheme)
    count, observed, predicted = bin_sums(bins, event, forecast, edges.size - 1)
    errors = errors_from_sums(count, observed, predicted)
    filled = count > 0
    member = np.eye(edges.size - 1)[bins]
    simulated = _calibrated_events(forecast, num_simulations, seed) @ member
    rates = simulated[:, filled] / count[filled]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(rates, [tail, 1.0 - tail], axis=0)
    return CalibrationBins(
        scheme=scheme,
        class_index=class_index,
        num_windows=int(labels.size),
        left=edges[:-1][filled].tolist(),
        right=edges[1:][filled].tolist(),
        count=count[filled].astype(int).tolist(),
        predicted=(predicted[filled] / count[filled]).tolist(),
        observed=(observed[filled] / count[filled]).tolist(),
        band_low=low.tolist(),
        band_high=high.tolist(),
        confidence=confidence,
        ece=float(errors.debiased),
        ece_plugin=float(errors.plugin),
        mce=float(errors.maximum),
    )


def ece_null(
    proba: ArrayLike,
    *,
    persisting: float = 0.0,
    num_bins: int | None = None,
    num_simulations: int = 1000,
    seed: int = 0,
) -> EceNull:
    """Simulate the top-label ECE of a perfectly calibrated model with these probabilities.

    Parameters
    ----------
    proba
        Shape (n, K).
    persisting
        First autocorrelation of whether the top label is right, less its probability, in [0, 1);
        see `surprise_persistence`.
    num_bins
        Equal-mass bins; None: as many as ``ece`` of `compute_metrics` uses.
    num_simulations, seed
        Number of simulated label sets, and the seed.

    Raises
    ------
    BadInput
        On probabilities no metric should be computed from.
    """
    confidence = clean_probabilities(proba).max(axis=1)
    wanted_bins = default_num_bins(confidence.size) if num_bins is None else num_bins
    events = _calibrated_events(confidence, num_simulations, seed, persisting)
    errors = _simulated_errors(confidence, events, num_bins=wanted_bins)
    return EceNull(
        mean=float(errors.debiased.mean()),
        p95=float(np.quantile(errors.debiased, 0.95)),
        plugin_mean=float(errors.plugin.mean()),
        plugin_p95=float(np.quantile(errors.plugin, 0.95)),
        num_simulations=num_simulations,
        num_bins=wanted_bins,
    )


def calibration_bands(
    y: ArrayLike,
    proba: ArrayLike,
    *,
    confidence: float = 0.95,
    num_simulations: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Return upper quantiles of the calibration errors of a perfectly calibrated model.

    A calibration error is not a mean and never negative, so no confidence interval covers a true
    error of 0. Its null distribution is known, though: an error below these quantiles is one that
    a calibrated model would show as well.

    Parameters
    ----------
    y, proba
        Class indices, shape (n,), and probabilities, shape (n, K). The persistence of the
        surprises is measured on both and widens the band.
    confidence
        Level of the quantiles, in (0, 1).
    num_simulations, seed
        Number of simulated label sets, and the seed.

    Returns
    -------
    dict
        For ``ece``, ``ece_equal_width_10`` and ``mce``.

    Raises
    ------
    BadInput
        On predictions no metric should be computed from.
    """
    _, matrix = clean_predictions(y, proba)
    stated = matrix.max(axis=1)
    events = _calibrated_events(stated, num_simulations, seed, surprise_persistence(y, proba))
    mass = _simulated_errors(stated, events, num_bins=default_num_bins(stated.size))
    width = _simulated_errors(stated, events, num_bins=10, scheme="equal_width")
    simulated = {"ece": mass.debiased, "ece_equal_width_10": width.plugin, "mce": mass.maximum}
    return {name: float(np.quantile(values, confidence)) for name, values in simulated.items()}


def surprise_persistence(y: ArrayLike, proba: ArrayLike) -> float:
    """Return the persistence of whether the top label is right, less its probability, [0, 0.99].

    Windows with overlapping horizons are right or wrong together, so the errors of a calibrated
    model average out more slowly; see `moola.evaluation.dependence.persistence`.
    """
    labels, matrix = clean_predictions(y, proba)
    return persistence((matrix.argmax(axis=1) == labels) - matrix.max(axis=1))


def _simulated_errors(
    stated: NDArray[np.float64],
    events: NDArray[np.float64],
    *,
    num_bins: int,
    scheme: Scheme = "equal_mass",
) -> CalibrationErrors:
    """Return the errors of each row of `events` in the bins of `stated`."""
    bins, _ = assign_bins(stated, num_bins=num_bins, scheme=scheme)
    member = np.eye(int(bins.max()) + 1)[bins]
    simulated = events @ member
    count = np.broadcast_to(member.sum(axis=0), simulated.shape)
    return errors_from_sums(count, simulated, stated @ member)


def _forecast(
    labels: NDArray[np.intp], matrix: NDArray[np.float64], class_index: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if class_index is None:
        return matrix.max(axis=1), (matrix.argmax(axis=1) == labels).astype(np.float64)
    if not 0 <= class_index < matrix.shape[1]:
        raise BadInput(f"class_index is {class_index}", limit=f"0..{matrix.shape[1] - 1}")
    return matrix[:, class_index], (labels == class_index).astype(np.float64)


def _calibrated_events(
    forecast: NDArray[np.float64], num_simulations: int, seed: int, persisting: float = 0.0
) -> NDArray[np.float64]:
    """Return whether the event happens in each simulation, shape (num_simulations, n).

    The surprises follow an AR(1) series with an autocorrelation of about `persisting`. The latent
    normal series needs a larger one, by the arcsine law.
    """
    if num_simulations < 100:
        raise BadInput(f"num_simulations is {num_simulations}", limit="at least 100")
    rng = np.random.default_rng(seed)
    if persisting <= 0.0:
        return (rng.random((num_simulations, forecast.size)) < forecast).astype(np.float64)
    phi = np.sin(np.pi * persisting / 2.0)
    noise = rng.standard_normal((num_simulations, forecast.size))
    noise[:, 1:] *= np.sqrt(1.0 - phi**2)
    occurred = ndtr(lfilter([1.0], [1.0, -phi], noise, axis=1)) < forecast
    return np.asarray(occurred, dtype=np.float64)
