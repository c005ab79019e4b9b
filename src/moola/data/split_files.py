"""Split files: what a split holds, how it is read, and what is refused while reading."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.data.split_fields import AGAIN, LEAK, indices, malformed, refuse_strategy, text
from moola.errors import AuditError, DataError
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

    def split(
        self, X: Any = None, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (train, val) once, as scikit-learn's ``cv`` asks; the test part stays locked."""
        _check_length(self.name, X, (self,))
        yield self.train, self.val

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return 1."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """Return the split file's content: indices by part, counts and what they refer to."""
        rows = {f"{p}_indices": getattr(self, p).tolist() for p in (*PARTS, "purged")}
        return {
            "name": self.name,
            "labeled_version": self.labeled,
            "labeled_sha256": self.labeled_sha256,
            "strategy": self.strategy,
            "embargo_bars": self.embargo_bars,
            "counts": {p: len(getattr(self, p)) for p in (*PARTS, "purged")},
            **rows,
        }

    def digest(self) -> str:
        """SHA-256 of the content, whoever wrote it and whenever."""
        return sha256_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Split:
        """Read a split.

        Parameters
        ----------
        values
            What `to_dict` returned, from JSON.

        Returns
        -------
        Split
            With sorted indices.

        Raises
        ------
        DataError
            If a field is absent or of the wrong type, train or val is empty, or the strategy is
            refused.
        AuditError
            If the indices are shuffled or interleaved, as random and stratified splits are.
        """
        name = text(values, "name", "split")
        refuse_strategy(name, values.get("strategy"))
        embargo = values.get("embargo_bars", 0)
        if type(embargo) is not int or embargo < 0:
            malformed(name, f"embargo_bars is {embargo!r}", "a whole number of at least 0")
        split = cls(
            name=name,
            labeled=text(values, "labeled_version", name),
            labeled_sha256=text(values, "labeled_sha256", name),
            strategy=str(values["strategy"]),
            embargo_bars=embargo,
            **{p: indices(values, f"{p}_indices", name) for p in (*PARTS, "purged")},
        )
        counts = values.get("counts", split.to_dict()["counts"])
        if counts != split.to_dict()["counts"]:
            malformed(name, f"counts are {counts!r}", f"{split.to_dict()['counts']}")
        refuse_shuffled(split)
        for part in ("train", "val"):
            if not len(getattr(split, part)):
                malformed(name, f"{part}_indices is empty", "at least one window")
        return split


