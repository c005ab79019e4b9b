"""Synthetic windows: made from the train part only, stored with how they were made."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from moola.data.build import write_manifest
from moola.data.features import features20
from moola.data.splits import Split
from moola.data.store.sets import WindowSet, check_digests, check_meta, load_array, read_json
from moola.data.windows import check_windows
from moola.errors import BadInput, ConfigError, DataError
from moola.hashing import canonical_json, write_json

FILES = (
    "X_feats20.npy",
    "X_ohlc.npy",
    "augmentation_config.json",
    "meta.json",
    "parents.parquet",
    "y.npy",
)


class Augmenter(Protocol):
    """Makes one new window of each given one: same shape, same order, still valid OHLC."""

    def __call__(self, X_NTC: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the new windows, shape (n, T, 4), in price units."""
        ...


def load_augmenter(spec: str, settings: Sequence[str]) -> tuple[Augmenter, dict[str, Any]]:
    """Load an augmenter and say exactly how it was made.

    Parameters
    ----------
    spec
        ``module:object``. A class is called with the settings; the result, or the object itself,
        is called as ``augmenter(X_NTC, rng)``, or has a method ``augment`` that is.
    settings
        ``name=value`` pairs, values in YAML.

    Returns
    -------
    The callable, and its configuration: `spec`, the settings and, where the object has a mapping
    ``settings``, everything in it (defaults included).

    Raises
    ------
    ConfigError
        If it cannot be loaded, made or called.
    """
    pairs = [s.partition("=") for s in settings]
    if any(not sep or not name for name, sep, _ in pairs):
        raise ConfigError(f"settings are {list(settings)!r}", limit="name=value")
    module, _, attribute = spec.partition(":")
    try:
        values = {name: yaml.safe_load(value) for name, _, value in pairs}
        factory = getattr(importlib.import_module(module), attribute)
        augmenter = factory(**values) if isinstance(factory, type) else factory
    except (ImportError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"augmenter {spec!r} cannot be used: {error}", limit="module:class or module:function"
        ) from None
    augment = augmenter if callable(augmenter) else getattr(augmenter, "augment", None)
    if augment is None:
        raise ConfigError(f"augmenter {spec!r} cannot be called", limit="augmenter(X, rng)")
    stated = getattr(augmenter, "settings", None)
    return augment, {"augmenter": spec, **values, **(stated if isinstance(stated, dict) else {})}


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """One version of synthetic windows.

    Attributes
    ----------
    X_ohlc, X_feats20, y
        Windows in price units, shape (n, T, 4), their features and labels.
    parent
        Window of the labelled set that each was made from, shape (n,), int64.
    labeled, labeled_sha256, split
        The set and the split whose train part holds the parents.
    config
        How they were made.
    sha256
        Digest over the set's content files.
    """

    name: str
    X_ohlc: NDArray[np.float32]
    X_feats20: NDArray[np.float32]
    y: NDArray[np.int64]
    parent: NDArray[np.int64]
    labeled: str
    labeled_sha256: str
    split: str
    num_classes: int
    config: Mapping[str, Any]
    sha256: str

    def __len__(self) -> int:
        return len(self.X_ohlc)


def make_synthetic(
    labeled: WindowSet,
    split: Split,
    augment: Augmenter,
    *,
    name: str,
    config: Mapping[str, Any],
    ratio: float = 0.5,
    random_state: int = 0,
) -> SyntheticSet:
    """Make synthetic windows from the train part of a split.

    Parameters
    ----------
    labeled, split
        The labelled set and the split; no window outside ``split.train`` is read.
    augment
        Makes the windows; its own random numbers come from the generator it is given.
    name
        For example ``synthetic_cache/v1_jitter_r0.5``.
    config
        Exact settings of `augment`; kept beside the windows.
    ratio
        Share of synthetic windows in real plus synthetic, above 0 and below 1.
    random_state
        Seed of the choice of parents and of `augment`.

    Returns
    -------
    SyntheticSet
        Not written yet, with an empty digest.

    Raises
    ------
    DataError
        If `augment` changes shape or count, breaks OHLC, or returns NaN; if the set has no labels.
    """
    if labeled.y is None:
        raise DataError(f"set {labeled.name} has no labels", limit="a labelled set")
    if not 0 < ratio < 1:
        raise DataError(f"ratio of synthetic windows is {ratio!r}", limit="above 0 and below 1")
    rng = np.random.default_rng(random_state)
    parent = _draw_parents(split.train, ratio, rng)
    X = _augmented(augment, np.array(labeled.X_ohlc[parent]), rng)
    try:
        canonical_json(dict(config))
    except (TypeError, ValueError) as error:
        raise DataError(f"the augmenter's settings are not plain values: {error}") from None
    full = {"settings": dict(config), "ratio": ratio, "random_state": random_state}
    return SyntheticSet(
        name=name,
        X_ohlc=X,
        X_feats20=features20(X),
        y=labeled.y[parent],
        parent=parent,
        labeled=labeled.name,
        labeled_sha256=labeled.sha256,
        split=split.name,
        num_classes=labeled.num_classes,
        config={**full, "split_sha256": split.digest()},
        sha256="",
    )


