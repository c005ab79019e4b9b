"""The audit: may a run on this data be believed? Every check names the windows it objects to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.data.splits import Split, WindowTimes
from moola.errors import AuditError, DataError

_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class CorpusClaim:
    """Which bars a pretraining corpus covers, as an encoder's checkpoint states it."""

    name: str
    sha256: str
    source: str
    source_sha256: str
    first_bar: str
    last_bar: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CorpusClaim:
        """Read a claim; raises DataError where a field is absent."""
        try:
            return cls(**{k: str(values[k]) for k in cls.__dataclass_fields__})
        except (KeyError, TypeError):
            raise DataError(
                "the corpus claim is incomplete",
                limit=f"the fields {', '.join(cls.__dataclass_fields__)}",
                remedy="Pretrain the encoder with Moola, which writes it",
            ) from None

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the audit and its answer."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class AuditTrail:
    """What was checked, on which data, with what result."""

    checks: tuple[Check, ...]
    facts: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(c.passed for c in self.checks)

    def require(self) -> None:
        """Raise AuditError with the first failed check."""
        for check in self.checks:
            if not check.passed:
                raise AuditError(f"audit of {self.facts['split']}: {check.name}: {check.detail}")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "passed": self.passed,
            "checks": [asdict(c) for c in self.checks],
            **self.facts,
        }


def audit_split(
    split: Split,
    *,
    y: NDArray[np.int64] | None,
    num_classes: int,
    X_NTC: NDArray[np.float32],
    times: WindowTimes,
    clock: NDArray[np.datetime64],
    labeled_name: str,
    labeled_sha256: str,
    source: str,
    corpus: CorpusClaim | None = None,
    X_corpus_NTC: NDArray[np.float32] | None = None,
) -> AuditTrail:
    """Check a split of a labelled set.

    Index errors end the audit early, since nothing else can be read then; all other checks are
    made and reported together.
    """
    checks = [_digest_check(split, labeled_name, labeled_sha256), *_index_checks(split, len(times))]
    if all(c.passed for c in checks):
        checks += _order_checks(split, times)
        checks.append(_duplicate_check(split, X_NTC))
        checks.append(_class_check(split, y, num_classes))
        if corpus is not None:
            checks += _corpus_checks(split, clock, source, corpus, X_NTC, X_corpus_NTC)
    facts: dict[str, Any] = {
        "labeled_version": labeled_name,
        "labeled_sha256": labeled_sha256,
        "source": source,
        "split": split.name,
        "split_sha256": split.digest(),
        "counts": {**{p: len(i) for p, i in split.parts.items()}, "purged": len(split.purged)},
        "synthetic_applied": False,
        "synthetic_ratio": 0.0,
        "n_real_train": len(split.train),
        "n_synthetic_train": 0,
        "val_synthetic_count": 0,
        "test_synthetic_count": 0,
        "corpus": corpus.to_dict() if corpus else None,
    }
    if all(c.passed for c in checks):
        facts["bars"] = {
            part: [str(clock[rows, 0].min()), str(clock[rows, 2].max())]
            for part, rows in split.parts.items()
        }
    return AuditTrail(checks=tuple(checks), facts=facts)


