"""The audit: may a run on this data be believed? Every check names the windows it objects to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.data.audit.duplicates import bar_pair_keys, same_windows, shifted_copies
from moola.data.audit.trail import NAMED, AuditTrail, Check, CorpusClaim, name_windows
from moola.data.splits import Split
from moola.data.store.sets import WindowSet
from moola.data.windows import WindowTimes

_ALL_WINDOWS = 20_000  # so many are searched for copies one by one, of more a cover of the bars
_CORPUS_BLOCK = 20_000
_STEP = 0.05  # of normalised prices, in the search for windows at another price level


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
    extra: Sequence[Check] = (),
) -> AuditTrail:
    """Check a split of a labelled set.

    Index errors end the audit early, since nothing else can be read then; all other checks are
    made and reported together.

    Parameters
    ----------
    split
        The split.
    y, num_classes
        Labels of the set, shape (n,), and its number of classes.
    X_NTC, times, clock
        Windows in price units, shape (n, T, 4), their bars and their UTC times, shape (n, 3).
    labeled_name, labeled_sha256, source
        What the set is called, its digest and the bars it was cut from.
    corpus, X_corpus_NTC
        What an encoder was pretrained on, and its windows where they are at hand.
    extra
        Further checks to report with these, for example those of `moola.data.audit.lineage`.

    Returns
    -------
    AuditTrail
        Every check with its answer, and the facts a run logs; it raises nothing by itself.
    """
    checks = [_digest_check(split, labeled_name, labeled_sha256), *_index_checks(split, len(times))]
    if all(c.passed for c in checks):
        checks += _order_checks(split, times)
        checks.append(_purge_check(split, times))
        checks += _duplicate_checks(split, X_NTC, times)
        checks.append(_class_check(split, y, num_classes))
        if corpus is not None:
            checks.append(_corpus_time_check(split, clock, source, corpus))
            checks += _corpus_bar_checks(split, X_NTC, X_corpus_NTC)
    checks += extra
    facts: dict[str, Any] = {
        "labeled_version": labeled_name,
        "labeled_sha256": labeled_sha256,
        "source": source,
        **_split_facts(split),
        "corpus": corpus.to_dict() if corpus else None,
    }
    if all(c.passed for c in checks):
        facts |= _spans(split, clock)
    return AuditTrail(checks=tuple(checks), facts=facts)


def audit_corpus(
    corpus: WindowSet,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
    *,
    extra: Sequence[Check] = (),
) -> AuditTrail:
    """Check what an encoder is going to be pretrained on.

    Parameters
    ----------
    corpus
        An unlabelled set.
    train, held_out
        Rows to train on and rows to measure on, in time order.
    extra
        Further checks to report with these, for example those of `moola.data.audit.lineage`.

    Returns
    -------
    AuditTrail
        Every check with its answer, and the facts a run logs; it raises nothing by itself.
    """
    times = corpus.times
    shared = train[times.last[train] >= times.first[held_out].min()]
    purged = len(corpus) - len(train) - len(held_out)
    checks = (
        Check(
            name="no bar shared between train and held-out",
            passed=not len(shared),
            detail=name_windows(shared, f"{len(held_out)} windows held out, {purged} purged"),
        ),
        *extra,
    )
    return AuditTrail(
        checks=checks,
        facts={
            "split": corpus.name,
            "source": corpus.source,
            "corpus": corpus.claim().to_dict(),
            "counts": {"train": len(train), "val": len(held_out), "purged": purged},
            "recipe": corpus.manifest["recipe"],
        },
    )


def _split_facts(split: Split) -> dict[str, Any]:
    """Return what the trail says of the split itself, before synthetic windows are added."""
    return {
        "split": split.name,
        "split_sha256": split.digest(),
        "counts": {**{p: len(i) for p, i in split.parts.items()}, "purged": len(split.purged)},
        "synthetic_applied": False,
        "synthetic_ratio": 0.0,
        "n_real_train": len(split.train),
        "n_synthetic_train": 0,
        "val_synthetic_count": 0,
        "test_synthetic_count": 0,
    }


def _spans(split: Split, clock: NDArray[np.datetime64]) -> dict[str, Any]:
    """Return from when to when each part and each stretch of purged windows looks at bars."""
    parts = {
        part: [str(clock[rows, 0].min()), str(clock[rows, 2].max())]
        for part, rows in split.parts.items()
    }
    purged = [[str(clock[run[0], 0]), str(clock[run[-1], 2])] for run in _runs(split.purged)]
    return {"bars": parts, "purged_bars": purged}


def _runs(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut ascending rows into runs without holes."""
    return [r for r in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(r)]


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
            detail=name_windows(outside, f"all inside 0 to {num_windows - 1}"),
        ),
        Check(
            name="parts are disjoint",
            passed=not len(twice),
            detail=name_windows(twice, "no window in two parts"),
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
                detail=name_windows(shared, f"labels of {a} end before {b} begins (bar {begin})"),
            )
        )
    return checks