@dataclass(frozen=True, kw_only=True)
class WalkForward:
    """Folds of one labelled set, forward in time, and the test part that none of them touches."""

    name: str
    labeled: str
    labeled_sha256: str
    folds: tuple[Split, ...]
    test: NDArray[np.int64]

    def split(
        self, X: Any = None, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (train, val) of every fold, as scikit-learn's ``cv`` asks.

        Raises DataError if `X` has fewer rows than the folds refer to.
        """
        _check_length(self.name, X, self.folds)
        for fold in self.folds:
            yield fold.train, fold.val

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds."""
        return len(self.folds)

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
        """Read a fold file; raises what `Split.from_dict` raises."""
        name = text(values, "name", "fold file")
        if values.get("strategy") != "walk_forward":
            malformed(name, f"strategy is {values.get('strategy')!r}", "walk_forward")
        folds = values.get("folds")
        if not isinstance(folds, list) or not folds:
            malformed(name, "it holds no folds", "a list of at least one")
        if not all(isinstance(fold, Mapping) for fold in folds):
            malformed(name, "a fold is not an object", "objects with train and val indices")
        walk = cls(
            name=name,
            labeled=text(values, "labeled_version", name),
            labeled_sha256=text(values, "labeled_sha256", name),
            folds=tuple(Split.from_dict(fold) for fold in folds),
            test=indices(values, "test_indices", name),
        )
        for fold in walk.folds:
            if (fold.labeled, fold.labeled_sha256) != (walk.labeled, walk.labeled_sha256):
                malformed(name, f"fold {fold.name} belongs to another set", walk.labeled)
            late = np.concatenate([fold.train, fold.val])
            if len(walk.test) and late.max() >= walk.test.min():
                raise AuditError(
                    f"fold {fold.name} reaches window {late.max()} of the locked test part",
                    limit=f"windows below {walk.test.min()}",
                    remedy=AGAIN,
                )
        return walk


def write_split(path: Path, split: Split | WalkForward, created_by: str) -> None:
    """Write a split file with its digest, maker and time.

    Raises DataError if other content is stored there: split files are never overwritten.
    """
    if path.exists():
        existing = read_split_file(path)
        if existing.digest() != split.digest():
            raise DataError(
                f"{path} exists with another content", remedy="Splits are immutable: use a new name"
            )
        return
    stamp = {
        "sha256": split.digest(),
        "created_by": created_by,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(path, {**split.to_dict(), **stamp})


def read_split_file(path: Path) -> Split | WalkForward:
    """Read a split or fold file.

    Parameters
    ----------
    path
        JSON, as `write_split` writes it.

    Returns
    -------
    Split or WalkForward
        As its ``strategy`` says.

    Raises
    ------
    DataError
        If it is absent, malformed or of a refused strategy.
    AuditError
        If its indices are shuffled or interleaved, or it changed since it was written.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in path.parent.glob("[!.]*.json"))) or "none"
        raise DataError(
            f"split {path.stem!r} does not exist in {path.parent}",
            limit=f"one of: {names}",
            remedy="Make the default ones with `moola data build`",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"split file {path} is not JSON: {error}", remedy=AGAIN) from None
    if not isinstance(values, Mapping):
        raise DataError(f"split file {path} holds {type(values).__name__}", limit="an object")
    folded = values.get("strategy") == "walk_forward"
    split = WalkForward.from_dict(values) if folded else Split.from_dict(values)
    if values.get("sha256", split.digest()) != split.digest():
        raise AuditError(
            f"split file {path.name} changed since it was made: digest {split.digest()[:12]}",
            limit=str(values["sha256"])[:12],
            remedy=AGAIN,
        )
    return split


def read_indices(path: Path) -> dict[str, NDArray[np.int64]]:
    """Read ``train_indices``, ``val_indices`` and ``test_indices`` that someone else chose.

    Raises DataError if the file is absent or malformed, or names a random strategy.
    """
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"index file {path} cannot be read: {error}") from None
    if not isinstance(values, Mapping):
        raise DataError(f"index file {path} holds {type(values).__name__}", limit="an object")
    if "strategy" in values:
        refuse_strategy(path.stem, values["strategy"])
    return {p: indices(values, f"{p}_indices", path.stem) for p in PARTS}


def refuse_shuffled(split: Split) -> None:
    """Raise AuditError unless each part ascends and ends before the next one begins."""
    previous, highest = "", -1
    for part, rows in split.parts.items():
        falls = np.flatnonzero(np.diff(rows) <= 0)
        if len(falls):
            raise AuditError(
                f"split {split.name!r}: {part} is shuffled, window {rows[falls[0] + 1]} comes "
                f"after window {rows[falls[0]]}",
                limit="ascending windows",
                remedy=LEAK,
            )
        if rows[0] <= highest:
            raise AuditError(
                f"split {split.name!r} holds random or stratified indices: window {rows[0]} of "
                f"{part} is not after window {highest} of {previous}",
                limit="every window of train before val before test",
                remedy=LEAK,
            )
        previous, highest = part, int(rows[-1])


def _check_length(name: str, X: Any, folds: tuple[Split, ...]) -> None:
    needed = max(int(np.concatenate([f.train, f.val]).max()) for f in folds) + 1
    if X is not None and len(X) < needed:
        raise DataError(f"X has {len(X)} rows", limit=f"at least {needed}, as split {name!r} has")
