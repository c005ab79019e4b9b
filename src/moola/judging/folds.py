"""Walk-forward folds of a set: found by name or set, audited one by one, logged as input."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mlflow.entities import DatasetInput

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.data.splits import WalkForward
from moola.data.store.data_store import DataStore, OnProof, WindowSet
from moola.data.store.review import audit_folds
from moola.errors import DataError
from moola.tracking.lineage import dataset_input
from moola.training.finetune import encoder_claim


def find_folds(store: DataStore, labeled: str, name: str | None) -> WalkForward:
    """Return walk-forward folds by name, or the only ones of a labelled set.

    Parameters
    ----------
    store
        The data store with the folds.
    labeled
        Name of the labelled set.
    name
        Name of the folds; None: the only ones of the set.

    Raises
    ------
    DataError
        If there are none, or several without a name.
    """
    if name is not None:
        return store.load_folds(name)
    by_name: dict[str, WalkForward] = {}
    for split in store.names():
        if split.startswith("splits/"):
            with suppress(DataError):  # a split into train, val and test holds no folds
                folds = store.load_folds(split)
                if folds.labeled == labeled:
                    by_name[split] = folds
    if len(by_name) > 1:
        raise DataError(
            f"{labeled} has several walk-forward folds: {', '.join(by_name)}",
            limit="one of them",
            remedy="Name it with --folds",
        )
    for folds in by_name.values():
        return folds
    raise DataError(
        f"no walk-forward folds of {labeled} in {store.data_root}",
        limit="at least one file of folds",
        remedy="Make them with `moola data build`",
    )


def require_folds(
    store: DataStore,
    labeled: WindowSet,
    folds: WalkForward,
    config: FinetuneConfig,
    *,
    on_proof: OnProof = lambda proof, content: None,
) -> dict[str, Any]:
    """Audit every fold, against the locked test part and the encoder's corpus too; return trails.

    Parameters
    ----------
    store
        The data store with set and bars.
    labeled
        The labelled set.
    folds
        Its walk-forward folds.
    config
        The training: no fold may overlap the locked test part of its split, if that is one of this
        set, and the corpus of its pretrained encoder may not overlap a fold.
    on_proof
        Called with the ``split`` and then the ``audit``, even if it is refused.

    Raises
    ------
    AuditError
        On the first fold that fails.
    """
    on_proof("split", folds.to_dict())
    encoder = config.pretrained_encoder
    split = None  # the default split is of the default set; a user's own set may have none
    exists = f"splits/{store.split_path(config.split).stem}" in store.names()
    if exists or config.split != names.DEFAULT_SPLIT:
        split = store.load_split(config.split)
    trails = audit_folds(
        store,
        labeled,
        folds,
        split=split if split and split.labeled == labeled.name else None,
        corpus=encoder_claim(encoder) if encoder else None,
    )
    by_fold = {fold.name: t.to_dict() for fold, t in zip(folds.folds, trails, strict=True)}
    on_proof("audit", by_fold)
    for trail in trails:
        trail.require()
    return by_fold


def folds_dataset(labeled: WindowSet, folds: WalkForward, num_windows: int) -> DatasetInput:
    """Return the validation windows of all folds as an input of a run."""
    return dataset_input(
        name=f"{labeled.name}@{folds.name}",
        sha256=labeled.sha256,
        source=f"bars/{labeled.source}",
        context="validation",
        shape=(num_windows, *labeled.X_ohlc.shape[1:]),
    )
