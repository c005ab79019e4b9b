"""Bars: the source every window set is cut from, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.data.repeats import find_repeated_blocks
from moola.errors import DataError, one_line
from moola.hashing import sha256_file

PRICE_COLUMNS = ("open", "high", "low", "close")
ZONE_KEY = b"moola.timezone"  # of a bar file's schema: zone that its times were given, if any
GAP_BARS = 1.5  # usual steps from one bar to the next; clocks jitter, and days have 25 hours
LOWEST_PRICE, HIGHEST_PRICE = 1e-37, 3e38  # what single precision, in which windows are kept, holds


@dataclass(frozen=True, kw_only=True)
class Bars:
    """OHLC bars of one instrument.

    Attributes
    ----------
    name
        Name of the source, for example ``btcusd_1h``.
    time
        Opening time of each bar, UTC, strictly increasing, shape (N,), datetime64[us].
    ohlc
        Open, high, low, close in price units, shape (N, 4), float64; finite and positive, with
        low <= open, close <= high.
    sha256
        Digest of the file the bars were read from.
    zone
        Zone that the bars' own times were given because they named none; None if they named one.
    """

    name: str
    time: NDArray[np.datetime64]
    ohlc: NDArray[np.float64]
    sha256: str
    zone: str | None = None

    def __len__(self) -> int:
        return len(self.time)


def read_bars(path: Path) -> Bars:
    """Read a bar file in Moola's own form.

    Parquet with the columns timestamp, open, high, low and close; others are ignored.

    Parameters
    ----------
    path
        Parquet with the columns timestamp, open, high, low and close; others are ignored.

    Returns
    -------
    Bars
        Times in UTC, prices float64; none is NaN.

    Raises
    ------
    DataError
        If the file is absent or malformed, or if times or prices break their rules.
    """
    path = Path(path)
    try:
        table = pq.read_table(path, columns=["timestamp", *PRICE_COLUMNS])
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.parquet"))) or "none"
        raise DataError(
            f"bar file {path} does not exist",
            limit=f"one of: {names}",
            remedy=None
            if names != "none"
            else "`moola data init` brings those that ship with Moola, `moola data ingest FILE` "
            "your own",
        ) from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(
            f"bar file {path} cannot be read: {one_line(error)}",
            limit=f"parquet with the columns timestamp, {', '.join(PRICE_COLUMNS)}",
        ) from None
    try:
        time = table["timestamp"].cast(pa.timestamp("us", tz="UTC")).to_numpy()
        ohlc = np.column_stack(
            [table[c].cast(pa.float64()).to_numpy(zero_copy_only=False) for c in PRICE_COLUMNS]
        )
    except pa.ArrowException as error:
        raise DataError(
            f"bar file {path} has a column of the wrong type: {one_line(error)}"
        ) from None
    check_bars(path.name, time, ohlc)
    zone = (table.schema.metadata or {}).get(ZONE_KEY)
    return Bars(
        name=path.stem, time=time, ohlc=ohlc, sha256=sha256_file(path),
        zone=zone.decode() if zone is not None else None,
    )  # fmt: skip


def num_bars(path: Path) -> int:
    """Return how many bars a bar file holds, by its footer alone."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"bar file {path} cannot be read: {one_line(error)}") from None


def check_bars(name: str, time: NDArray[np.datetime64], ohlc: NDArray[np.float64]) -> None:
    """Raise DataError, naming the first offending bar, unless times and prices keep their rules."""
    if len(time) == 0:
        raise DataError(f"{name} holds no bars")
    low, high = ohlc[:, 2], ohlc[:, 1]
    with np.errstate(invalid="ignore"):
        faults = {
            "a missing time": np.isnat(time),
            "a price that is not a positive number": ~(np.isfinite(ohlc) & (ohlc > 0)).all(axis=1),
            "high below open, low or close": high < ohlc.max(axis=1),
            "low above open, high or close": low > ohlc.min(axis=1),
            "a time not after the one before": np.r_[False, time[1:] <= time[:-1]],
        }
    for fault, bad in faults.items():
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{name} has {fault} in {int(bad.sum())} bars, first row {row} "
                f"({time[row]}, OHLC {', '.join(f'{p:g}' for p in ohlc[row])})",
                remedy="Mend the file, or ingest it again with a repair that is recorded",
            )


def repeated_mask(bars: Bars) -> NDArray[np.bool_]:
    """Return True, shape (N,), for every bar of a repeated block, the first copy included."""
    mask = np.zeros(len(bars), dtype=bool)
    for block in find_repeated_blocks(bars.ohlc):
        mask[block.first : block.first + block.num_bars] = True
        mask[block.again : block.again + block.num_bars] = True
    return mask


def usual_step(steps: NDArray[np.int64]) -> float:
    """Return the median of the distances of two bars in microseconds; 0 where there is none."""
    return float(np.median(steps)) if len(steps) else 0.0


def is_step(step: Any, usual: float) -> Any:
    """Return whether a distance of two bars, or each of an array of them, is the usual one.

    The clocks of exchanges are off by a little, so a tenth of it is allowed.
    """
    return abs(step - usual) <= usual / 10


def gap_limit(usual: float, num_usual: int, num_steps: int, gap_bars: float = GAP_BARS) -> float:
    """Return the distance of two bars beyond which bars are missing.

    Parameters
    ----------
    usual
        The usual (median) distance.
    num_usual, num_steps
        How many of all distances are the usual one (`is_step`).
    gap_bars
        How many usual distances are no gap yet.

    Returns
    -------
    float
        Infinite for bars that come when something has been traded, not by the clock (dollar,
        volume and tick bars): fewer than half of their distances are the usual one, and none of
        them says that a bar is missing.
    """
    by_the_clock = num_steps < 3 or 2 * num_usual >= num_steps
    return gap_bars * usual if by_the_clock else np.inf


def gap_mask(bars: Bars, gap_bars: float = GAP_BARS) -> NDArray[np.bool_]:
    """Return True, shape (N,), for every bar that follows its predecessor too late.

    Too late is more than `gap_bars` of the usual (median) distance between bars; of bars that do
    not come by the clock, none is.
    """
    steps = np.diff(bars.time).astype(np.int64)
    usual = usual_step(steps)
    num_usual = int(np.count_nonzero(is_step(steps, usual)))
    return np.r_[False, steps > gap_limit(usual, num_usual, len(steps), gap_bars)]
