"""What is wrong in a bar file: found by reading it, told in figures, never mended here.

Memory is about 10 bytes a bar at most: 100 million bars need one gigabyte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.data.bars import PRICE_COLUMNS
from moola.data.ingest.quality_scan import (
    LISTED,
    Finding,
    chunks,
    find_flat_runs,
    find_gaps,
    find_jumps,
    largest,
    time_line,
)
from moola.data.repeats import RepeatedBlock, find_repeated_blocks
from moola.hashing import sha256_file

__all__ = ["Finding", "QualityReport", "assess"]
_SEARCHED_BARS = 500_000
_NO_CLOCK = {"gaps": "none are counted: these bars do not come by the clock"}


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """A bar file's quality.

    Attributes
    ----------
    name, sha256, num_bars, first_bar, last_bar
        Which file, how long, from when to when (UTC).
    bar_seconds
        The usual (median) distance of two bars.
    counts
        Number of ``gaps``, ``repeated_blocks``, ``flat_bars``, ``flat_runs`` (2 or more),
        ``jumps``.
    findings
        The largest thousand of each kind, in time order; ``flat_runs`` for flat bars.
    change_median, change_mad, jump_mad
        Median and median absolute deviation of relative close-to-close changes, and how many of
        the latter make a jump.
    facts
        Where the file comes from and which repairs were made.
    curve
        Time (us), lowest low, highest high and largest change in MADs of equal stretches of bars,
        shape (m, 4), to plot.
    """

    name: str
    sha256: str
    num_bars: int
    first_bar: str
    last_bar: str
    bar_seconds: float
    counts: Mapping[str, int]
    findings: Mapping[str, tuple[Finding, ...]]
    change_median: float
    change_mad: float
    jump_mad: float
    facts: Mapping[str, Any]
    curve: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the curve."""
        values = asdict(self)
        del values["curve"]
        return values


def assess(
    path: Path, *, jump_mad: float = 30.0, facts: Mapping[str, Any] | None = None
) -> QualityReport:
    """Assess a bar file in Moola's own form.

    Parameters
    ----------
    path
        Parquet with timestamp, open, high, low and close, in time order.
    jump_mad
        A relative close-to-close change further than this many MADs from the median is a jump.
    facts
        What is known about where the file comes from.

    Returns
    -------
    QualityReport
        With gaps (longer than one and a half usual distances of two bars), blocks of 2 or more
        bars that repeat later price for price, flat bars (high = low) and jumps.
    """
    line = time_line(path)
    gaps, num_gaps = find_gaps(path, line)
    blocks, note = _repeated_blocks(path, line.num_bars)
    runs, num_runs, num_flat = find_flat_runs(path)
    jumps, num_jumps, (median, mad), curve = find_jumps(path, line, jump_mad)
    return QualityReport(
        name=path.stem,
        sha256=sha256_file(path),
        num_bars=line.num_bars,
        first_bar=str(line.first),
        last_bar=str(line.last),
        bar_seconds=line.usual / 1e6,
        counts={
            "gaps": num_gaps,
            "repeated_blocks": len(blocks),
            "flat_bars": num_flat,
            "flat_runs": num_runs,
            "jumps": num_jumps,
        },
        findings={
            "gaps": largest(gaps),
            "repeated_blocks": largest([_block_finding(path, b) for b in blocks[:LISTED]]),
            "flat_runs": largest(runs),
            "jumps": largest(jumps),
        },
        change_median=median,
        change_mad=mad,
        jump_mad=jump_mad,
        facts={**(facts or {}), **note, **({} if np.isfinite(line.gap_limit) else _NO_CLOCK)},
        curve=curve,
    )


def _repeated_blocks(path: Path, num_bars: int) -> tuple[list[RepeatedBlock], dict[str, Any]]:
    """Find blocks, in a long file stretch by stretch: both copies must lie within one."""
    blocks: list[RepeatedBlock] = []
    tail, begin = np.empty((0, 4)), 0
    for row, _, ohlc in chunks(path, *PRICE_COLUMNS):
        tail = np.concatenate([tail, ohlc[begin + len(tail) - row :]])
        if len(tail) >= _SEARCHED_BARS or row + len(ohlc) == num_bars:
            blocks += [
                replace(b, first=b.first + begin, again=b.again + begin)
                for b in find_repeated_blocks(tail)
            ]
            tail, begin = tail[:0], begin + len(tail)
    if num_bars > _SEARCHED_BARS:
        return blocks, {"repeated_blocks": f"searched in stretches of {_SEARCHED_BARS:,} bars"}
    return blocks, {}


def _block_finding(path: Path, block: RepeatedBlock) -> Finding:
    when = {}
    for row, time, _ in chunks(path):
        for at in (block.first, block.again):
            if row <= at < row + len(time):
                when[at] = str(time[at - row])
        if len(when) == 2:
            break
    return Finding(
        row=block.again,
        time=when[block.again],
        num_bars=block.num_bars,
        detail=f"{block.num_bars} bars from {when[block.first]} (row {block.first}) reappear",
        size=float(block.num_bars),
    )
