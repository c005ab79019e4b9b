"""Walk-forward folds as the steps use them: found by set, audited one by one, logged as input."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mlflow.entities import DatasetInput

from moola.data.registry import DataRegistry, WindowSet
from moola.data.splits import WalkForward
from moola.errors import DataError
from moola.tracking.lineage import dataset_input
from moola.training.finetune import encoder_claim


def find_folds(registry: DataRegistry, labeled: str, name: str | None) -> WalkForward:
    """Return walk-forward folds by name, or the only ones that a labelled set has.

    Parameters
    ----------
    registry
        Where they stand.
    labeled
        The labelled set.
    name
        Name of the folds; None: the only ones of the set.

    Returns
    -------
    WalkForward
        The folds.

    Raises
    ------
    DataError
        If there are none, or several and none is named.
    """
    if name is not None:
        return registry.load_folds(name)
    found: dict[str, WalkForward] = {}
    for split in registry.names():
        if split.startswith("splits/"):
            with suppress(DataError):  # a split into train, val and test holds no folds
                folds = registry.load_folds(split)
                if folds.labeled == labeled:
                    found[split] = folds
    if len(found) > 1:
        raise DataError(
            f"{labeled} has several walk-forward folds: {', '.join(found)}",
            limit="one of them",
            remedy="Name it with --folds",
        )
    for folds in found.values():
        return folds
    raise DataError(
        f"no walk-forward folds of {labeled} in {registry.data_root}",
        remedy="Make them with `moola data build`",
    )


def audit_folds(
    registry: DataRegistry, labeled: WindowSet, folds: WalkForward, encoder: str | None
) -> dict[str, Any]:
    """Audit every fold, against the corpus of an encoder if there is one.

    Parameters
    ----------
    registry
        Where set and bars stand.
    labeled
        The labelled set.
    folds
        Its walk-forward folds.
    encoder
        Checkpoint of a pretrained encoder, whose corpus must not reach into a fold; None: none.

    Returns
    -------
    dict
        The audit trail of each fold, by its name.

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
