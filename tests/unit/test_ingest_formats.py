"""Ingest: every known format gives the same bars, and a file of no known format is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_kit import HEAD, put

from moola.data.bars import PRICE_COLUMNS, read_bars
from moola.data.ingest import IngestOptions, ingest
from moola.errors import DataError
from moola.times import read_times

pytestmark = pytest.mark.medium  # every ingest draws the quality report

# two bars: 2017-01-01 22:00 and 23:00 UTC
TIMES = ["2017-01-01T22:00:00.000000", "2017-01-01T23:00:00.000000"]
OHLC = [[1.10, 1.30, 1.00, 1.20], [1.20, 1.25, 1.15, 1.22]]
BINANCE = "{0},1.10,1.30,1.00,1.20,5,{1},6,7,2,3,0\n{2},1.20,1.25,1.15,1.22,5,{3},6,7,2,3,0\n"
MS = (1483308000000, 1483311599999, 1483311600000, 1483315199999)
FILES = {
    "Binance klines, ms": (BINANCE.format(*MS), {}),
    "Binance klines, us": (BINANCE.format(*(1000 * m for m in MS)), {}),
    "Binance klines, ms then us": (
        BINANCE.format(MS[0], MS[1], MS[2] * 1000, MS[3] * 1000), {}),
    "Binance klines with a header": (
        "open_time,open,high,low,close,volume,close_time,a,b,c,d,e\n" + BINANCE.format(*MS), {}),
    "CryptoDataDownload, newest first": (
        "https://www.CryptoDataDownload.com\n"
        "Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USD\n"
        "2017-01-01 11-PM,BTCUSD,1.20,1.25,1.15,1.22,5,6\n"
        "2017-01-01 10-PM,BTCUSD,1.10,1.30,1.00,1.20,5,6\n", {}),
    "CryptoDataDownload, seconds and milliseconds mixed": (
        "Timestamps are UTC,https://www.CryptoDataDownload.com\n"
        "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD\n"
        "1483311600000,2017-01-01 23:00:00,BTC/USD,1.20,1.25,1.15,1.22,5,6\n"
        "1483308000,2017-01-01 22:00:00,BTC/USD,1.10,1.30,1.00,1.20,5,6\n", {}),
    "Dukascopy": (
        "Gmt time,Open,High,Low,Close,Volume\n"
        "01.01.2017 22:00:00.000,1.10,1.30,1.00,1.20,5\n"
        "01.01.2017 23:00:00.000,1.20,1.25,1.15,1.22,5\n", {}),
    "Dukascopy, local time with offsets": (
        "Local time,Open,High,Low,Close,Volume\n"
        "01.01.2017 23:00:00.000 GMT+0100,1.10,1.30,1.00,1.20,5\n"
        "01.01.2017 18:30:00.000 GMT-0430,1.20,1.25,1.15,1.22,5\n", {}),
    "Databento, fixed point": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "1483308000000000000,34,1,42,1100000000,1300000000,1000000000,1200000000,5,ESZ7\n"
        "1483311600000000000,34,1,42,1200000000,1250000000,1150000000,1220000000,5,ESZ7\n", {}),
    "Databento, pretty": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "2017-01-01T22:00:00.000000000Z,34,1,42,1.10,1.30,1.00,1.20,5,ESZ7\n"
        "2017-01-01T23:00:00.000000000Z,34,1,42,1.20,1.25,1.15,1.22,5,ESZ7\n", {}),
    "yfinance, header of three lines": (
        "Price,Close,High,Low,Open,Volume\nTicker,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X\n"
        "Datetime,,,,,\n2017-01-01 22:00:00+00:00,1.20,1.30,1.00,1.10,5\n"
        "2017-01-01 23:00:00+00:00,1.22,1.25,1.15,1.20,5\n", {}),
    "yfinance, two tickers": (
        "Price,Close,Close,High,High,Low,Low,Open,Open\nTicker,A,B,A,B,A,B,A,B\nDatetime,,,,,,,,\n"
        "2017-01-01 22:00:00+00:00,9,1.20,9,1.30,9,1.00,9,1.10\n"
        "2017-01-01 23:00:00+00:00,9,1.22,9,1.25,9,1.15,9,1.20\n", {"symbol": "B"}),
    "MetaTrader 5, tabs": (
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        "2017.01.01\t22:00:00\t1.10\t1.30\t1.00\t1.20\t5\t0\t1\n"
        "2017.01.01\t23:00:00\t1.20\t1.25\t1.15\t1.22\t5\t0\t1\n", {}),
    "MetaTrader 4, no header": (
        "2017.01.01,22:00,1.10,1.30,1.00,1.20,5\n2017.01.01,23:00,1.20,1.25,1.15,1.22,5\n", {}),
    "a zone of its own": (
        "Date;Open;High;Low;Close\n2017-01-01 23:00;1.10;1.30;1.00;1.20\n"
        "2017-01-02 00:00;1.20;1.25;1.15;1.22\n", {"timezone": "Europe/Berlin"}),
    "columns and time format given": (
        "01/01/2017 22:00,1.10,1.30,1.00,1.20\n01/01/2017 23:00,1.20,1.25,1.15,1.22\n",
        {"columns": ("time", "open", "high", "low", "close"), "time_format": "%m/%d/%Y %H:%M"}),
    "one of two instruments": (
        "timestamp,symbol,open,high,low,close\n1483308000,X,1.10,1.30,1.00,1.20\n"
        "1483308000,Y,9,9,9,9\n1483311600,X,1.20,1.25,1.15,1.22\n", {"symbol": "X"}),
    "UTC spelled out, byte order mark": (
        "\ufefftime,open,high,low,close\n2017-01-01 22:00:00 UTC,1.10,1.30,1.00,1.20\n"
        "2017-01-01 23:00:00 UTC,1.20,1.25,1.15,1.22\n", {}),
}  # fmt: skip
# What ingest calls formats that are no source's own; the others are called as their case begins.
UNNAMED = {
    "a zone of its own": "CSV with a header",
    "columns and time format given": "own columns",
    "one of two instruments": "CSV with a header",
    "UTC spelled out, byte order mark": "CSV with a header",
}


@pytest.mark.parametrize("case", list(FILES))
def test_every_known_format_gives_the_same_two_bars(tmp_path, case):
    text, options = FILES[case]
    done = ingest(put(tmp_path, text), "x", tmp_path / "bars", IngestOptions(**options))
    bars = read_bars(done.path)
    assert [str(t) for t in bars.time] == TIMES
    assert bars.ohlc.tolist() == OHLC
    told = done.report.facts["format"]
    assert told == UNNAMED[case] if case in UNNAMED else case.startswith(told)
    newest = "newest first" in case or "mixed" in case
    assert done.report.facts["order"] == ("newest first" if newest else "oldest first")


def test_a_compressed_file_is_read(tmp_path):
    path = tmp_path / "file.csv.gz"
    with pa.output_stream(str(path), compression="gzip") as stream:
        stream.write(FILES["Dukascopy"][0].encode())
    assert read_bars(ingest(path, "x", tmp_path / "bars").path).ohlc.tolist() == OHLC


@pytest.mark.parametrize("kind", ["timestamps", "integers", "fixed point", "pandas levels"])
def test_parquet_in_its_usual_shapes(tmp_path, kind):
    prices = {k: np.array(OHLC)[:, i] for i, k in enumerate(("open", "high", "low", "close"))}
    time = pa.array(np.array(TIMES, dtype="datetime64[us]"))
    if kind == "integers":
        time = pa.array([1483308000, 1483311600])
    if kind == "fixed point":
        prices = {k: np.rint(v * 1e9).astype(np.int64) for k, v in prices.items()}
        same = {"rtype": [34, 34], "publisher_id": [1, 1], "instrument_id": [42, 42]}
        columns = {"ts_event": time, **same, **prices}
    elif kind == "pandas levels":
        columns = {f"('{k.title()}', 'EURUSD=X')": v for k, v in prices.items()}
        columns["Datetime"] = time
    else:
        columns = {"Timestamp": time, **prices}
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    bars = read_bars(ingest(tmp_path / "f.parquet", "x", tmp_path / "bars").path)
    assert [str(t) for t in bars.time] == TIMES
    assert bars.ohlc.tolist() == OHLC


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_epochs_as_floats_have_the_unit_their_size_tells(tmp_path, factor):
    """As pandas writes a column of whole numbers that holds a NaN."""
    columns = {k: np.r_[np.array(OHLC)[:, i], 1.0] for i, k in enumerate(PRICE_COLUMNS)}
    time = np.array([1483308000 * factor, 1483311600 * factor, np.nan])
    pq.write_table(pa.table({"unix": time, **columns}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"1 of 3 rows .* have no time .* first is data row 2"):
        ingest(tmp_path / "f.parquet", "x", tmp_path / "bars")
    options = IngestOptions(repairs=("drop-missing",))
    bars = read_bars(ingest(tmp_path / "f.parquet", "x", tmp_path / "bars", options).path)
    assert [str(t) for t in bars.time] == TIMES
    assert bars.ohlc.tolist() == OHLC


def test_float_seconds_keep_their_fraction():
    times = read_times(pa.array([1483308000.25, 1483308001.0, None, np.inf]))
    assert times.cast(pa.int64()).to_pylist() == [1483308000250000, 1483308001000000, None, None]


@pytest.mark.parametrize("seconds", [-(10**11) + 1, 10**10])
def test_a_time_of_no_year_a_bar_can_have_is_refused(tmp_path, seconds):
    table = pa.table({"unix": [seconds], **{k: [1.0] for k in PRICE_COLUMNS}})
    pq.write_table(table, tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"no epoch of the years 1971 to 2099|in the year"):
        ingest(tmp_path / "f.parquet", "x", tmp_path / "bars")
    with pytest.raises(DataError, match=r"lies in the year \S+; expected a year from 1678 to 2261"):
        ingest(tmp_path / "f.parquet", "x", tmp_path / "bars", IngestOptions(epoch_unit="s"))
    assert not list((tmp_path / "bars").iterdir())


def test_a_text_among_the_prices_of_a_parquet_file_is_one_line(tmp_path):
    columns = {k: ["1", "1"] for k in ("open", "high", "low", "close")}
    table = {"timestamp": [1483308000, 1483311600], **columns, "close": ["1", "n/a"]}
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"f.parquet \(parquet\) cannot be read: .*'n/a'") as caught:
        ingest(tmp_path / "f.parquet", "x", tmp_path / "bars")
    assert "expected numbers in open, high, low, close" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "x,y\n1,2\n", "missing: open, high, low, close"),
        ("a.csv", "1,2,3\n", "3 columns and no header"),
        ("a.csv", "", "holds no rows"),
        ("a.zip", "PK", "Unpack it first"),
        ("a.parquet", "PAR1 broken", "cannot be read"),
        ("a.csv", "a\0b", "is no text"),
        ("a.csv", "time,open,open,high,low,close\n1,1,1,1,1,1\n", "names a column twice"),
    ],
)
def test_files_of_no_known_format_are_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        ingest(put(tmp_path, content, name), "x", tmp_path / "bars")
    with pytest.raises(DataError, match="does not exist"):
        ingest(tmp_path / "nothing.csv", "x", tmp_path / "bars")


def test_a_time_that_does_not_exist_in_its_zone_is_refused(tmp_path):
    text = HEAD + "2017-03-26 02:30,1,1,1,1\n"
    with pytest.raises(DataError, match=r"2017-03-26 02:30|nonexistent|doesn't exist"):
        ingest(put(tmp_path, text), "x", tmp_path, IngestOptions(timezone="Europe/Berlin"))
    with pytest.raises(DataError, match="cannot be read"):
        ingest(put(tmp_path, text), "x", tmp_path, IngestOptions(timezone="Mars/Olympus"))


def test_several_instruments_are_refused_until_one_is_chosen(tmp_path):
    text = FILES["one of two instruments"][0]
    with pytest.raises(DataError, match=r"column symbol: X, Y. .*--where symbol=X"):
        ingest(put(tmp_path, text), "x", tmp_path / "bars")
    with pytest.raises(
        DataError, match=r"holds 2 tickers and --symbol is None; expected one of A, B"
    ):
        ingest(put(tmp_path, FILES["yfinance, two tickers"][0]), "x", tmp_path / "bars")
    with pytest.raises(DataError, match=r"holds no bars of 'Z'; expected --symbol one of X, Y"):
        ingest(put(tmp_path, text), "x", tmp_path / "bars", IngestOptions(symbol="Z"))


def closes(path, name, folder):
    ingest(path, name, folder / "bars")
    return read_bars(folder / "bars" / f"{name}.parquet").ohlc[:, 3].tolist()


def test_the_last_price_is_the_close_where_none_is_called_so(tmp_path):
    rows = [f"2024-01-02 {h:02d}:00,10,12,9,11,9.5" for h in range(9, 12)]
    path = tmp_path / "chart.csv"
    path.write_text("\n".join(["Time,Open,High,Low,Last,Volume", *rows]))
    assert closes(path, "x", tmp_path) == [11.0] * 3
    path.write_text("\n".join(["Time,Open,High,Low,Last,Close", *rows]))
    assert closes(path, "y", tmp_path) == [9.5] * 3


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Time,Open,High,Low,Final,Volume", "time,open,high,low,close,volume"),
        ("a,b,c,d,e,f", "time,open,high,low,close,f"),
    ],
)
def test_the_columns_of_the_remedy_can_be_typed_as_printed(tmp_path, header, columns):
    path = tmp_path / "bars.csv"
    rows = [f"2024-01-02 {h:02d}:00,10,12,9,11,5" for h in range(9, 12)]
    path.write_text("\n".join([header, *rows]))
    with pytest.raises(DataError, match=f"such as --columns {columns}") as refused:
        ingest(path, "x", tmp_path / "bars")
    named = str(refused.value).rsplit("--columns ", 1)[1].rstrip(".").split(",")
    options = IngestOptions(columns=tuple(named))
    ingest(path, "x", tmp_path / "bars", options)
    assert len(read_bars(tmp_path / "bars" / "x.parquet")) == 3
