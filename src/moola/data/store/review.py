"""Review: what a data store holds, and whether it may still be believed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moola.data.audit.synthetic import synthetic_checks
from moola.data.audit.trail import AuditTrail, Check, CorpusClaim, name_windows
from moola.data.imported import UNPROVEN
from moola.data.splits import Split, WalkForward
from moola.errors import AuditError, DataError

if TYPE_CHECKING:
    from moola.data.store.data_store import DataStore
    from moola.data.store.sets import WindowSet


def verify(store: DataStore, name: str) -> list[AuditTrail]:
    """Check one set, synthetic set or split as thoroughly as it can be checked.

    Digests are compared with the manifest, a set is derived again from its bars (features
    included), a synthetic set is tested again, and every fold of a split is audited.

    Parameters
    ----------
    store
        Where it is stored.
    name
        ``labeled_windows/v1``, ``synthetic_cache/x`` or ``splits/fwd_chain_v3``.

    Returns
    -------
    One audit trail for a set or a split, one a fold for folds.

    Raises
    ------
    DataError, AuditError
        If it cannot be read, or a digest differs.
    """
    kind = name.partition("/")[0]
    if kind == "splits":
        return audit_any_split(store, store.read_split(name))
    if kind == "synthetic_cache":
        synthetic = store.load_synthetic(name)
        labeled = store.load_set(synthetic.labeled)
        checks, _ = synthetic_checks(synthetic, labeled, store.load_split(synthetic.split))
    else:
        checks = store.lineage(store.load_set(name), with_features=True)
    digests = Check(name="every file has the digest of its manifest", passed=True, detail=name)
    return [AuditTrail(checks=(digests, *checks), facts={"split": name})]


def audit_folds(
    store: DataStore,
    labeled: WindowSet,
    walk: WalkForward,
    *,
    split: Split | None = None,
    corpus: CorpusClaim | None = None,
) -> list[AuditTrail]:
    """Audit every fold: that it stays away from the locked test part, and leaves nothing out.

    Parameters
    ----------
    store
        Where set and bars are stored.
    labeled
        The labelled set.
    walk
        Its walk-forward folds.
    split
        The split of a candidate that the folds judge: its test part is locked too.
    corpus
        What an encoder was pretrained on.

    Returns
    -------
    One audit trail a fold, in their order.
    """
    tests = [walk.test] if split is None else [walk.test, split.test]
    ends = [None, *(int(fold.val.max()) + 1 for fold in walk.folds)]
    trails = []
    for end, fold in zip(ends, walk.folds, strict=False):
        trail = store.audit(labeled, fold, corpus=corpus)
        checks = trail.checks
        if all(c.passed for c in checks):  # else its rows may not even exist
            until = walk.test.min() if len(walk.test) and fold is walk.folds[-1] else None
            spare = _left_out(fold, after=end, until=until)
            spare = spare[~_reaching(labeled, fold, spare, walk.test)]
            checks = (
                *checks,
                _locked_check(labeled, fold, tests),
                Check(
                    name="no window before the test part is left out",
                    passed=not len(spare),
                    detail=name_windows(spare, f"{len(fold.val)} windows validated"),
                ),
            )
        trails.append(AuditTrail(checks=checks, facts=trail.facts))
    return trails


def _reaching(
    labeled: WindowSet, fold: Split, rows: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which of `rows` have a label, or an embargo after it, that reaches into `test`."""
    if not len(test):
        return np.zeros(len(rows), dtype=bool)
    begin = labeled.times.first[test].min()
    reaching: NDArray[np.bool_] = labeled.times.label_end[rows] + fold.embargo_bars >= begin
    return reaching


def _locked_check(labeled: WindowSet, fold: Split, tests: list[NDArray[np.int64]]) -> Check:
    rows = np.concatenate([fold.train, fold.val])
    shared = rows[np.any([_reaching(labeled, fold, rows, test) for test in tests], axis=0)]
    locked = len(np.unique(np.concatenate(tests)))
    return Check(
        name="no bar shared with the locked test part",
        passed=not len(shared),
        detail=name_windows(shared, f"{locked} windows locked"),
    )


