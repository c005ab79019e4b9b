"""The bars of a look, as the ledger compares them, and records of judgements and searches."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moola.config import names
from moola.config.promotion import TRUSTED_FOLDER
from moola.data.market import market_sketch, sketch_of_windows
from moola.data.splits import WalkForward
from moola.data.store.data_store import DataStore, WindowSet
from moola.errors import DataError, MoolaError
from moola.promotion.evidence.keys import load_trusted_keys
from moola.promotion.ledger.tries import Tries, note_judgement, note_search
from moola.promotion.production import ledger_of, runner_key
from moola.tracking.store import connect

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sketch_of(labeled: WindowSet, data_root: Path | str) -> str:
    """Return the market sketch of a set, from its bars or, if these are absent, its windows."""
    if not labeled.manifest.get("imported"):
        try:
            bars = DataStore(data_root).load_bars(labeled.source)
            return market_sketch(bars.time, bars.ohlc)
        except DataError:
            pass  # the audit reports that they are not in this data store
    return sketch_of_windows(labeled)


def bars_seen(labeled: WindowSet, rows: NDArray[np.int64], market: str) -> dict[str, str]:
    """Return the market, first and last bar of a look at some windows.

    Times are UTC; the label's horizon is included.
    """
    clock = labeled.clock[rows]
    first, last = str(clock[:, 0].min()), str(clock[:, 2].max())
    return {"source": labeled.source, "market": market, "first_bar": first, "last_bar": last}


def validation_seen(
    labeled: WindowSet, folds: WalkForward, data_root: Path | str
) -> dict[str, str]:
    """Return the bars that a judgement by walk-forward folds sees."""
    rows = np.concatenate([fold.val for fold in folds.folds])
    bars = bars_seen(labeled, rows, sketch_of(labeled, data_root))
    return {**bars, "split_sha256": folds.digest()}


def judged_on(
    labeled: WindowSet,
    folds: WalkForward,
    judged: Sequence[str],
    *,
    name: str,
    data_root: Path | str,
    project: Path,
    key: Ed25519PrivateKey,
) -> Tries:
    """Record a judgement of several configurations by folds; return the number of tries."""
    return note_judgement(
        ledger_of(None, project),
        validation_seen(labeled, folds, data_root),
        judged,
        name=name,
        who=getpass.getuser(),
        key=key,
        keys=load_trusted_keys(project / TRUSTED_FOLDER),
    )


def searched_on(
    labeled: WindowSet,
    folds: WalkForward,
    *,
    search: str,
    tried: int,
    data_root: Path | str,
    project: Path,
) -> str:
    """Record a search over configurations by folds before it starts; return a note about it.

    An unreachable store does not end the search, since its runs wait for the store as well.
    """
    try:
        connect(makes=True)
        note_search(
            ledger_of(None, project),
            validation_seen(labeled, folds, data_root),
            search=search,
            tried=tried,
            name=names.REGISTERED_MODEL,
            who=getpass.getuser(),
            key=runner_key(project),
        )
    except MoolaError as error:
        return f"not counted in the ledger: {error.problem}"
    return f"counted in the ledger: {tried}"
