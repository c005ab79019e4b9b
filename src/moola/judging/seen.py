"""Which bars somebody saw, as the ledger compares them; judgements and searches are noted here."""

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
    """Return the sketch of the market a set was cut from, of its windows where bars are absent."""
    if not labeled.manifest.get("imported"):
        try:
            bars = DataStore(data_root).load_bars(labeled.source)
            return market_sketch(bars.time, bars.ohlc)
        except DataError:
            pass  # the audit says that they are not in this registry
    return sketch_of_windows(labeled)


def bars_seen(labeled: WindowSet, rows: NDArray[np.int64], market: str) -> dict[str, str]:
    """Return what somebody sees who looks at some windows: market, first and last bar.

    Times are UTC; the end of the label's horizon is included.
    """
    clock = labeled.clock[rows]
    first, last = str(clock[:, 0].min()), str(clock[:, 2].max())
    return {"source": labeled.source, "market": market, "first_bar": first, "last_bar": last}


def validation_seen(
    labeled: WindowSet, folds: WalkForward, data_root: Path | str
) -> dict[str, str]:
    """Return what a judgement by walk-forward folds sees."""
    rows = np.concatenate([fold.val for fold in folds.folds])
    seen = bars_seen(labeled, rows, sketch_of(labeled, data_root))
    return {**seen, "split_sha256": folds.digest()}


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
    """Note that configurations are judged together by folds; return how often that was done."""
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
    """Note that a search tries configurations by folds, before it does; return what to say of it.

    A store that cannot be reached does not end a search, whose runs wait for it as well.
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
