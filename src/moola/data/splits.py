"""Splits: forward in time only, purged by the end of the label's horizon.

A window is *purged* from the earlier part when its label's horizon (plus the embargo) reaches the
first bar of the next part, so that no bar is seen on both sides. Purged windows are listed, and
train + val + test + purged covers the set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.config.data import STRATEGIES, SplitRecipe
from moola.errors import DataError
from moola.hashing import sha256_json, write_json

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row indices of one labelled set, by part; every array is sorted, int64."""

    name: str
    labeled: str
    labeled_sha256: str
    strategy: str
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    purged: NDArray[np.int64]
    embargo_bars: int = 0

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The parts that hold windows, in time order."""
        return {p: getattr(self, p) for p in PARTS if len(getattr(self, p))}

    def to_dict(self) -> dict[str, Any]:
        """Return the split file's content: indices by part, counts and what they refer to."""
        indices = {f"{p}_indices": getattr(self, p).tolist() for p in (*PARTS, "purged")}
        return {
            "name": self.name,
            "labeled_version": self.labeled,
            "labeled_sha256": self.labeled_sha256,
            "strategy": self.strategy,
            "embargo_bars": self.embargo_bars,
            "counts": {p: len(getattr(self, p)) for p in (*PARTS, "purged")},
            **indices,
        }

    def digest(self) -> str:
        """SHA-256 of the content, whoever wrote it and whenever."""
        return sha256_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Split:
        """Read a split; raises DataError where a field is absent or the strategy is refused."""
        strategy = str(values.get("strategy", "unknown"))
        if strategy not in STRATEGIES:
            raise DataError(
                f"split {values.get('name', '?')!r} has strategy {strategy!r}",
                limit=f"one of {', '.join(STRATEGIES)}",
                remedy="Random and stratified splits put future bars into training",
            )
        try:
            indices = {
                p: np.asarray(values[f"{p}_indices"], dtype=np.int64) for p in (*PARTS, "purged")
            }
            return cls(
                name=str(values["name"]),
                labeled=str(values["labeled_version"]),
                labeled_sha256=str(values["labeled_sha256"]),
                strategy=strategy,
                embargo_bars=int(values.get("embargo_bars", 0)),
                **indices,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"split {values.get('name', '?')!r} is malformed: {error}",
                remedy="Make it again with `moola data build`",
            ) from None


@dataclass(frozen=True, kw_only=True)
class WalkForward:
    """Expanding folds of one labelled set and the test part that none of them touches."""

    name: str
    labeled: str
    labeled_sha256: str
    folds: tuple[Split, ...]
    test: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content."""
        return {
            "name": self.name,
            "labeled_version": self.labeled,
            "labeled_sha256": self.labeled_sha256,
            "strategy": "walk_forward",
            "folds": [fold.to_dict() for fold in self.folds],
            "test_indices": self.test.tolist(),
        }

    def digest(self) -> str:
        """SHA-256 of the content, whoever wrote it and whenever."""
        return sha256_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WalkForward:
        """Read a fold file; raises DataError where it is malformed."""
        if values.get("strategy") != "walk_forward":
            raise DataError(
                f"{values.get('name', '?')!r} has strategy {values.get('strategy')!r}",
                limit="walk_forward",
            )
        try:
            return cls(
                name=str(values["name"]),
                labeled=str(values["labeled_version"]),
                labeled_sha256=str(values["labeled_sha256"]),
                folds=tuple(Split.from_dict(fold) for fold in values["folds"]),
                test=np.asarray(values["test_indices"], dtype=np.int64),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"fold file {values.get('name', '?')!r} is malformed: {error}") from None


@dataclass(frozen=True, kw_only=True)
class WindowTimes:
    """Bars of each window as row numbers of its source, shape (n,), int64.

    `first` and `last` are the window's own bars, `label_end` the last bar its label looks at.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    label_end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)


def purge(
    times: WindowTimes, earlier: NDArray[np.int64], later: NDArray[np.int64], embargo_bars: int = 0
) -> NDArray[np.int64]:
    """Return those of `earlier` whose label ends before `later` begins, less the embargo."""
    if not len(later):
        return earlier
    return earlier[times.label_end[earlier] + embargo_bars < times.first[later].min()]


