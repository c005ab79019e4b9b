"""Bar files: read, refused where prices or times cannot be, repeated blocks and gaps found."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import SHIPPED, bars_of, flat, hours, walk, write_bars

from moola.data.bars import (
    check_bars,
    gap_mask,
    read_bars,
    repeated_mask,
)
from moola.data.repeats import RepeatedBlock, find_repeated_blocks
from moola.errors import DataError


def test_bars_survive_the_disk(tmp_path):
    bars = bars_of(walk(30))
    read = read_bars(write_bars(tmp_path, bars))
    assert read.name == "walk"
    assert len(read) == 30
    assert np.array_equal(read.ohlc, bars.ohlc)
    assert np.array_equal(read.time, bars.time)
    assert len(read.sha256) == 64


def test_an_absent_file_names_those_that_are_there(tmp_path):
    write_bars(tmp_path, bars_of(walk(5)))
    with pytest.raises(DataError, match=r"other.parquet does not exist; expected one of: walk"):
        read_bars(tmp_path / "bars" / "other.parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_bars(tmp_path / "x.parquet")


def test_a_truncated_file_is_refused(tmp_path):
    path = write_bars(tmp_path, bars_of(walk(50)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        read_bars(path)


def test_a_missing_column_is_refused(tmp_path):
    pq.write_table(pa.table({"timestamp": hours(3), "open": [1.0, 1, 1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="timestamp, open, high, low, close"):
        read_bars(tmp_path / "x.parquet")


def test_a_column_of_texts_is_refused(tmp_path):
    columns = {c: ["a", "b"] for c in ("open", "high", "low", "close")}
    pq.write_table(pa.table({"timestamp": hours(2), **columns}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="wrong type"):
        read_bars(tmp_path / "x.parquet")


def test_a_null_price_is_refused(tmp_path):
    columns = {c: [1.0, None] for c in ("open", "high", "low", "close")}
    pq.write_table(pa.table({"timestamp": hours(2), **columns}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"not a positive number in 1 bars, first row 1"):
        read_bars(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (2, 0, np.nan, "not a positive number in 1 bars, first row 2"),
        (3, 1, np.inf, "not a positive number in 1 bars, first row 3"),
        (0, 2, -1.0, "not a positive number in 1 bars, first row 0"),
        (1, 3, 0.0, "not a positive number in 1 bars, first row 1"),
        (2, 1, 9.0, "high below open, low or close in 1 bars, first row 2"),
        (4, 2, 10.5, "low above open, high or close in 1 bars, first row 4"),
    ],
)
def test_prices_that_break_their_rules_are_named(row, column, value, message):
    ohlc = flat([10, 10, 10, 10, 10], spread=1.0)
    ohlc[row, column] = value
    with pytest.raises(DataError, match=message):
        check_bars("x", hours(5), ohlc)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 1, 1, 2], "a time not after the one before in 1 bars, first row 2"),
        ([3, 2, 1, 0], "a time not after the one before in 3 bars, first row 1"),
    ],
)
def test_times_must_ascend(rows, message):
    with pytest.raises(DataError, match=message):
        check_bars("x", hours(4)[rows], flat([1, 2, 3, 4], 0.1))


def test_a_missing_time_is_refused():
    time = hours(3)
    time[1] = np.datetime64("NaT")
    with pytest.raises(DataError, match="a missing time in 1 bars, first row 1"):
        check_bars("x", time, flat([1, 2, 3], 0.1))


def test_no_bars_are_refused():
    with pytest.raises(DataError, match="holds no bars"):
        check_bars("x", hours(0), np.empty((0, 4)))


def test_a_repeated_block_is_found_at_its_place():
    ohlc = walk(40)
    ohlc[25:29] = ohlc[10:14]
    assert find_repeated_blocks(ohlc) == [RepeatedBlock(first=10, again=25, num_bars=4)]
    mask = repeated_mask(bars_of(ohlc))
    assert np.flatnonzero(mask).tolist() == [10, 11, 12, 13, 25, 26, 27, 28]


def test_a_block_that_follows_itself_is_found():
    ohlc = walk(20)
    ohlc[8:11] = ohlc[5:8]
    assert find_repeated_blocks(ohlc) == [RepeatedBlock(first=5, again=8, num_bars=3)]


def test_one_equal_bar_and_a_still_market_are_no_repetition():
    ohlc = walk(30)
    ohlc[20] = ohlc[3]
    assert find_repeated_blocks(ohlc) == []
    assert find_repeated_blocks(flat([5.0] * 20)) == []
    assert find_repeated_blocks(ohlc[:1]) == []


def test_min_bars_leaves_out_shorter_blocks():
    ohlc = walk(40)
    ohlc[30:32] = ohlc[2:4]
    assert len(find_repeated_blocks(ohlc, min_bars=2)) == 1
    assert find_repeated_blocks(ohlc, min_bars=3) == []


def test_gaps_are_steps_longer_than_the_usual_one():
    time = np.concatenate([hours(4), hours(3, "2020-01-03T00")])
    assert np.flatnonzero(gap_mask(bars_of(walk(7), time=time))).tolist() == [4]


def test_what_is_known_about_the_shipped_bars():
    btc, eur = (read_bars(SHIPPED / f"{n}.parquet") for n in ("btcusd_1h", "eurusd_1h"))
    assert (len(btc), len(eur)) == (20_111, 6_225)
    (block,) = find_repeated_blocks(btc.ohlc)
    assert block.num_bars == 5
    assert str(btc.time[block.first]) == "2017-11-11T23:00:00.000000"
    assert str(btc.time[block.again]) == "2017-11-12T04:00:00.000000"
    assert int((btc.ohlc[:, 1] == btc.ohlc[:, 2]).sum()) == 30
    assert int(gap_mask(eur).sum()) == 52
    assert find_repeated_blocks(eur.ohlc) == []
