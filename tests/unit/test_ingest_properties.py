"""Whatever spelling, unit, zone and order: bars come back exact or are refused, never as others."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from moola.data.bars import read_bars
from moola.data.ingest import IngestOptions
from moola.data.ingest.run import convert
from moola.errors import MoolaError

ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Tokyo", "Asia/Kolkata")
STEPS = (1, 60, 300, 3600, 14400, 86400)
# how an epoch is written: numbers a second
EPOCHS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# texts without a zone, each with the --time-format it needs, if any
NAIVE = {
    "%Y-%m-%d %H:%M:%S": None,
    "%Y-%m-%dT%H:%M:%S": None,
    "%Y/%m/%d %H:%M:%S": None,
    "%d.%m.%Y %H:%M:%S": None,
    "%d.%m.%Y %H:%M:%S.000": None,
    "%Y.%m.%d %H:%M:%S": None,
    "%Y%m%d %H%M%S": None,
    "%Y%m%d%H%M%S": None,
    "%d-%b-%Y %H:%M:%S": None,
    "%b %d, %Y %I:%M:%S %p": None,
    "%m/%d/%Y %H:%M:%S": "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S": "%d/%m/%Y %H:%M:%S",
    "%m/%d/%y %I:%M:%S %p": "%m/%d/%y %I:%M:%S %p",
    "%A %d %B %Y %H:%M:%S": "%A %d %B %Y %H:%M:%S",
}
OFFSETS = ("Z", "+00", "+0000", "+00:00", " UTC", "offset", " offset")


@dataclass
class Case:
    """A file to be written: times and prices, and everything about how they are spelled."""

    times: list[datetime]
    ticks: list[list[int]]
    decimals: int
    kind: str
    spelling: tuple[str, str]
    zone: str
    order: str
    delimiter: str
    decimal: str
    thousands: str
    extra: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def prices(self) -> np.ndarray:
        return np.array([[float(f"{t}e-{self.decimals}") for t in bar] for bar in self.ticks])

    def time(self, moment: datetime) -> str:
        family, form = self.spelling
        if family == "epoch":
            return str(int(moment.timestamp()) * EPOCHS[form])
        if family == "float":
            return f"{int(moment.timestamp()) * EPOCHS[form]}.0"
        local = moment.astimezone(ZoneInfo(self.zone))
        if family == "naive":
            return local.strftime(form)
        offset = local.strftime("%z") if "offset" in form else form.strip()
        shown = local if "offset" in form else moment
        return shown.strftime("%Y-%m-%d %H:%M:%S") + (" " if form.startswith(" ") else "") + offset

    def price(self, value: int) -> str:
        text = f"{value:0{self.decimals + 1}d}"
        whole, part = (
            (text, "") if not self.decimals else (text[: -self.decimals], text[-self.decimals :])
        )
        if self.thousands:
            groups = f"{int(whole):,}".replace(",", self.thousands)
            whole = groups
        return f"{whole}{self.decimal}{part}" if part else whole


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num = draw(st.integers(4, 12))
    step = draw(st.sampled_from(STEPS))
    begin = datetime(1971, 1, 2, tzinfo=UTC) + timedelta(
        seconds=draw(st.integers(0, 54 * 365 * 24)) * 3600
    )
    skips = draw(st.lists(st.booleans(), min_size=num, max_size=num))
    moments = [begin + timedelta(seconds=step * k) for k in range(num) if k < 3 or not skips[k]]
    decimals = draw(st.integers(0, 8))
    low = draw(st.integers(1, 10**6))
    ticks = []
    for _ in moments:
        a, b, c, d = sorted(draw(st.tuples(*[st.integers(low, low + 1000)] * 4)))
        ticks.append([b, d, a, c] if draw(st.booleans()) else [c, d, a, b])
    kind = draw(st.sampled_from(["csv", "csv", "csv", "parquet", "feather", "json lines", "json"]))
    family = draw(st.sampled_from(["epoch", "float", "naive", "offset"]))
    forms = {"epoch": EPOCHS, "float": ("s", "ms", "us"), "naive": NAIVE, "offset": OFFSETS}
    form = draw(st.sampled_from(list(forms[family])))
    decimal = draw(st.sampled_from([".", ","])) if kind == "csv" else "."
    thousands = draw(st.sampled_from(["", {".": ",", ",": "."}[decimal]])) if kind == "csv" else ""
    delimiter = draw(st.sampled_from([",", ";", "\t"]))
    if delimiter in (decimal, thousands) or (delimiter == "," and "," in form):
        delimiter = ";"
    return Case(
        times=moments, ticks=ticks, decimals=decimals, kind=kind, spelling=(family, form),
        zone=draw(st.sampled_from(ZONES)), delimiter=delimiter, decimal=decimal,
        thousands=thousands, order=draw(st.sampled_from(["up", "up", "down", "shuffled"])),
        extra=tuple(draw(st.lists(st.sampled_from(["volume", "index", "note"]), unique=True))),
    )  # fmt: skip


def write(case: Case, folder: Path, permutation: np.ndarray) -> tuple[Path, dict[str, Any]]:
    """Write a case's file; return it and the options that say what the file does not."""
    family, form = case.spelling
    columns: dict[str, list[Any]] = {"time": [case.time(t) for t in case.times]}
    for k, name in enumerate(("open", "high", "low", "close")):
        columns[name] = [case.price(bar[k]) for bar in case.ticks]
    extra = {"volume": ["1.2K", "-", "7"], "index": ["0", "1", "2"], "note": ["a", "b", ""]}
    for name in case.extra:
        columns["" if name == "index" else name] = [
            extra[name][k % 3] for k in range(len(case.times))
        ]
    columns = {k: [v[i] for i in permutation] for k, v in columns.items()}
    options: dict[str, Any] = {}
    if family == "naive":
        options = {"timezone": case.zone, "time_format": NAIVE[form]}
    if case.order == "shuffled":
        options["repairs"] = ("sort",)
    path = folder / "bars"
    if case.kind == "csv":
        if case.decimal != ".":
            options["decimal"] = case.decimal
        if case.thousands:
            options["thousands"] = case.thousands
        rows = zip(*columns.values(), strict=True)
        lines = [case.delimiter.join(columns), *(case.delimiter.join(r) for r in rows)]
        path.write_text("# made\n" * len(case.extra) + "\n".join(lines) + "\n")
        return path, options
    typed = {k: [float(x) for x in v] if k in ("open", "high", "low", "close") else v
             for k, v in columns.items()}  # fmt: skip
    if family in ("epoch", "float"):
        typed["time"] = [int(float(x)) if family == "epoch" and form != "ns" else x
                         for x in columns["time"]]  # fmt: skip
        typed["time"] = [int(x) if family == "epoch" else float(x) for x in columns["time"]]
    if case.kind == "parquet":
        pq.write_table(pa.table(typed), path)
    elif case.kind == "feather":
        feather.write_feather(pa.table(typed), path)
    else:
        rows = [dict(zip(typed, r, strict=True)) for r in zip(*typed.values(), strict=True)]
        text = json.dumps(rows) if case.kind == "json" else "\n".join(map(json.dumps, rows))
        path.write_text(text)
    return path, options