def _purge_check(split: Split, times: WindowTimes) -> Check:
    """Only windows that had to go may be called purged: leaving out others picks the figures."""
    begins = [int(times.first[rows].min()) for rows in split.parts.values()]
    reach = times.label_end[split.purged] + split.embargo_bars
    needed = np.zeros(len(split.purged), dtype=bool)
    for begin in begins[1:]:
        needed |= (times.first[split.purged] < begin) & (reach >= begin)
    spare = split.purged[~needed]
    return Check(
        name="only windows that reach into the next part are purged",
        passed=not len(spare),
        detail=name_windows(spare, f"{len(split.purged)} windows purged"),
    )


def _duplicate_checks(split: Split, X_NTC: NDArray[np.float32], times: WindowTimes) -> list[Check]:
    parts = split.parts
    exact = same_windows(X_NTC, parts)
    near = same_windows(X_NTC, parts, step=_STEP) if not exact else []
    checks = [
        _same_check("no window is in two parts under two ids", exact),
        _same_check("no window is in two parts at another price level", near),
    ]
    cover = {part: _cover(rows, times) for part, rows in parts.items()}
    held_out = np.concatenate([cover.get(p, np.empty(0, dtype=np.int64)) for p in ("val", "test")])
    copies = [] if exact else shifted_copies(X_NTC, cover["train"], held_out)
    checks.append(
        Check(
            name="no stretch of train reappears in val or test",
            passed=not copies,
            detail="windows "
            + "; ".join(
                f"{c.a} from bar {c.a_bar} = {c.b} from bar {c.b_bar} ({c.num_bars} bars, "
                f"correlation {c.correlation:.4f})"
                for c in copies[:NAMED]
            )
            if copies
            else f"{len(held_out)} held-out windows searched for shifted copies",
        )
    )
    return checks


def _same_check(name: str, clashes: list[tuple[str, int, str, int]]) -> Check:
    named = "; ".join(f"{a} ({p}) = {b} ({q})" for p, a, q, b in clashes[:NAMED])
    return Check(name=name, passed=not clashes, detail=f"windows {named}" if clashes else "none")


def _cover(rows: NDArray[np.int64], times: WindowTimes) -> NDArray[np.int64]:
    """Return `rows`, or where there are many, enough of them to hold every two bars of all."""
    if len(rows) <= _ALL_WINDOWS:
        return rows
    chain = [0]
    while chain[-1] < len(rows) - 1:
        reach = np.searchsorted(times.first[rows], times.last[rows[chain[-1]]]) - 1
        chain.append(max(int(reach), chain[-1] + 1))
    return rows[chain]


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
            named = name_windows(foreign, "")
            faults.append(f"{named} in {part} hold labels outside 0..{num_classes - 1}")
    return Check(
        name="every class in every part",
        passed=not faults,
        detail="; ".join(faults) or f"all {num_classes} classes in {', '.join(split.parts)}",
    )


def _corpus_time_check(
    split: Split, clock: NDArray[np.datetime64], source: str, corpus: CorpusClaim
) -> Check:
    held_out = np.concatenate([split.val, split.test])
    begin, end = corpus.span()
    late = held_out[clock[held_out, 0] <= end]
    when = f"corpus covers {corpus.source} from {corpus.first_bar} to {corpus.last_bar}"
    same_source = corpus.source == source
    inside = late[clock[late, 2] >= begin]
    if len(inside) and not same_source:
        when += f"; warning: the same calendar time as {len(inside)} held-out windows"
    return Check(
        name="pretraining corpus ends before val and test",
        passed=not (len(late) and same_source),
        detail=name_windows(late, when) if same_source else when,
    )


def _corpus_bar_checks(
    split: Split, X_NTC: NDArray[np.float32], X_corpus_NTC: NDArray[np.float32] | None
) -> list[Check]:
    name = "no held-out bars inside the pretraining corpus"
    if X_corpus_NTC is None:
        detail = "not compared: the corpus is not in this data store"
        return [Check(name=name, passed=True, detail=detail)]
    held_out = np.concatenate([split.val, split.test])
    set_bars = np.empty(0, dtype=np.uint64)
    for begin in range(0, len(X_corpus_NTC), _CORPUS_BLOCK):
        block = X_corpus_NTC[begin : begin + _CORPUS_BLOCK]
        set_bars = np.union1d(set_bars, bar_pair_keys(block))
    set_bars = set_bars[set_bars != 0]
    hits = held_out[np.isin(bar_pair_keys(X_NTC[held_out]), set_bars).any(axis=1)]
    return [
        Check(
            name=name,
            passed=not len(hits),
            detail=name_windows(hits, f"{len(set_bars)} pairs of corpus bars, none held out"),
        )
    ]