def _augmented(
    augment: Augmenter, X_NTC: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return what the augmenter makes of windows, or raise DataError if that cannot be used."""
    shape = X_NTC.shape
    copies = augment(X_NTC, rng)
    if np.shape(copies) != shape:
        raise DataError(
            f"the augmenter returned shape {np.shape(copies)}",
            limit=f"{shape}, a window of each given one",
        )
    try:
        return np.ascontiguousarray(check_windows(copies))
    except BadInput as error:
        raise DataError(f"the augmenter broke its windows: {error}") from None


def _draw_parents(
    train: NDArray[np.int64], ratio: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return train windows in time order, each as often as any other or once more."""
    num = max(1, round(len(train) * ratio / (1 - ratio)))
    whole, rest = divmod(num, len(train))
    drawn = rng.choice(train, size=rest, replace=False)
    return np.sort(np.r_[np.tile(train, whole), drawn]).astype(np.int64)


def write_synthetic(folder: Path, synthetic: SyntheticSet) -> None:
    """Write a synthetic set's files into an empty folder."""
    for file, array in (
        ("X_ohlc", synthetic.X_ohlc),
        ("X_feats20", synthetic.X_feats20),
        ("y", synthetic.y),
    ):
        np.save(folder / f"{file}.npy", array, allow_pickle=False)
    pq.write_table(pa.table({"parent": synthetic.parent}), folder / "parents.parquet")
    write_json(folder / "augmentation_config.json", synthetic.config)
    meta = {
        "T": synthetic.X_ohlc.shape[1],
        "D_ohlc": 4,
        "D_feats": synthetic.X_feats20.shape[1],
        "K": synthetic.num_classes,
        "num_windows": len(synthetic),
        "source": synthetic.labeled,
        "source_sha256": synthetic.labeled_sha256,
        "split": synthetic.split,
    }
    write_json(folder / "meta.json", meta)
    write_manifest(
        folder,
        synthetic.name,
        recipe=dict(synthetic.config),
        sources={synthetic.labeled: synthetic.labeled_sha256},
    )


def read_synthetic(name: str, folder: Path) -> SyntheticSet:
    """Read a synthetic set and check every file against its manifest.

    Parameters
    ----------
    name
        What the set is called, for messages and to be compared with its manifest.
    folder
        Where it is stored.

    Returns
    -------
    SyntheticSet
        Its windows memory-mapped.

    Raises
    ------
    DataError
        If a file is absent or malformed.
    AuditError
        If a digest differs from the manifest.
    """
    meta, manifest = (read_json(folder / f) for f in ("meta.json", "manifest.json"))
    check_meta(name, meta)
    check_digests(name, folder, manifest, list(FILES))
    n = meta["num_windows"]
    try:
        parent = pq.read_table(folder / "parents.parquet")["parent"].cast(pa.int64())
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"set {name}: parents.parquet cannot be read: {error}") from None
    if len(parent) != n or parent.null_count:
        raise DataError(f"set {name}: parents.parquet has {len(parent)} rows", limit=f"{n}")
    return SyntheticSet(
        name=name,
        X_ohlc=load_array(name, folder, "X_ohlc.npy", np.float32, (n, meta["T"], 4)),
        X_feats20=load_array(name, folder, "X_feats20.npy", np.float32, (n, meta["D_feats"])),
        y=np.array(load_array(name, folder, "y.npy", np.int64, (n,))),
        parent=parent.to_numpy(),
        labeled=meta["source"],
        labeled_sha256=meta["source_sha256"],
        split=str(meta.get("split")),
        num_classes=meta["K"],
        config=read_json(folder / "augmentation_config.json"),
        sha256=str(manifest["sha256"]),
    )
