"""Labels and models of known strength, and limits, for the tests of the gates."""

from dataclasses import replace

import numpy as np

from moola.config.evaluation import Thresholds
from moola.evaluation.gates import GateContext

LIMITS = replace(  # models of known strength may be as good as they are
    Thresholds.load(),
    num_resamples=300,
    max_credible_roc_auc=1.0,
    max_credible_entropy_share=1.0,
)
CONTEXT = GateContext(block_length=2, thresholds=LIMITS)


def world(*strengths, n=240, seed=0):
    """Labels and one calibrated model for each strength; all see the same noise in part."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat([0, 1], n // 2))
    shared = rng.standard_normal(n)
    models = []
    for strength in strengths:
        noise = 0.8 * shared + 0.6 * rng.standard_normal(n)
        logit = 2 * strength * (strength * (2 * y - 1) + noise)
        p = 1 / (1 + np.exp(-logit))
        models.append(np.column_stack([1 - p, p]))
    return y, *models


def half(y):
    """The constant 0.5 for both classes."""
    return np.full((y.size, 2), 0.5)
