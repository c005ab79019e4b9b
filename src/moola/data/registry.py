"""Versioned window sets: built once, never changed, checked at every load."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import moola
from moola.config.data import SplitRecipe, WindowRecipe, load_recipes
from moola.data.audit import AuditTrail, CorpusClaim, audit_split
from moola.data.bars import Bars, read_bars
from moola.data.features import FEATURE_NAMES, features20
from moola.data.labels import CLASS_NAMES, make_labels
from moola.data.splits import (
    Split,
    WalkForward,
    WindowTimes,
    forward_chain,
    read_split_file,
    walk_forward,
    write_split,
)
from moola.data.windows import cut_windows, window_starts
from moola.errors import AuditError, DataError
from moola.hashing import atomic_folder, sha256_files, sha256_json, write_json


@dataclass(frozen=True, kw_only=True)
class WindowSet:
    """One version of windows, as loaded and checked.

    Attributes
    ----------
    name
        For example ``labeled_windows/v1``.
    X_ohlc
        Windows in price units, shape (n, T, 4), float32, memory-mapped read-only.
    X_feats20
        Features, shape (n, 20), float32; None for an unlabelled set.
    y
        Labels, shape (n,), int64; None for an unlabelled set.
    times
        Bars of each window, as rows of the source.
    clock
        UTC time of each window's first bar, last bar and label end, shape (n, 3), datetime64[us].
    meta, manifest
        The set's JSON files.
    sha256
        Digest over the names and digests of the set's content files.
    """

    name: str
    X_ohlc: NDArray[np.float32]
    X_feats20: NDArray[np.float32] | None
    y: NDArray[np.int64] | None
    times: WindowTimes
    clock: NDArray[np.datetime64]
    meta: Mapping[str, Any]
    manifest: Mapping[str, Any]
    sha256: str

    def __len__(self) -> int:
        return len(self.X_ohlc)

    @property
    def source(self) -> str:
        """Name of the bar set the windows were cut from."""
        return str(self.meta["source"])

    @property
    def num_classes(self) -> int:
        """Number of label classes, K."""
        return int(self.meta["K"])

    def claim(self) -> CorpusClaim:
        """State which bars the set covers, for the audit of whatever is trained on it."""
        return CorpusClaim(
            name=self.name,
            sha256=self.sha256,
            source=self.source,
            source_sha256=str(self.meta["source_sha256"]),
            first_bar=str(self.clock[:, 0].min()),
            last_bar=str(self.clock[:, 2].max()),
        )


@dataclass(frozen=True, kw_only=True)
class DataContainer:
    """The parts of one labelled set under one split, with the proof of where they come from."""

    labeled: WindowSet
    split: Split
    X_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    X_val: NDArray[np.float32]
    y_val: NDArray[np.int64]
    X_test: NDArray[np.float32] = field(repr=False)
    y_test: NDArray[np.int64] = field(repr=False)
    metadata: Mapping[str, Any]
    audit_trail: Mapping[str, Any]


class DataRegistry:
    """Load versioned, validated data sets below one folder.

    Parameters
    ----------
    data_root
        Folder that holds ``bars/``, ``labeled_windows/``, ``unlabeled_windows/`` and ``splits/``.
    """

    def __init__(self, data_root: Path | str = Path("data")):
        self.data_root = Path(data_root)

    def load_labeled(
        self,
        version: str = "v1",
        split_name: str = "fwd_chain_v3",
        include_synthetic: bool = False,
        synthetic_version: str | None = None,
        *,
        corpus: CorpusClaim | None = None,
    ) -> DataContainer:
        """Load a labelled set under a split, audited.

        Parameters
        ----------
        version, split_name
            ``v1`` or ``labeled_windows/v1``; ``fwd_chain_v3`` or ``splits/fwd_chain_v3.json``.
        include_synthetic, synthetic_version
            Append a synthetic set to train; val and test never hold a synthetic row.
        corpus
            What an encoder that will be used was trained on; the audit checks it against val and
            test.

        Raises
        ------
        DataError
            If the set or the split is absent or malformed.
        AuditError
            If anything in it must not be believed; the message names the windows.
        """
        labeled = self.load_set(_qualified(version, "labeled_windows"))
        split = self.load_split(split_name)
        if include_synthetic:
            raise DataError(
                f"synthetic set {synthetic_version!r} does not exist in "
                f"{self.data_root / 'synthetic_cache'}"
            )
        audit = self.audit(labeled, split, corpus=corpus)
        audit.require()
        assert labeled.y is not None
        return DataContainer(
            labeled=labeled,
            split=split,
            **{f"X_{p}": np.asarray(labeled.X_ohlc[getattr(split, p)]) for p in ("train", "val", "test")},
            **{f"y_{p}": labeled.y[getattr(split, p)] for p in ("train", "val", "test")},
            metadata={
                **labeled.meta,
                "split_name": split.name,
                "split_strategy": split.strategy,
                "split_sha256": split.digest(),
            },
            audit_trail=audit.to_dict(),
        )

    def load_unlabeled(self, version: str = "v1") -> dict[str, Any]:
        """Load an unlabelled set as ``{"X_ohlc", "metadata", "manifest", "claim"}``."""
        loaded = self.load_set(_qualified(version, "unlabeled_windows"))
        return {
            "X_ohlc": loaded.X_ohlc,
            "metadata": dict(loaded.meta),
            "manifest": dict(loaded.manifest),
            "claim": loaded.claim(),
        }

    def load_set(self, name: str) -> WindowSet:
        """Load one set and check every file against its manifest.

        Raises
        ------
        DataError
            If the set is absent or its files do not fit together.
        AuditError
            If a file's digest differs from the manifest.
        """
        folder = self._folder(name)
        meta, manifest = (_read_json(folder / f) for f in ("meta.json", "manifest.json"))
        _check_digests(name, folder, manifest)
        try:
            X = np.load(folder / "X_ohlc.npy", mmap_mode="r", allow_pickle=False)
            labelled = int(meta["K"]) > 0
            feats, y = (
                np.load(folder / f, allow_pickle=False) if labelled else None
                for f in ("X_feats20.npy", "y.npy")
            )
            table = pq.read_table(folder / "times.parquet")
            clock = np.column_stack(
                [table[c].to_numpy() for c in ("first_bar", "last_bar", "label_end")]
            )
            times = WindowTimes(
                **{c: table[f"{c}_row"].to_numpy() for c in ("first", "last", "label_end")}
            )
            shape = (len(times), int(meta["T"]), int(meta["D_ohlc"]))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(f"set {name} cannot be read: {error}") from None
        if X.shape != shape or (labelled and (len(feats) != len(X) or len(y) != len(X))):
            raise DataError(f"set {name} has windows of shape {X.shape}", limit=f"{shape} by meta.json")
        return WindowSet(
            name=name, X_ohlc=X, X_feats20=feats, y=y, times=times, clock=clock,
            meta=meta, manifest=manifest, sha256=str(manifest["sha256"]),
        )  # fmt: skip

    def load_split(self, name: str) -> Split:
        """Load a train/val/test split by name or file."""
        split = self._read_split(name)
        if not isinstance(split, Split):
            raise DataError(f"{name} holds walk-forward folds", limit="a train/val/test split")
        return split

    def load_folds(self, name: str) -> WalkForward:
        """Load walk-forward folds by name or file."""
        folds = self._read_split(name)
        if not isinstance(folds, WalkForward):
            raise DataError(f"{name} holds one split", limit="walk-forward folds")
        return folds

    def audit(
        self, labeled: WindowSet, split: Split, *, corpus: CorpusClaim | None = None
    ) -> AuditTrail:
        """Audit a set under a split, and against the corpus an encoder was trained on."""
        pairs = None
        if corpus is not None and self._folder(corpus.name, must_exist=False).exists():
            candidate = self.load_set(corpus.name)
            if candidate.sha256 != corpus.sha256:
                raise AuditError(
                    f"corpus {corpus.name} has digest {candidate.sha256[:12]}, but the encoder was "
                    f"trained on {corpus.sha256[:12]}",
                    remedy="Pretrain again on the set that stands here",
                )
            pairs = candidate.X_ohlc
        return audit_split(
            split,
            y=labeled.y,
            num_classes=labeled.num_classes,
            X_NTC=labeled.X_ohlc,
            times=labeled.times,
            clock=labeled.clock,
            labeled_name=labeled.name,
            labeled_sha256=labeled.sha256,
            source=labeled.source,
            corpus=corpus,
            X_corpus_NTC=pairs,
        )

    def build(
        self,
        recipes: Path | None = None,
        *,
        report: Callable[[str, str], None] = lambda name, what: None,
    ) -> dict[str, str]:
        """Build every set and split of a recipe file that does not stand yet.

        Parameters
        ----------
        recipes
            YAML file; None takes the recipes that ship with Moola.
        report
            Called with a name and what happened to it, for progress.

        Returns
        -------
        Digest of every set and split by name.
        """
        sets, splits = load_recipes(recipes)
        digests: dict[str, str] = {}
        for name, recipe in sets.items():
            report(name, "building")
            digests[name] = self.build_set(name, recipe).sha256
        for name, split_recipe in splits.items():
            report(f"splits/{name}", "building")
            digests[f"splits/{name}"] = self.build_split(name, split_recipe).digest()
        return digests

    def build_set(self, name: str, recipe: WindowRecipe) -> WindowSet:
        """Build one set; if it stands already, check that its recipe is the same and load it."""
        folder = self._folder(name, must_exist=False)
        if not folder.exists():
            bars = read_bars(self.data_root / "bars" / f"{recipe.source}.parquet")
            with atomic_folder(folder) as temporary:
                _write_set(temporary, name, recipe, bars)
        loaded = self.load_set(name)
        if loaded.manifest["recipe"] != recipe.to_dict():
            raise DataError(
                f"set {name} exists with another recipe", remedy="Sets are immutable: use a new name"
            )
        return loaded

    def build_split(self, name: str, recipe: SplitRecipe) -> Split | WalkForward:
        """Build one split file; if it stands already, check that its content is the same."""
        labeled = self.load_set(recipe.labeled)
        make = forward_chain if recipe.strategy == "forward_chaining" else walk_forward
        split: Split | WalkForward = make(name, recipe, labeled.times, labeled.sha256)
        write_split(self._split_path(name), split, _user())
        return split

    def _folder(self, name: str, *, must_exist: bool = True) -> Path:
        kind, _, version = name.partition("/")
        safe = kind in ("labeled_windows", "unlabeled_windows", "synthetic_cache")
        folder = self.data_root / kind / version
        if not safe or not version or "/" in version or version.startswith("."):
            raise DataError(f"set name is {name!r}", limit="for example labeled_windows/v1")
        if folder.is_symlink() or (must_exist and not folder.is_dir()):
            known = sorted(p.name for p in folder.parent.glob("[!.]*")) if folder.parent.is_dir() else []
            raise DataError(
                f"set {name} does not exist in {self.data_root}",
                limit=f"one of: {', '.join(known) or 'none built yet'}",
                remedy="Make the default sets with `moola data build`",
            )
        return folder

    def _read_split(self, name: str) -> Split | WalkForward:
        return read_split_file(self._split_path(name))

    def _split_path(self, name: str) -> Path:
        stem = name.removeprefix("splits/").removesuffix(".json")
        if stem in ("random", "stratified", "shuffled"):
            raise DataError(
                f"split is {stem!r}",
                limit="a forward-chaining split, for example fwd_chain_v3",
                remedy="Random and stratified splits put future bars into training",
            )
        if not stem or "/" in stem or stem.startswith("."):
            raise DataError(f"split name is {name!r}", limit="for example fwd_chain_v3")
        return self.data_root / "splits" / f"{stem}.json"


def _write_set(folder: Path, name: str, recipe: WindowRecipe, bars: Bars) -> None:
    starts = window_starts(bars, recipe)
    X = cut_windows(bars, starts, recipe.window_bars)
    np.save(folder / "X_ohlc.npy", X, allow_pickle=False)
    counts: dict[str, int] = {}
    if recipe.num_classes:
        y = make_labels(bars, starts, recipe)
        np.save(folder / "X_feats20.npy", features20(X), allow_pickle=False)
        np.save(folder / "y.npy", y, allow_pickle=False)
        tally = np.bincount(y, minlength=recipe.num_classes)
        counts = dict(zip(CLASS_NAMES[recipe.label], tally.tolist(), strict=True))
    rows = {
        "first": starts,
        "last": starts + recipe.window_bars - 1,
        "label_end": starts + recipe.window_bars + recipe.label_bars - 1,
    }
    columns = {f"{k}_row": pa.array(v) for k, v in rows.items()}
    for column, key in (("first_bar", "first"), ("last_bar", "last"), ("label_end", "label_end")):
        columns[column] = pa.array(bars.time[rows[key]])
    pq.write_table(pa.table(columns), folder / "times.parquet", compression="zstd")
    meta = {
        "T": recipe.window_bars,
        "D_ohlc": 4,
        "D_feats": len(FEATURE_NAMES) if recipe.num_classes else 0,
        "K": recipe.num_classes,
        "num_windows": len(starts),
        "class_distribution": counts,
        "feature_names": list(FEATURE_NAMES) if recipe.num_classes else [],
        "horizon_bars": recipe.label_bars,
        "step_bars": recipe.step_bars,
        "source": bars.name,
        "source_sha256": bars.sha256,
    }
    write_json(folder / "meta.json", meta)
    files = sha256_files(folder)
    manifest = {
        "name": name,
        "files": files,
        "sha256": sha256_json(files),
        "recipe": recipe.to_dict(),
        "sources": {bars.name: bars.sha256},
        "moola_version": moola.__version__,
        "created_by": _user(),
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / "manifest.json", manifest)


def _check_digests(name: str, folder: Path, manifest: Mapping[str, Any]) -> None:
    stated = manifest.get("files")
    if not isinstance(stated, Mapping) or manifest.get("sha256") != sha256_json(dict(stated)):
        raise AuditError(f"manifest of set {name} does not match its own digest")
    found = sha256_files(folder, [str(f) for f in stated if (folder / str(f)).is_file()])
    changed = sorted(f for f in stated if found.get(f) != stated[f])
    if changed:
        what = "changed or missing since it was built"
        raise AuditError(
            f"set {name}: {', '.join(changed)} {what}",
            limit=f"SHA-256 {str(stated[changed[0]])[:12]}…, found {found.get(changed[0], 'no file')[:12]}",
            remedy=f"Remove {folder} and run `moola data build` again",
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} holds {type(values).__name__}", limit="an object")
    return values


def _qualified(version: str, kind: str) -> str:
    return version if "/" in version else f"{kind}/{version}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
