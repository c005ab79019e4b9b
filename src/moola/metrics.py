"""The metrics under the names of the notes that Moola grew out of; see docs/notes.md.

`moola.evaluation.metrics` is where they are computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moola.errors import BadInput
from moola.evaluation.metrics import compute_metrics

_PROBABILITIES = ("y_pred_proba_test", "y_pred_proba", "proba")


def compute_metrics_pack(results: Mapping[str, Any], data: Any) -> dict[str, float | None]:
    """Return every metric of a model's probabilities.

    Parameters
    ----------
    results
        Holds the probabilities, shape (n, K), under ``y_pred_proba_test``, ``y_pred_proba`` or
        ``proba``. Predicted classes beside them are not looked at: they are the most probable ones.
    data
        Labels as class indices, shape (n,), or what has them as ``y_test``.

    Returns
    -------
    dict
        As `moola.evaluation.metrics.compute_metrics`: Brier score, ECE and PR-AUC are of all
        classes, not of the most probable one or of class 1.

    Raises
    ------
    BadInput
        If there are no probabilities, or they do not fit the labels.
    """
    key = next((name for name in _PROBABILITIES if name in results), None)
    if key is None:
        raise BadInput(
            f"results hold {', '.join(map(str, results)) or 'nothing'}",
            limit=f"probabilities under one of {', '.join(_PROBABILITIES)}",
        )
    y = getattr(data, "y_test", data)
    return compute_metrics(np.asarray(y), results[key])


def compute_ece(y_true: ArrayLike, y_pred_proba: ArrayLike) -> float | None:
    """Return the expected calibration error; confidence 0 falls into the first bin."""
    return compute_metrics(np.asarray(y_true), y_pred_proba)["ece"]