def _left_out(fold: Split, *, after: int | None, until: int | None) -> NDArray[np.int64]:
    """Return the windows a fold passes over: leaving some out picks the figures.

    `after` is where the fold before stopped validating, `until` where the test part begins.
    """
    used = np.concatenate([fold.train, fold.val, fold.purged])
    first, last = int(fold.val.min()), int(fold.val.max()) + 1
    return np.concatenate(
        [
            np.setdiff1d(np.arange(used.min(), last), used),
            np.arange(first if after is None else after, first),
            np.arange(last, last if until is None else until),
        ]
    )


def describe(store: DataStore, name: str | None = None) -> dict[str, Any]:
    """Return what there is (no name), or the facts of one set, split or bar set.

    Raises DataError or AuditError if the one named is absent or must not be believed; the list says
    so in the place of its content.
    """
    if name is None:
        return {"sets": [_summary(store, n) for n in store.names()]}
    kind, _, rest = name.partition("/")
    if kind == "bars":
        bars = store.load_bars(rest)
        facts: dict[str, Any] = {
            "bars": len(bars),
            "first bar": str(bars.time[0]),
            "last bar": str(bars.time[-1]),
            "sha256": bars.sha256,
        }
        return {**facts, **_quality_counts(store, rest)}
    if kind == "splits":
        return _describe_split(store.read_split(name))
    if kind == "synthetic_cache":
        synthetic = store.load_synthetic(name)
        return {
            "windows": len(synthetic),
            "made from": f"{synthetic.labeled} under {synthetic.split}",
            "settings": dict(synthetic.config),
            "sha256": synthetic.sha256,
        }
    windows = store.load_set(name)
    fields = ("T", "D_feats", "K", "num_windows", "class_distribution", "source", "step_bars")
    left_out = {"windows": windows.left_out.words} if windows.left_out is not None else {}
    if windows.manifest.get("imported"):
        left_out = {"windows": UNPROVEN}
    return {
        **{k: windows.meta[k] for k in fields if k in windows.meta},
        **left_out,
        "first bar": str(windows.clock[0, 0]),
        "last label ends": str(windows.clock[:, 2].max()),
        "recipe": windows.recipe.to_dict(),
        "created by": windows.manifest["created_by"],
        "created at": windows.manifest["timestamp"],
        "sha256": windows.sha256,
    }


def audit_any_split(store: DataStore, split: Split | WalkForward) -> list[AuditTrail]:
    """Audit a split, stored or not, or every fold of one, as thoroughly as it can be."""
    labeled = store.load_set(split.labeled)
    if isinstance(split, WalkForward):
        return audit_folds(store, labeled, split)
    return [store.audit(labeled, split)]


def _describe_split(split: Split | WalkForward) -> dict[str, Any]:
    folds = [split] if isinstance(split, Split) else list(split.folds)
    counts = {
        f.name: {**{p: len(r) for p, r in f.parts.items()}, "purged": len(f.purged)} for f in folds
    }
    return {
        "set": split.labeled,
        "strategy": folds[0].strategy,
        "embargo_bars": folds[0].embargo_bars,
        **counts,
        "sha256": split.digest(),
    }


def _summary(store: DataStore, name: str) -> dict[str, Any]:
    """One line of the list; a set that cannot be believed says why."""
    try:
        facts = describe(store, name)
    except (DataError, AuditError) as error:
        return {"name": name, "content": str(error), "sha256": ""}
    windows = facts.get("num_windows", facts.get("windows"))
    content = f"{windows} windows" if windows is not None else f"split of {facts['set']}"
    if "num_windows" in facts and "left out" in str(facts.get("windows")):
        content = facts["windows"]
    return {"name": name, "content": content, "sha256": facts["sha256"][:16]}


def _quality_counts(store: DataStore, source: str) -> dict[str, Any]:
    path = store.data_root / "bars" / f"{source}.quality.json"
    try:
        counts = json.loads(path.read_text())["counts"]
    except (OSError, ValueError, KeyError, TypeError):
        return {"quality": "no report: ingest the file to get one"}
    return {"quality": counts}
