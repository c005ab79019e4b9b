"""The quality report: gaps, repeated blocks, flat bars and jumps, found without being told."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import SHIPPED, bars_of, hours, walk, write_bars
from ingest_kit import HEAD, put, row

from moola.data.ingest import ingest
from moola.data.ingest.quality import assess
from moola.data.repeats import find_repeated_blocks

pytestmark = pytest.mark.medium  # every ingest draws the quality report


def test_the_shipped_bars_are_judged_without_being_told(tmp_path):
    btc, eur = (
        ingest(SHIPPED / f"{n}.parquet", n, tmp_path).report for n in ("btcusd_1h", "eurusd_1h")
    )
    assert btc.counts == {
        "gaps": 0, "repeated_blocks": 1, "flat_bars": 30, "flat_runs": 4, "jumps": 13,
    }  # fmt: skip
    (block,) = btc.findings["repeated_blocks"]
    assert block.num_bars == 5
    assert block.time == "2017-11-12T04:00:00.000000"
    assert "5 bars from 2017-11-11T23:00:00" in block.detail
    assert eur.counts["gaps"] == 52
    weekends = [g for g in eur.findings["gaps"] if 48 <= g.size <= 50]
    assert len(weekends) == 51
    assert (btc.bar_seconds, eur.bar_seconds) == (3600.0, 3600.0)


def test_the_page_needs_nothing_else(tmp_path):
    done = ingest(SHIPPED / "eurusd_1h.parquet", "eurusd_1h", tmp_path)
    page = done.page_path.read_text()
    assert page.startswith("<!doctype html>")
    assert "data:image/png;base64," in page
    assert "49 hours after 2017-01-06T21:00" in page
    assert not any(link in page for link in ("http:", "https:", "<script", 'href="'))
    quiet = ingest(put(tmp_path, HEAD + row(1, 1, 1, 1, 1)), "one", tmp_path)
    assert "None found." in quiet.page_path.read_text()


@pytest.mark.parametrize("batch", [3, 7, 1000])
def test_the_report_by_hand_whatever_the_batches(tmp_path, monkeypatch, batch):
    ohlc = walk(60)
    ohlc[40:44] = ohlc[10:14]
    for k in (0, 20, 21, 22, 59):
        ohlc[k] = ohlc[k, 3]
    time = np.concatenate([hours(30), hours(30, "2020-01-05T00")])
    path = write_bars(tmp_path, bars_of(ohlc, time=time))
    monkeypatch.setattr("moola.data.ingest.quality_scan._BATCH_ROWS", batch)
    report = assess(path, jump_mad=1e9)
    assert report.counts == {
        "gaps": 1, "repeated_blocks": 1, "flat_bars": 5, "flat_runs": 1, "jumps": 0,
    }  # fmt: skip
    (gap,) = report.findings["gaps"]
    # 29th hour of 2020-01-02 05:00 to 2020-01-05 00:00: 67 hours, 66 bars missing
    assert (gap.row, gap.num_bars, gap.size) == (30, 66, 67.0)
    (block,) = report.findings["repeated_blocks"]
    (known,) = find_repeated_blocks(ohlc)
    assert (block.row, block.num_bars) == (known.again, known.num_bars) == (40, 4)
    assert [(f.row, f.num_bars) for f in report.findings["flat_runs"]] == [(0, 1), (20, 3), (59, 1)]
    changes = np.diff(ohlc[:, 3]) / ohlc[:-1, 3]
    assert report.change_median == pytest.approx(np.median(changes), rel=1e-5)
    mad = np.median(np.abs(changes - np.median(changes)))
    assert report.change_mad == pytest.approx(mad, rel=1e-4)
    limit = float(np.sort(np.abs(changes - np.median(changes)))[-3] / mad) - 0.01
    assert assess(path, jump_mad=limit).counts["jumps"] == 3
