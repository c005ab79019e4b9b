"""What the referee's own process does: weights and windows in, digests and metrics out."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def score(folder: str, data_root: str, labeled: str, split: str) -> dict[str, Any]:
    """Return digests of set and split and the metrics of a model folder on the test windows.

    Parameters
    ----------
    folder
        A registered version's files.
    data_root
        The data store to score on.
    labeled
        Name of the labelled set in it.
    split
        Name of the split in it.

    Returns
    -------
    dict
        Digests, number of windows and metrics, JSON-ready.

    Raises
    ------
    MoolaError
        If the folder is not Moola's own packaging, its classes are not those of the set, its
        answers cannot be used, or set or split cannot be read.
    """
    from moola.data.labels import class_names
    from moola.data.store.data_store import DataStore
    from moola.evaluation.metrics import compute_metrics
    from moola.promotion.versions.classes import require_classes
    from moola.promotion.versions.inspection import answers
    from moola.promotion.versions.packaging import check_packaging

    packaging = check_packaging(Path(folder))
    store = DataStore(data_root)
    windows, parts = store.load_set(labeled), store.load_split(split)
    assert windows.y is not None
    require_classes(packaging.stored.class_names, class_names(windows.recipe), windows.name)
    proba = answers(packaging, windows.X_ohlc[parts.test])
    return {
        "labeled_sha256": windows.sha256,
        "split_sha256": parts.digest(),
        "num_windows": len(parts.test),
        "metrics": compute_metrics(windows.y[parts.test], proba),
    }