def may_be_refused(case: Case, error: MoolaError) -> bool:
    """Whether a refusal is right.

    It is of hours that a zone has twice or not at all, of a bar by itself, and of epochs whose
    digits mostly read as dates of the calendar.
    """
    text = str(error)
    if "others of its column are dates" in text and "--epoch-unit" in text:
        return True
    zone = case.spelling[0] == "naive" and ("exist" in text or "mbiguous" in text)
    return zone or "--accept" in text


def check(case: Case, seed: int) -> None:
    n = len(case.times)
    permutation = np.arange(n)[:: -1 if case.order == "down" else 1]
    if case.order == "shuffled":
        permutation = np.random.default_rng(seed).permutation(n)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, options = write(case, folder, permutation)
        try:
            convert(path, folder / "out.parquet", IngestOptions(**options))
        except MoolaError as error:
            if not may_be_refused(case, error):
                raise
            return
        bars = read_bars(folder / "out.parquet")
    assert bars.time.tolist() == [t.replace(tzinfo=None) for t in case.times]
    assert np.array_equal(bars.ohlc, case.prices)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.medium
@settings(max_examples=150, deadline=None, suppress_health_check=QUIET, derandomize=True)
@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_bars_come_back_exact_or_are_refused(case, seed):
    check(case, seed)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=QUIET)
@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_bars_come_back_exact_or_are_refused_in_the_large(case, seed):
    check(case, seed)
