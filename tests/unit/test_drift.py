"""Population stability and drift: by hand, without drift, and with it."""

from __future__ import annotations

import numpy as np
import pytest

from moola.errors import ConfigError, DataError
from moola.evaluation.drift import drift_report, population_stability_index


def test_index_by_hand() -> None:
    train = np.array([0.0, 0.0, 1.0, 1.0])
    served = np.array([0.0, 1.0, 1.0, 1.0])
    # one edge at 0.5: counts 2, 2 and 1, 3, half a window added to each
    t, s = np.array([2.5, 2.5]) / 5, np.array([1.5, 3.5]) / 5
    expected = ((s - t) * np.log(s / t)).sum()
    assert population_stability_index(train, served, num_bins=2) == pytest.approx(expected)
    assert population_stability_index(train, train, num_bins=2) == 0.0
    with pytest.raises(DataError):
        population_stability_index(train, served[:0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_that_many_windows_share_may_drift_up_or_down(dtype: type) -> None:
    still = np.zeros(400, dtype=dtype)
    up, down = (population_stability_index(still, still + shift) for shift in (1, -1))
    assert up == pytest.approx(down)
    assert up > 10
    binary = np.repeat(np.array([0, 1], dtype=dtype), 200)
    assert population_stability_index(binary, binary + 1) > 1
    report = drift_report(still[:, None], still[:, None] + 1, names=("x",), block_length=25)
    assert report.drifted == ("x",)
    # three bins: below 0, 0, above 0
    assert report.rows[0].psi_noise == pytest.approx(5.991 * (1 / 16 + 1 / 16), rel=1e-3)


def autocorrelated(rng: np.random.Generator, num: int) -> np.ndarray:
    values = np.zeros(num)
    for k in range(1, num):
        values[k] = 0.9 * values[k - 1] + rng.normal()
    return values


def test_dependent_windows_are_not_taken_for_drift_and_a_shift_is_seen() -> None:
    rng = np.random.default_rng(0)
    false_alarms = 0
    for seed in range(40):
        train, served = autocorrelated(rng, 800)[:, None], autocorrelated(rng, 400)[:, None]
        report = drift_report(
            train, served, names=("x",), block_length=25, num_permutations=99, random_state=seed
        )
        false_alarms += bool(report.drifted)
    assert false_alarms <= 5  # 5 % of 40, and some luck
    shifted = drift_report(train, served + 5.0, names=("x",), block_length=25)
    assert shifted.drifted == ("x",)
    assert shifted.rows[0].effect > 1
    assert shifted.num_blocks == (32, 16)
    with pytest.raises(ConfigError, match="at least 20"):
        drift_report(train, served, names=("x",), block_length=25, num_permutations=19)
    with pytest.raises(DataError, match="blocks"):
        drift_report(train, served[:50], names=("x",), block_length=25)