def forward_chain(
    name: str, recipe: SplitRecipe, times: WindowTimes, labeled_sha256: str
) -> Split:
    """Cut train, val and test by share of windows, in time order, and purge at both borders."""
    n = len(times)
    border = np.round(
        np.array([recipe.train_fraction, recipe.train_fraction + recipe.val_fraction]) * n
    ).astype(int)
    train, val, test = np.split(np.arange(n, dtype=np.int64), border)
    val_kept = purge(times, val, test, recipe.embargo_bars)
    train_kept = purge(times, train, val, recipe.embargo_bars)
    return _checked(name, recipe, labeled_sha256, times, train_kept, val_kept, test)


def walk_forward(
    name: str, recipe: SplitRecipe, times: WindowTimes, labeled_sha256: str
) -> WalkForward:
    """Cut everything before the test part into expanding folds.

    The windows before the test part are cut into ``num_folds + 1`` blocks; fold k trains on blocks
    1 to k and validates on block k + 1, purged.
    """
    n = len(times)
    border = round((recipe.train_fraction + recipe.val_fraction) * n)
    test = np.arange(border, n, dtype=np.int64)
    development = purge(times, np.arange(border, dtype=np.int64), test, recipe.embargo_bars)
    blocks = np.array_split(development, recipe.num_folds + 1)
    none = np.empty(0, dtype=np.int64)
    folds = []
    for k in range(1, recipe.num_folds + 1):
        before = np.concatenate(blocks[:k])
        train = purge(times, before, blocks[k], recipe.embargo_bars)
        folds.append(
            _checked(f"{name}/fold{k}", recipe, labeled_sha256, times, train, blocks[k], none, before)
        )
    return WalkForward(
        name=name, labeled=recipe.labeled, labeled_sha256=labeled_sha256, folds=tuple(folds), test=test
    )


def write_split(path: Path, split: Split | WalkForward, created_by: str) -> None:
    """Write a split file with its maker and time; raises DataError if another content stands there."""
    if path.exists():
        existing = read_split_file(path)
        if existing.digest() != split.digest():
            raise DataError(
                f"{path} exists with another content", remedy="Splits are immutable: use a new name"
            )
        return
    stamp = {"created_by": created_by, "timestamp": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(path, {**split.to_dict(), **stamp})


def read_split_file(path: Path) -> Split | WalkForward:
    """Read a split or fold file; raises DataError if it is absent or malformed."""
    import json

    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise DataError(
            f"split {path.stem!r} does not exist in {path.parent}",
            limit=f"one of: {known}",
            remedy="Make the default ones with `moola data build`",
        ) from None
    except ValueError as error:
        raise DataError(f"split file {path} is not JSON: {error}") from None
    if not isinstance(values, Mapping):
        raise DataError(f"split file {path} holds {type(values).__name__}", limit="an object")
    if values.get("strategy") == "walk_forward" and "folds" in values:
        return WalkForward.from_dict(values)
    return Split.from_dict(values)


def _checked(
    name: str,
    recipe: SplitRecipe,
    labeled_sha256: str,
    times: WindowTimes,
    train: NDArray[np.int64],
    val: NDArray[np.int64],
    test: NDArray[np.int64],
    universe: NDArray[np.int64] | None = None,
) -> Split:
    for part, rows in (("train", train), ("val", val)):
        if not len(rows):
            raise DataError(
                f"split {name!r} leaves no {part} windows of {len(times)}",
                remedy="Take fewer folds, a shorter embargo or more bars",
            )
    kept = np.concatenate([train, val, test])
    everything = np.arange(len(times)) if universe is None else np.union1d(universe, val)
    return Split(
        name=name,
        labeled=recipe.labeled,
        labeled_sha256=labeled_sha256,
        strategy=recipe.strategy,
        train=train,
        val=val,
        test=test,
        purged=np.setdiff1d(everything, kept).astype(np.int64),
        embargo_bars=recipe.embargo_bars,
    )
