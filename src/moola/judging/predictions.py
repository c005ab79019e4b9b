"""Predictions in a run: a table by class name, and the diagrams of one candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moola.config import names
from moola.evaluation.pages.plots import confusion_figure, figure_to_array, reliability_figure
from moola.tracking.mlflow_run import TrackedRun


def predictions_table(
    rows: NDArray[np.int64],
    y: NDArray[np.int64],
    class_names: tuple[str, ...],
    **proba: NDArray[np.float64],
) -> pa.Table:
    """Return a table with one row per window: id, label, and a column per class and kind.

    Parameters
    ----------
    rows
        Ids of the windows, shape (n,).
    y
        Their labels, shape (n,).
    class_names
        Names of the K classes.
    **proba
        Values by class, shape (n, K); ``probability=...`` gives columns ``probability_<name>``.
    """
    columns: dict[str, Any] = {"window": rows, "label": y}
    for kind, figures in proba.items():
        columns |= {f"{kind}_{name}": figures[:, k] for k, name in enumerate(class_names)}
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def log_diagrams(
    run: TrackedRun,
    y: NDArray[np.int64],
    proba: NDArray[np.float64],
    class_names: tuple[str, ...],
    *,
    title: str,
) -> None:
    """Log reliability diagram and confusion matrix; `y` is (n,), `proba` (n, K)."""
    reliability = figure_to_array(reliability_figure(y, proba, title=title))
    confusion = figure_to_array(confusion_figure(y, proba, class_names, title=title))
    run.log_picture(names.ARTIFACT_RELIABILITY, names.IMAGE_RELIABILITY, reliability)
    run.log_picture(names.ARTIFACT_CONFUSION, names.IMAGE_CONFUSION, confusion)
