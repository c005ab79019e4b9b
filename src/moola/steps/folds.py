"""Walk-forward folds as the steps use them: found by set, audited one by one, logged as input."""

from __future__ import annotations

from typing import Any

from mlflow.entities import DatasetInput

from moola.data.registry import DataRegistry, WindowSet
from moola.data.splits import WalkForward
from moola.errors import DataError
from moola.tracking.lineage import dataset_input
from moola.training.finetune import encoder_claim


def find_folds(registry: DataRegistry, labeled: str, name: str | None) -> WalkForward:
    """Return a fold file by name, or the one in the registry that was made for a labelled set."""
    if name is not None:
        return registry.load_folds(name)
    for found in registry.names():
        if not found.startswith("splits/"):
            continue
        try:
            folds = registry.load_folds(found)
        except DataError:
            continue
        if folds.labeled == labeled:
            return folds
    raise DataError(
        f"no walk-forward folds of {labeled} in {registry.data_root}",
        remedy="Make them with `moola data build`",
    )


def audit_folds(
    registry: DataRegistry, labeled: WindowSet, folds: WalkForward, encoder: str | None
) -> dict[str, Any]:
    """Audit every fold, against the corpus of an encoder if there is one.

    Raises
    ------
    AuditError
        On the first fold that fails.
    """
    claim = encoder_claim(encoder) if encoder else None
    trails = {}
    for fold in folds.folds:
        trail = registry.audit(labeled, fold, corpus=claim)
        trail.require()
        trails[fold.name] = trail.to_dict()
    return trails


def folds_dataset(labeled: WindowSet, folds: WalkForward, num_windows: int) -> DatasetInput:
    """Return the validation windows of all folds as an input of a run."""
    return dataset_input(
        name=f"{labeled.name}@{folds.name}",
        sha256=labeled.sha256,
        source=f"bars/{labeled.source}",
        context="validation",
        shape=(num_windows, *labeled.X_ohlc.shape[1:]),
    )