def bar_pair_keys(X_NTC: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a 64-bit key of every two neighbouring bars, shape (n, T - 1).

    Two bars that agree in all eight prices do not meet by chance; pairs in which both bars are
    flat get key 0 and mean nothing.
    """
    X = np.ascontiguousarray(X_NTC, dtype=np.float32)
    words = X.view(np.uint64)  # (n, T, 2)
    odd = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
    bar = words[..., 0] * odd[0] ^ (words[..., 1] * odd[1])
    bar ^= bar >> np.uint64(29)
    key = bar[:, :-1] * odd[0] ^ (bar[:, 1:] * odd[1] + np.uint64(0x165667B19E3779F9))
    flat = X[..., 1] == X[..., 2]
    key[flat[:, :-1] & flat[:, 1:]] = 0
    return np.asarray(key)


def _digest_check(split: Split, name: str, sha256: str) -> Check:
    same = split.labeled == name and split.labeled_sha256 == sha256
    return Check(
        name="split belongs to this set",
        passed=same,
        detail=f"made for {split.labeled} {split.labeled_sha256[:12]}, set is {name} {sha256[:12]}",
    )


def _index_checks(split: Split, num_windows: int) -> list[Check]:
    arrays = {**split.parts, "purged": split.purged}
    everything = np.concatenate(list(arrays.values())) if arrays else np.empty(0, dtype=np.int64)
    outside = everything[(everything < 0) | (everything >= num_windows)]
    values, counts = np.unique(everything, return_counts=True)
    twice = values[counts > 1]
    unsorted = [p for p, rows in split.parts.items() if (np.diff(rows) <= 0).any()]
    covered = split.strategy != "forward_chaining" or len(values) == num_windows
    return [
        Check(
            name="indices exist",
            passed=not len(outside) and len(split.train) > 0,
            detail=_windows(outside, f"all inside 0 to {num_windows - 1}"),
        ),
        Check(
            name="parts are disjoint",
            passed=not len(twice),
            detail=_windows(twice, "no window in two parts"),
        ),
        Check(
            name="parts are in time order",
            passed=not unsorted,
            detail=f"shuffled: {', '.join(unsorted)}" if unsorted else "every part ascends",
        ),
        Check(
            name="every window is accounted for",
            passed=covered,
            detail=f"{len(values)} of {num_windows} in train, val, test or purged",
        ),
    ]


def _order_checks(split: Split, times: WindowTimes) -> list[Check]:
    checks = []
    for (a, early), (b, late) in combinations(split.parts.items(), 2):
        begin = int(times.first[late].min())
        shared = early[times.label_end[early] + split.embargo_bars >= begin]
        checks.append(
            Check(
                name=f"no bar shared between {a} and {b}",
                passed=not len(shared),
                detail=_windows(shared, f"labels of {a} end before {b} begins (bar {begin})"),
            )
        )
    return checks


def _duplicate_check(split: Split, X_NTC: NDArray[np.float32]) -> Check:
    seen: dict[bytes, tuple[str, int]] = {}
    clashes: list[str] = []
    for part, rows in split.parts.items():
        for row in rows.tolist():
            key = hashlib.blake2b(np.ascontiguousarray(X_NTC[row]).data, digest_size=16).digest()
            other = seen.setdefault(key, (part, row))
            if other[0] != part:
                clashes.append(f"{other[1]} ({other[0]}) = {row} ({part})")
    return Check(
        name="no window stands in two parts under two ids",
        passed=not clashes,
        detail="windows " + "; ".join(clashes[:_NAMED]) if clashes else "all windows differ",
    )


def _class_check(split: Split, y: NDArray[np.int64] | None, num_classes: int) -> Check:
    if y is None:
        return Check(name="every class in every part", passed=False, detail="the set has no labels")
    faults = []
    for part, rows in split.parts.items():
        labels = y[rows]
        missing = sorted(set(range(num_classes)) - set(labels.tolist()))
        foreign = rows[(labels < 0) | (labels >= num_classes)]
        if missing:
            faults.append(f"{part} lacks class {', '.join(map(str, missing))}")
        if len(foreign):
            faults.append(_windows(foreign, "") + f" in {part} hold labels outside 0..{num_classes - 1}")
    return Check(
        name="every class in every part",
        passed=not faults,
        detail="; ".join(faults) or f"all {num_classes} classes in {', '.join(split.parts)}",
    )


def _corpus_checks(
    split: Split,
    clock: NDArray[np.datetime64],
    source: str,
    corpus: CorpusClaim,
    X_NTC: NDArray[np.float32],
    X_corpus_NTC: NDArray[np.float32] | None,
) -> list[Check]:
    held_out = np.concatenate([split.val, split.test])
    begin, end = np.datetime64(corpus.first_bar), np.datetime64(corpus.last_bar)
    inside = held_out[(clock[held_out, 2] >= begin) & (clock[held_out, 0] <= end)]
    same_source = corpus.source == source
    when = f"corpus covers {corpus.source} from {corpus.first_bar} to {corpus.last_bar}"
    if len(inside) and not same_source:
        when += f"; warning: the same calendar time as {len(inside)} held-out windows"
    checks = [
        Check(
            name="pretraining corpus ends before val and test",
            passed=not (len(inside) and same_source),
            detail=_windows(inside, when) if same_source else when,
        )
    ]
    if X_corpus_NTC is not None:
        known = np.unique(bar_pair_keys(X_corpus_NTC))
        known = known[known != 0]
        hits = held_out[np.isin(bar_pair_keys(X_NTC[held_out]), known).any(axis=1)]
        checks.append(
            Check(
                name="no held-out bars inside the pretraining corpus",
                passed=not len(hits),
                detail=_windows(hits, f"{len(known)} pairs of corpus bars, none held out"),
            )
        )
    return checks


def _windows(rows: NDArray[np.int64], otherwise: str) -> str:
    if not len(rows):
        return otherwise
    named = ", ".join(str(r) for r in rows[:_NAMED].tolist())
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"windows {named}{more}"
