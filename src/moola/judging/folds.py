"""Walk-forward folds as the steps use them: found by set, audited one by one, logged as input."""

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


def find_folds(registry: DataStore, labeled: str, name: str | None) -> WalkForward:
    """Return walk-forward folds by name, or the only ones that a labelled set has.

    Parameters
    ----------
    registry
        Where they are stored.
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


def require_folds(
    registry: DataStore,
    labeled: WindowSet,
    folds: WalkForward,
    config: FinetuneConfig,
    *,
    on_proof: OnProof = lambda proof, content: None,
) -> dict[str, Any]:
    """Audit every fold, the test part of the configuration's split and the encoder's corpus too.

    Parameters
    ----------
    registry
        Where set and bars are stored.
    labeled
        The labelled set.
    folds
        Its walk-forward folds.
    config
        What is trained on them: no fold may reach into the locked test part of its split, if that
        is one of this set, nor the corpus of its pretrained encoder into a fold.
    on_proof
        Told the ``split`` and then the ``audit``, also where it is refused.

    Returns
    -------
    dict
        The audit trail of each fold, by its name.

    Raises
    ------
    AuditError
        On the first fold that fails.
    """
    on_proof("split", folds.to_dict())
    encoder = config.pretrained_encoder
    split = None  # the default one is of the default set: a user's own set may have another
    exists = f"splits/{registry.split_path(config.split).stem}" in registry.names()
    if exists or config.split != names.DEFAULT_SPLIT:
        split = registry.load_split(config.split)
    trails = audit_folds(
        registry,
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
